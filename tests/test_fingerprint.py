"""Fingerprints against a second implementation, and every verdict of `verify`."""

from __future__ import annotations

import json
import math
import random
import tracemalloc
from hashlib import sha256
from pathlib import Path
from struct import pack

import gguf
import numpy as np
import pytest

import gguf_bytes
import truebits as tb
from hashed_models import FLOATS, VALUES, Stored, every_type, stored, write
from models import finish
from truebits.errors import SelectionError
from truebits.files.mapping import FileChanged
from truebits.report.json import result as manifest_of
from words import SPECIAL, grid


def oracle_tensor(of: Stored) -> bytes:
    """Hash a tensor as the module's text says, through float64."""
    if of.type not in FLOATS:
        pieces = [of.raw[i : i + (1 << 22)] for i in range(0, len(of.raw), 1 << 22)]
        return sha256(b"".join(b"\1" + sha256(piece).digest() for piece in pieces)).digest()
    if of.type == "BF16":
        values = (np.frombuffer(of.raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(of.raw, {"F32": "<f4", "F16": "<f2", "F64": "<f8"}[of.type])
    with np.errstate(invalid="ignore"):
        values = values.astype("<f8")
    values[np.isnan(values)] = np.frombuffer(pack("<Q", 0x7FF8 << 48), "<f8")
    digests = b""
    for piece in np.split(values, range(1 << 20, values.size, 1 << 20)):
        with np.errstate(over="ignore"):
            single = piece.astype("<f4")
        halves = single.view("<u2")
        if not np.array_equal(single.astype("<f8"), piece, equal_nan=True):
            digests += b"\x08" + sha256(piece.tobytes()).digest()
        elif halves[::2].any():
            digests += b"\x04" + sha256(single.tobytes()).digest()
        elif piece.size:
            digests += b"\x02" + sha256(halves[1::2].tobytes()).digest()
    return sha256(digests).digest()


def oracle(tensors: list[Stored]) -> str:
    text = b""
    for of in sorted(tensors):
        kind = b"values" if of.type in FLOATS else of.type.encode()
        shape = list(of.shape)
        while shape[-1:] == [1]:
            shape.pop()
        text += pack("<I", len(of.name)) + of.name + pack("<I", len(kind)) + kind
        text += pack("<I", len(shape)) + b"".join(pack("<Q", size) for size in shape) + oracle_tensor(of)
    return sha256(text).hexdigest()


def read(path: Path) -> list[Stored]:
    """Read a file with gguf-py."""
    return [
        Stored(one.name.encode(), one.tensor_type.name, tuple(map(int, one.shape)), one.data.tobytes())
        for one in gguf.GGUFReader(path).tensors
    ]


@pytest.fixture
def tensors() -> list[Stored]:
    return every_type()


@pytest.fixture
def path(tmp_path, tensors):
    return write(tmp_path / "model.gguf", tensors)


# --- the hash


def test_it_is_what_the_text_says(path, tensors):
    assert read(path) == tensors
    got = tb.fingerprint(path)
    assert [bytes.fromhex(one.hash) for one in got.tensors] == [oracle_tensor(of) for of in tensors]
    assert [(one.name.encode(), one.type, one.shape) for one in got.tensors] == [of[:3] for of in tensors]
    assert [one.kind for one in got.tensors] == ["values"] * 4 + ["bytes"] * 3
    assert [one.values for one in got.tensors] == [math.prod(of.shape) for of in tensors]
    assert got.value == oracle(tensors[:4])
    assert got.whole == oracle(tensors)


def test_it_stays_what_it_is(tmp_path):
    """A manifest must be good for years."""
    path = write(tmp_path / "model.gguf", [stored("a", VALUES), stored("b", np.array([0.1, 0.2]), "F64")])
    assert tb.fingerprint(path).value == "9dbc803882f1da5d4bf64c33d5b16a5dea8ad924ad23796a41a190aaf18f917d"


@pytest.mark.parametrize("type", FLOATS)
def test_every_kind_of_word(type, tmp_path):
    words = np.concatenate([grid(type), SPECIAL]) if type == "F32" else grid(type)
    of = Stored(b"a", type, (words.size,), words.tobytes())
    (got,) = tb.fingerprint(write(tmp_path / "model.gguf", [of])).tensors
    assert bytes.fromhex(got.hash) == oracle_tensor(of)


def test_pieces_choose_their_width_each_for_itself(tmp_path):
    values = np.tile(np.arange(4.0), (1 << 18) + 5)
    values[1 << 20] = 0.1
    expected = {type: oracle_tensor(stored("a", values, type)) for type in ("F32", "F64")}
    assert expected["F32"] != expected["F64"]
    for type, hash in expected.items():
        path = write(tmp_path / "model.gguf", [stored("x", VALUES), stored("a", values, type)])
        for threads in (1, 2, 5):
            assert tb.fingerprint(path, threads=threads).tensors[1].hash == hash.hex()


def test_long_quantized_tensors_have_pieces_too(tmp_path):
    raw = np.random.default_rng(4).bytes(34 * (1 << 17))
    of = Stored(b"a", "Q8_0", (1 << 22,), raw)
    (got,) = tb.fingerprint(write(tmp_path / "model.gguf", [of])).tensors
    assert bytes.fromhex(got.hash) == oracle_tensor(of)


@pytest.mark.parametrize("type", FLOATS)
def test_the_same_values_in_any_type(type, tmp_path):
    expected = oracle([stored("a", VALUES), stored("b", VALUES[:3])])
    path = write(tmp_path / "x.gguf", [stored("a", VALUES, type), stored("b", VALUES[:3], type)])
    assert tb.fingerprint(path).value == expected


def test_nan_is_one_value(tmp_path):
    words = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF], "<u4")
    hashes = {
        tb.fingerprint(write(tmp_path / "x.gguf", [Stored(b"a", "F32", (1,), pack("<I", word))])).value
        for word in words.tolist()
    }
    assert hashes == {oracle([stored("a", np.array([np.nan]))])}


