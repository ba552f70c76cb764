"""A new file of a model whose tensors are of other types."""

import os

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from gguf_bytes import ARRAY, STRING, U8, U32, alignment, array, key_value, scalar, string, tensor
from gguf_bytes import gguf as gguf_bytes
from traced_pair import a_gguf
from truebits.errors import VerificationFailed
from truebits.files.model import open_model
from truebits.rewriting.outputs import new_files
from truebits.rewriting.relaid import Relaid, copied, gguf_head, safetensors_head, write

VALUES = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(1, np.float32),
    "c": np.zeros((4, 8), np.float32),
}


def relaid(name, values, type="F32"):
    data = values.view(np.uint8).ravel()

    def pieces():
        for at in range(0, data.size, 7):
            yield data[at : at + 7]

    return Relaid(name, type, values.shape, data.size, pieces)


def written(path, head, tensors, offsets):
    steps = []
    with new_files([path]) as (out,):
        write(out, head, tensors, offsets, steps.append)
    assert sum(steps) == path.stat().st_size
    return path


KEYS = [
    key_value(b"general.architecture", STRING, string(b"llama")),
    key_value(b"general.file_type", U32, scalar(U32, 15)),
    key_value(b"odd\xff", ARRAY, array(U8, [b"\1", b"\2"])),
]


@pytest.mark.parametrize("aligned", [None, 8, 64])
def test_a_gguf_is_read_by_gguf_py(tmp_path, aligned):
    keys = [KEYS[0], KEYS[1], *([alignment(aligned)] if aligned else [])]
    (tmp_path / "old.gguf").write_bytes(gguf_bytes(keys, [tensor(b"x")], bytes(32), aligned=aligned or 32))
    part = open_model(tmp_path / "old.gguf").parts[0]
    tensors = [relaid(name, values) for name, values in VALUES.items()]
    head, offsets = gguf_head(part, [one._replace(shape=one.shape[::-1]) for one in tensors], 0)
    path = written(tmp_path / "new.gguf", head, tensors, offsets)
    reader = gguf.GGUFReader(path)
    assert {one.name: one.data.tolist() for one in reader.tensors} == {n: v.tolist() for n, v in VALUES.items()}
    assert reader.fields["general.file_type"].contents() == 0
    assert open_model(path).parts[0].findings == ()
    assert {offset % (aligned or 32) for offset in offsets} == {0}


def test_metadata_is_carried_over_byte_for_byte(tmp_path):
    (tmp_path / "old.gguf").write_bytes(gguf_bytes(KEYS, [tensor(b"x")], bytes(32)))
    part = open_model(tmp_path / "old.gguf").parts[0]
    kept, _ = gguf_head(part, [], None)
    changed, _ = gguf_head(part, [], 1)
    assert kept.startswith(gguf_bytes(KEYS))
    assert changed.startswith(gguf_bytes([KEYS[0], key_value(b"general.file_type", U32, scalar(U32, 1)), KEYS[2]]))


def test_a_file_type_is_not_added(tmp_path):
    (tmp_path / "old.gguf").write_bytes(gguf_bytes([KEYS[0]]))
    part = open_model(tmp_path / "old.gguf").parts[0]
    assert gguf_head(part, [], 1) == gguf_head(part, [], None)


@pytest.mark.parametrize("metadata", [{}, {"format": "pt", "ü": '"\\'}])
def test_safetensors_are_read_by_the_formats_own_package(tmp_path, metadata):
    tensors = [relaid(name, values) for name, values in VALUES.items()]
    head, offsets = safetensors_head(metadata, tensors)
    path = written(tmp_path / "new.safetensors", head, tensors, offsets)
    assert {name: values.tolist() for name, values in load_file(path).items()} == {
        n: v.tolist() for n, v in VALUES.items()
    }
    model = open_model(path)
    assert {key: model.value(key) for key in metadata} == metadata
    assert offsets[0] % 8 == 0


@pytest.mark.parametrize("size", [1, 40, 1 << 22])
def test_a_tensor_as_it_stands(tmp_path, monkeypatch, size):
    monkeypatch.setattr("truebits.rewriting.relaid.READ_BYTES", size)
    model = a_gguf(tmp_path / "m.gguf", a=("F32", np.arange(50, dtype=np.uint32)))
    with model.parts[0].map() as file:
        got = copied(file, model.tensors[0])
        pieces = [piece.copy() for piece in got.pieces()]
    assert (got.name, got.type, got.shape, got.nbytes) == ("a", "F32", (50,), 200)
    assert np.concatenate(pieces).view(np.uint32).tolist() == list(range(50))
    assert max(piece.size for piece in pieces) <= size


def test_a_tensor_of_another_length_than_promised(tmp_path):
    one = relaid("a", VALUES["a"])
    head, offsets = safetensors_head({}, [one])
    wrong = one._replace(pieces=lambda: iter([np.zeros(23, np.uint8)]))
    with pytest.raises(VerificationFailed, match="a tensor has 23 bytes, expected 24"):
        written(tmp_path / "new", head, [wrong], offsets)
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_back_must_be_what_was_written(tmp_path, monkeypatch):
    write_at = os.pwrite

    def spoiled(descriptor, data, offset):
        return write_at(descriptor, bytes(len(data)) if offset else data, offset)

    one = relaid("a", VALUES["a"])
    head, offsets = safetensors_head({}, [one])
    monkeypatch.setattr(os, "pwrite", spoiled)
    with pytest.raises(VerificationFailed, match="what is read back is not what was written"):
        written(tmp_path / "new", head, [one], offsets)
    assert list(tmp_path.iterdir()) == []
