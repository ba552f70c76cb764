"""safetensors files and folders as what is written: read back by the format's own package."""

import json

import gguf
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import truebits as tb
from models import finish
from safetensors_bytes import safetensors
from truebits.errors import Refused, UsageError
from truebits.rewriting import durable, outputs

RANDOM = np.random.default_rng(11)
TENSORS = {
    "embed.weight": RANDOM.standard_normal((40, 96)).astype(np.float32),
    "layers.0.norm.weight": RANDOM.standard_normal(48).astype(np.float32),
    "layers.0.mlp.weight": RANDOM.standard_normal((48, 64)).astype(np.float16),
    "layers.1.mlp.weight": RANDOM.standard_normal((48, 64)).astype(ml_dtypes.bfloat16),
    "positions": np.arange(48, dtype=np.int64),
}
TOP_HALF = np.uint32(0xFFFF0000)


def read(path):
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def expected_after_cut():
    cut = {
        name: (values.view(np.uint32) & TOP_HALF).view(np.float32) if values.dtype == np.float32 else values
        for name, values in TENSORS.items()
    }
    return {name: values.tobytes() for name, values in cut.items()}


def as_bytes(tensors):
    return {name: values.tobytes() for name, values in tensors.items()}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, {"format": "pt"})
    return path


@pytest.fixture
def folder(tmp_path):
    """Two shards, their index, and what else a folder has: settings, a subfolder, other weights, a link out of it."""
    path = tmp_path / "model"
    (path / "pooling").mkdir(parents=True)
    (path / ".git").mkdir()
    names = list(TENSORS)
    files = {"model-00001-of-00002.safetensors": names[:2], "model-00002-of-00002.safetensors": names[2:]}
    for name, some in files.items():
        save_file({one: TENSORS[one] for one in some}, path / name, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {one: name for name, some in files.items() for one in some}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "pooling" / "config.json").write_text("{}")
    (path / "pytorch_model.bin").write_bytes(b"the old values")
    (tmp_path / "secret").write_text("of another program")
    (path / "tokenizer.json").symlink_to(tmp_path / "secret")
    return path


COPIED = [
    *("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    *("model.safetensors.index.json", "pooling", "pooling/config.json"),
]


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def tensors_of(folder):
    return {name: values for path in folder.glob("*.safetensors") for name, values in as_bytes(read(path)[0]).items()}


def test_a_file(file, tmp_path):
    before, out = file.read_bytes(), tmp_path / "out.safetensors"
    assert tb.truncate(file, out, bits=16).changed
    got, metadata = read(out)
    assert (as_bytes(got), metadata) == (expected_after_cut(), {"format": "pt"})
    assert file.read_bytes() == before


def test_a_folder(folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    assert tb.truncate(folder, out, bits=16).written
    assert names(out) == COPIED
    assert tensors_of(out) == expected_after_cut()
    assert (out / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert all(path.read_bytes() == content for path, content in before.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out", "secret"]


def test_a_snapshot_of_the_cache_brings_what_its_links_lead_to(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "main", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file(TENSORS, blobs / "1")
    (blobs / "2").write_text("{}")
    (snapshot / "model.safetensors").symlink_to(blobs / "1")
    (snapshot / "config.json").symlink_to(blobs / "2")
    tb.truncate(snapshot, tmp_path / "out", bits=16)
    assert names(tmp_path / "out") == ["config.json", "model.safetensors"]
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert tensors_of(tmp_path / "out") == expected_after_cut()


@pytest.mark.parametrize("to", ["fp8_e4m3fn", "int8:row", "int4", "mxfp4"])
def test_rounding_is_that_of_a_gguf_of_the_same_rows(file, tmp_path, to):
    writer = gguf.GGUFWriter(tmp_path / "same.gguf", "llama")
    same = {name: values for name, values in TENSORS.items() if values.dtype == np.float32}
    for name, values in same.items():
        writer.add_tensor(name, values)
    finish(writer)
    tb.fakequant(tmp_path / "same.gguf", tmp_path / "out.gguf", "embed", to=to)
    tb.fakequant(file, tmp_path / "out.safetensors", "embed", to=to)
    expected = {one.name: one.data.tobytes() for one in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    got = as_bytes(read(tmp_path / "out.safetensors")[0])
    assert {name: got[name] for name in same} == expected


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_in_place_and_back(kind, file, folder, tmp_path):
    path, undo_file = {"file": file, "folder": folder}[kind], tmp_path / "undo"
    before = {one: one.read_bytes() for one in tmp_path.rglob("*.safetensors")}
    tb.truncate(path, bits=16, in_place=True, undo_file=undo_file)
    assert (as_bytes(read(path)[0]) if kind == "file" else tensors_of(path)) == expected_after_cut()
    assert tb.undo(path, undo_file).is_proved
    assert {one: one.read_bytes() for one in tmp_path.rglob("*.safetensors")} == before


@pytest.mark.parametrize(
    ("out", "error", "match"),
    [
        ("model", UsageError, "is the input"),
        ("taken", Refused, "a folder is never replaced"),
        ("out.safetensors", UsageError, "name a new folder"),
        ("nowhere/out", FileNotFoundError, "folder does not exist"),
    ],
)
def test_outputs_that_are_refused(folder, tmp_path, out, error, match):
    (tmp_path / "taken").mkdir()
    for force in (False, True):
        with pytest.raises(error, match=match):
            tb.truncate(folder, tmp_path / out, bits=16, force=force)


def test_a_file_stays_what_it_is(file, tmp_path):
    with pytest.raises(UsageError, match="the model is safetensors, and stays so"):
        tb.truncate(file, tmp_path / "out.gguf", bits=16)


def test_a_folder_that_appears_in_the_last_moment_is_not_replaced(folder, tmp_path, monkeypatch):
    def appear(*_):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("")

    monkeypatch.setattr(outputs, "copy_others", appear)
    with pytest.raises(Refused, match="appeared meanwhile"):
        tb.truncate(folder, tmp_path / "out", bits=16)
    assert names(tmp_path / "out") == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out", "secret"]


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), KeyboardInterrupt()])
def test_an_error_leaves_no_folder_behind(folder, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(durable, "sync", fail)
    with pytest.raises(type(error)):
        tb.truncate(folder, tmp_path / "out", bits=16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "secret"]
    assert durable.left_behind() == []


def test_scales_of_a_quantized_checkpoint_are_not_rounded(tmp_path):
    path, out = tmp_path / "model", tmp_path / "out"
    path.mkdir()
    norm, scale = (RANDOM.random(count, np.float32).tobytes() for count in (128, 1))
    tensors = {
        "a.weight": ("F8_E4M3", (128, 128), RANDOM.integers(0, 0x7E, 1 << 14).astype(np.uint8).tobytes()),
        "a.weight_scale_inv": ("F32", (1, 1), scale),
        "norm.weight": ("F32", (128,), norm),
    }
    (path / "model.safetensors").write_bytes(safetensors(tensors))
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    (path / "config.json").write_text(json.dumps(config))
    done = tb.truncate(path, out, bits=16)
    assert [change.name for change in done.tensors] == ["norm.weight"]
    cut = (np.frombuffer(norm, np.uint32) & TOP_HALF).tobytes()
    expected = safetensors({**tensors, "norm.weight": ("F32", (128,), cut)})
    assert (out / "model.safetensors").read_bytes() == expected