def test_order_metadata_and_name_have_no_part(tmp_path, tensors):
    keys = [gguf_bytes.key_value(b"general.name", gguf_bytes.STRING, gguf_bytes.string(b"other"))]
    random.Random(0).shuffle(tensors)
    got = tb.fingerprint(write(tmp_path / "renamed.gguf", tensors, keys))
    assert got.whole == oracle(tensors)


def test_shards_have_no_part(tmp_path):
    values = {f"blk.{i}.norm.weight": np.random.default_rng(i).normal(size=40).astype(np.float32) for i in range(7)}
    for stem, most in (("one", 0), ("many", 2)):
        writer = gguf.GGUFWriter(tmp_path / f"{stem}.gguf", "llama", split_max_tensors=most)
        for name, of in values.items():
            writer.add_tensor(name, of)
        finish(writer)
    sharded = tb.open(tmp_path / "many-00001-of-00004.gguf")
    assert len(sharded.parts) == 4
    expected = oracle([stored(name, of) for name, of in values.items()])
    assert tb.fingerprint(sharded).value == tb.fingerprint(tmp_path / "one.gguf").value == expected


def test_many_small_tensors(tmp_path):
    tensors = [stored(f"t{i}", np.random.default_rng(i).normal(size=i % 40 + 1)) for i in range(500)]
    path = write(tmp_path / "x.gguf", tensors)
    assert {tb.fingerprint(path, threads=threads).value for threads in (1, 2, 7)} == {oracle(tensors)}


def test_empty_scalar_and_trailing_ones(tmp_path):
    one = np.ones(1)
    tensors = [stored("empty", one[:0], shape=(0, 3)), stored("scalar", one, shape=())]
    path = write(tmp_path / "x.gguf", tensors)
    assert tb.fingerprint(path).value == oracle(tensors)
    tensors[1] = stored("scalar", one, "F64", shape=(1, 1, 1))
    assert tb.fingerprint(write(path, tensors)).value == oracle([tensors[0], stored("scalar", one, shape=())])


def changes(of: Stored) -> dict[str, Stored]:
    values = np.frombuffer(of.raw, "<f4")
    other = {"a bit": values.copy(), "the sign of zero": values.copy(), "order": values[::-1]}
    other["a bit"].view("<u4")[3] ^= 1
    other["the sign of zero"][0] = -0.0
    changed = {what: of._replace(raw=new.tobytes()) for what, new in other.items()}
    changed["name"] = of._replace(name=b"b")
    changed["shape"] = of._replace(shape=(6, 2))
    changed["shape with a leading one"] = of._replace(shape=(1, 12))
    return changed


@pytest.mark.parametrize("what", changes(stored("a", VALUES)))
def test_any_change_shows(what, tmp_path):
    path = tmp_path / "x.gguf"
    of = stored("a", VALUES)
    before = tb.fingerprint(write(path, [of])).value
    changed = changes(of)[what]
    after = tb.fingerprint(write(path, [changed])).value
    assert before != after == oracle([changed])


def test_what_f32_does_not_hold_is_not_rounded(tmp_path):
    values = np.array([0.1, 1e300, 5e-324])
    hashes = {
        tb.fingerprint(write(tmp_path / "x.gguf", [stored("a", values[i : i + 1], type)])).value
        for i in range(3)
        for type in ("F64", "F32")
    }
    assert len(hashes) == 6


def test_quantized_tensors_are_in_the_whole_only(tmp_path, tensors):
    path = write(tmp_path / "x.gguf", tensors)
    before = tb.fingerprint(path)
    tensors[5] = tensors[5]._replace(raw=tensors[5].raw[::-1])
    after = tb.fingerprint(write(path, tensors))
    assert after.value == before.value
    assert after.whole == oracle(tensors) != before.whole


def test_without_values_there_is_no_fingerprint(truebits, tmp_path, tensors):
    """A hash of nothing would be the same for all quantized models."""
    path = write(tmp_path / "x.gguf", tensors[4:])
    assert tb.fingerprint(path).value is None
    assert tb.fingerprint(path).whole == oracle(tensors[4:])
    done = truebits("scan", path, "--fingerprint")
    assert (done.returncode, done.stdout[:6]) == (0, "none  ")


def test_selection(path, tensors):
    assert tb.fingerprint(path, "weight", ["blk", "norm"]).whole == oracle(tensors[1:3])
    with pytest.raises(SelectionError, match="no_such"):
        tb.fingerprint(path, "no_such")


def test_progress_reaches_the_end(path, tensors):
    seen = []
    tb.fingerprint(path, progress=lambda *now: seen.append(now))
    total = sum(len(of.raw) for of in tensors)
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


def test_a_file_that_changes_is_noticed(path, tensors):
    model = tb.open(path)
    write(path, tensors)
    with pytest.raises(FileChanged):
        tb.fingerprint(model)


def test_memory_stays_flat(tmp_path):
    path = tmp_path / "zeros.gguf"
    size = 128 << 20
    head = gguf_bytes.gguf([], [gguf_bytes.tensor(b"a", (size // 4,))])
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(len(head) + size)
    tb.fingerprint(path, threads=2)  # imports
    tracemalloc.start()
    got = tb.fingerprint(path, threads=2).tensors[0].hash
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert got == sha256((b"\2" + sha256(bytes(2 << 20)).digest()) * 32).hexdigest()
    assert peak < 40 << 20


@pytest.fixture
def manifest(path, tmp_path):
    file = tmp_path / "manifest.json"
    file.write_text(manifest_of(tb.fingerprint(path)))
    return file


# --- the command line


def test_scan_prints_it(truebits, path, tensors):
    done = truebits("scan", path, "--fingerprint")
    assert done.returncode == 0
    assert done.stdout == (
        f"{oracle(tensors[:4])}  model.gguf: 216 values of 4 tensors; "
        "not in it: 3 tensors of block-quantized or integer type\n"
    )
    _, *rows = truebits("scan", path, "--fingerprint", "-o", "csv", "-l", "norm").stdout.splitlines()
    assert rows == [f"norm.weight,F32,96,96,values,{oracle_tensor(tensors[0]).hex()}"]


def test_scan_json_is_the_manifest(truebits, path, tensors):
    done = truebits("scan", path, "--fingerprint", "--json", "--threads", 1)
    document = json.loads(done.stdout)
    rows, coverage = document.pop("tensors"), document.pop("coverage")
    assert coverage["tensors_read"] == coverage["tensors"] == len(tensors)
    assert document == {
        "schema": "truebits.fingerprint/1",
        "file": str(path),
        "algorithm": "sha256",
        "fingerprint": oracle(tensors[:4]),
        "whole": oracle(tensors),
    }
    assert rows[1] == {
        "name": "output.weight",
        "type": "F16",
        "shape": [6, 2],
        "values": 12,
        "kind": "values",
        "hash": oracle_tensor(tensors[1]).hex(),
    }


@pytest.mark.parametrize(
    "option", [["--bits", "16"], ["--by-tensor"], ["--low-bits-only"], ["--bits-view", "norm.weight"]]
)
def test_scan_refuses_what_says_nothing_of_it(truebits, option, path):
    done = truebits("scan", path, "--fingerprint", *option)
    assert (done.returncode, done.stdout) == (2, "")
    assert option[0] in done.stderr
