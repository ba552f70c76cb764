"""The same values in fewer bytes: blocks come back byte for byte, and what has no narrower type stays."""

from __future__ import annotations

import errno
import json
import os
import re

import gguf
import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import deserialize
from safetensors.numpy import save_file

import truebits as tb
from models import finish, names
from safetensors_bytes import safetensors
from truebits import data
from truebits.cli.app import app
from truebits.errors import Refused, UsageError, VerificationFailed
from truebits.rewriting import shrink as module
from truebits.rewriting.narrowest import Stray

TYPES = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")
DTYPES = {
    **{"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
}


def weights(rows=48, columns=256, seed=0):
    return (0.02 * np.random.default_rng(seed).standard_normal((rows, columns))).astype(np.float32)


def kind(type):
    return gguf.GGMLQuantizationType[type]


def upcast(type, seed=0):
    """Return values that are those of blocks."""
    return gguf.quants.dequantize(gguf.quants.quantize(weights(seed=seed), kind(type)), kind(type))


def write(path, tensors, file_type=0):
    """Write a GGUF. `tensors`: arrays, or (packed bytes, type), by name."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(file_type)
    writer.add_array("list", ["a", "b"])
    for name, array in tensors.items():
        raw, type = array if isinstance(array, tuple) else (array, None)
        if raw.dtype == ml_dtypes.bfloat16:
            raw, type = raw.view(np.uint8), kind("BF16")
        writer.add_tensor(name, raw, raw_dtype=type)
    finish(writer)
    return path


def size(path):
    return path.stat().st_size


def types_of(path):
    return {tensor.name: tensor.type for tensor in tb.open(path).tensors}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """A model of all block types, written by gguf-py, and norms."""
    tensors = {f"{name}.weight": (gguf.quants.quantize(weights(), kind(name)), kind(name)) for name in TYPES}
    tensors["norm.weight"] = np.ones(256, np.float32)
    return write(tmp_path_factory.mktemp("quantized") / "q.gguf", tensors, 7)


def test_a_dequantized_model_becomes_the_file_that_it_was(quantized, tmp_path):
    tb.dequantize(quantized, tmp_path / "f32.gguf")
    done = tb.shrink(tmp_path / "f32.gguf", tmp_path / "out.gguf")
    expected = {**{f"{name}.weight": name for name in TYPES}, "norm.weight": "F32"}
    assert types_of(tmp_path / "out.gguf") == expected
    ours, theirs = gguf.GGUFReader(tmp_path / "out.gguf"), gguf.GGUFReader(quantized)
    for got, tensor in zip(ours.tensors, theirs.tensors, strict=True):
        assert got.data.tobytes() == tensor.data.tobytes(), tensor.name
    assert ours.fields["list"].contents() == ["a", "b"]
    assert done.fingerprint == tb.fingerprint(tmp_path / "f32.gguf").value
    assert done.saved == size(tmp_path / "f32.gguf") - size(tmp_path / "out.gguf")


def test_the_file_type_is_that_of_most_values(tmp_path):
    path = write(tmp_path / "f32.gguf", {"a.weight": upcast("Q4_1"), "b.weight": weights(rows=4)})
    tb.shrink(path, tmp_path / "out.gguf")
    assert (
        gguf.GGUFReader(tmp_path / "out.gguf").fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_1
    )
    other = write(tmp_path / "other.gguf", {"a.weight": upcast("Q4_1"), "b.weight": weights(rows=400)}, 1)
    tb.shrink(other, tmp_path / "kept.gguf")
    assert gguf.GGUFReader(tmp_path / "kept.gguf").fields["general.file_type"].contents() == 1


def test_mxfp4_in_bf16_is_mxfp4_again(tmp_path):
    raw = gguf.quants.quantize(weights(), kind("MXFP4"))
    values = gguf.quants.dequantize(raw, kind("MXFP4"))
    write(tmp_path / "bf16.gguf", {"a.weight": values.astype(ml_dtypes.bfloat16)})
    tb.shrink(tmp_path / "bf16.gguf", tmp_path / "out.gguf")
    (got,) = gguf.GGUFReader(tmp_path / "out.gguf").tensors
    assert (got.tensor_type.name, got.data.tobytes()) == ("MXFP4", raw.tobytes())


PLAIN = {
    "of_bf16.weight": (weights().astype(ml_dtypes.bfloat16).astype(np.float32), "BF16"),
    "of_f16.weight": (weights().astype(np.float16).astype(np.float32), "F16"),
    "of_f32.weight": (weights(), "F32"),
    "specials.weight": (np.array([[0, -0.0, np.inf, -np.inf, 1, np.nan, 2**-130, 3e38]] * 32, np.float32), "F32"),
    "special.weight": (np.array([[0, -0.0, np.inf, -np.inf, 1, np.nan, 2.0**-126, 2]] * 32, np.float32), "BF16"),
    "in_f16.weight": (weights().astype(np.float16), "F16"),
}


def test_each_tensor_gets_the_narrowest_type_of_its_values(tmp_path):
    path = write(tmp_path / "in.gguf", {name: values for name, (values, _) in PLAIN.items()})
    done = tb.shrink(path, tmp_path / "out.gguf")
    assert types_of(tmp_path / "out.gguf") == {name: type for name, (_, type) in PLAIN.items()}
    for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors:
        values, type = PLAIN[tensor.name]
        got = np.frombuffer(tensor.data.tobytes(), DTYPES[type]).astype(values.dtype)
        assert np.array_equal(got, values.ravel(), equal_nan=True)
        assert np.array_equal(np.signbit(got), np.signbit(values.ravel()))
    assert tb.fingerprint(path).value == tb.fingerprint(tmp_path / "out.gguf").value == done.fingerprint


def test_a_gguf_has_no_fp8(tmp_path):
    path = write(tmp_path / "in.gguf", {"a.weight": np.random.default_rng(0).integers(-8, 8, (64, 100)).astype("f4")})
    tb.shrink(path, tmp_path / "out.gguf")
    assert types_of(tmp_path / "out.gguf") == {"a.weight": "BF16"}


def test_what_llama_cpp_wants_in_f32_stays_unless_all_is_asked_for(tmp_path):
    bf16 = weights(8).astype(ml_dtypes.bfloat16).astype(np.float32)
    tensors = {"blk.0.ffn_norm.weight": bf16[0], "blk.0.ffn_gate_inp.weight": bf16, "blk.0.ffn_up.weight": bf16}
    path = write(tmp_path / "in.gguf", tensors)
    done = tb.shrink(path, tmp_path / "out.gguf")
    assert list(types_of(tmp_path / "out.gguf").values()) == ["F32", "F32", "BF16"]
    assert [one.wanted for one in done.tensors] == [False, False, True]
    tb.shrink(path, tmp_path / "all.gguf", keep_f32=False)
    assert set(types_of(tmp_path / "all.gguf").values()) == {"BF16"}


@pytest.mark.parametrize(("type", "at"), [("Q8_0", 0), ("Q4_1", 5000), ("Q5_0", 12287)])
def test_almost_an_upcast_stays_and_the_value_is_named(tmp_path, type, at):
    values = upcast(type)
    values.reshape(-1)[at] += np.float32(1e-4)
    path = write(tmp_path / "in.gguf", {"a.weight": values, "b.weight": upcast("Q8_0", 1)})
    found = tb.shrink(path, dry_run=True)
    blocks = values.size // 32
    assert [one.to for one in found.tensors] == ["F32", "Q8_0"]
    assert found.tensors[0].stray == Stray(type, at, float(values.reshape(-1)[at]), 1, blocks, "blocks")
    told = CliRunner().invoke(app, ["shrink", str(path), "--dry-run"]).output
    assert f"a.weight is {type} but for 1 block of {blocks}: value {at:,} is {values.reshape(-1)[at]:.9g}" in told


def test_almost_bf16_stays_and_the_value_is_named(tmp_path):
    values = weights().astype(ml_dtypes.bfloat16).astype(np.float32)
    values[3, 7] += np.float32(1e-6)
    found = tb.shrink(write(tmp_path / "in.gguf", {"a.weight": values}), dry_run=True)
    assert found.tensors[0].stray == Stray("BF16", 3 * 256 + 7, float(values[3, 7]), 1, values.size, "values")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("type", ["Q8_0", "Q4_0", "Q4_1"])
def test_values_that_were_rounded_become_blocks_on_request_only(tmp_path, type, dtype):
    values = upcast(type).astype(dtype)
    path = write(tmp_path / "in.gguf", {"a.weight": values})
    assert not tb.shrink(path, tmp_path / "out.gguf").changed
    assert names(tmp_path) == ["in.gguf"]
    done = tb.shrink(path, tmp_path / "out.gguf", allow=["rounding"])
    assert types_of(tmp_path / "out.gguf") == {"a.weight": type}
    (tensor,) = gguf.GGUFReader(tmp_path / "out.gguf").tensors
    finer = gguf.quants.dequantize(tensor.data, kind(type))
    assert finer.astype(dtype).tobytes() == values.tobytes()
    assert done.finer == np.count_nonzero(finer != values.astype(np.float32)) > 0


CHECKPOINT = {
    "a.weight": weights(6, 10).astype(ml_dtypes.float8_e4m3fn).astype(np.float32),
    "b.weight": (1e6 * weights(5, 7)).astype(ml_dtypes.float8_e5m2).astype(ml_dtypes.bfloat16),
    "c.weight": weights(3, 5).astype(ml_dtypes.bfloat16).astype(np.float64),
    "d.weight": weights(3, 5),
    "norm.bias": np.ones(3, np.float32),
    "ids": np.arange(5),
}


def test_a_checkpoint(tmp_path):
    save_file(CHECKPOINT, tmp_path / "in.safetensors", {"format": "pt"})
    done = tb.shrink(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    expected = {"a.weight": "F8_E4M3", "b.weight": "F8_E5M2", "c.weight": "BF16", "d.weight": "F32"}
    assert types_of(tmp_path / "out.safetensors") == {**expected, "norm.bias": "BF16", "ids": "I64"}
    for name, got in deserialize((tmp_path / "out.safetensors").read_bytes()):
        values = CHECKPOINT[name]
        own = np.frombuffer(got["data"], DTYPES.get(got["dtype"], values.dtype))
        assert own.astype(values.dtype).tobytes() == values.tobytes(), name
    model = tb.open(tmp_path / "out.safetensors")
    item = {"F8_E4M3": 1, "F8_E5M2": 1, "BF16": 2, "F32": 4, "I64": 8}
    assert all(one.offset % item[one.type] == 0 for one in model.tensors)
    assert model.value("format") == "pt"
    assert done.fingerprint == tb.fingerprint(tmp_path / "in.safetensors").value
    assert done.fingerprint == tb.fingerprint(tmp_path / "out.safetensors").value


def test_a_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    save_file({"a.weight": weights().astype(np.float16).astype(np.float32)}, folder / shards[0])
    save_file({"b.weight": weights()}, folder / shards[1])
    index = {"metadata": {"total_size": 98304}, "weight_map": {"a.weight": shards[0], "b.weight": shards[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    tb.shrink(folder, tmp_path / "out")
    assert names(tmp_path / "out") == names(folder)
    assert types_of(tmp_path / "out") == {"a.weight": "F16", "b.weight": "F32"}
    mended = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert mended == {**index, "metadata": {"total_size": 73728}}
    for metadata in ([], "total_size", {}, {"total_size": "many"}):
        whole = json.dumps({**index, "metadata": metadata})
        (folder / "model.safetensors.index.json").write_text(whole)
        (folder / "other.safetensors.index.json").write_text("{")
        out = tmp_path / f"out{len(names(tmp_path))}"
        tb.shrink(folder, out)
        assert (out / "other.safetensors.index.json").read_text() == "{"
        mended = json.loads((out / "model.safetensors.index.json").read_text())["metadata"]
        assert mended == ({"total_size": 73728} if "many" in whole else metadata)


def test_a_shard_set(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama", split_max_tensors=1)
    tensors = {"a.weight": upcast("Q4_0"), "b.weight": weights(3, 5), "c.weight": upcast("Q8_0", 1)}
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    finish(writer)
    (tmp_path / "out").mkdir()
    name = "in-00001-of-00003.gguf"
    with pytest.raises(UsageError, match="name the output NAME-00001-of-00003"):
        tb.shrink(tmp_path / name, tmp_path / "out.gguf")
    done = tb.shrink(tmp_path / name, tmp_path / "out" / name)
    assert names(tmp_path / "out") == [f"in-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert list(types_of(tmp_path / "out" / name).values()) == ["Q4_0", "F32", "Q8_0"]
    assert tb.diff(tmp_path / name, tmp_path / "out" / name).verdict == "same values"
    assert done.fingerprint == tb.fingerprint(tmp_path / name).value


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = write(tmp_path / "in.gguf", {"a.weight": upcast("Q8_0")})
    (tmp_path / "out.gguf").write_bytes(b"the old one")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for call in ("pwrite", "fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, full)
            with pytest.raises(OSError, match="No space left"):
                tb.shrink(path, tmp_path / "out.gguf", force=True)
        assert names(tmp_path) == ["in.gguf", "out.gguf"]
        assert (tmp_path / "out.gguf").read_bytes() == b"the old one"


def test_what_the_disk_does_not_give_back_is_not_named(tmp_path, monkeypatch):
    path = write(tmp_path / "in.gguf", {"a.weight": upcast("Q8_0")})
    write_well = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda to, data, at: write_well(to, bytes(len(data)) if at else data, at))
    with pytest.raises(VerificationFailed, match="what is read back is not what was written"):
        tb.shrink(path, tmp_path / "out.gguf")
    assert names(tmp_path) == ["in.gguf"]


def test_scales_and_codes_of_a_quantized_checkpoint_stay(tmp_path):
    codes = np.ones((128, 128), ml_dtypes.float8_e4m3fn)
    tensors = {
        "m.weight": ("F8_E4M3", codes.shape, codes.tobytes()),
        "m.weight_scale_inv": ("F32", (1, 1), np.ones(1, np.float32).tobytes()),
        "n.weight": ("F32", (2, 2), np.ones(4, np.float32).tobytes()),
    }
    (tmp_path / "in.safetensors").write_bytes(safetensors(tensors))
    tb.shrink(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert types_of(tmp_path / "out.safetensors") == {
        **{"m.weight": "F8_E4M3", "m.weight_scale_inv": "F32"},
        "n.weight": "BF16",
    }


def test_only_what_is_selected(tmp_path):
    half = weights().astype(np.float16).astype(np.float32)
    path = write(tmp_path / "in.gguf", {"a.weight": half, "b.weight": half})
    tb.shrink(path, tmp_path / "out.gguf", "a", None)
    assert list(types_of(tmp_path / "out.gguf").values()) == ["F16", "F32"]


def test_nothing_to_save_is_nothing_written(tmp_path):
    path = write(tmp_path / "in.gguf", {"a.weight": weights()})
    done = tb.shrink(path, tmp_path / "out.gguf")
    assert (done.output, done.saved, names(tmp_path)) == (None, 0, ["in.gguf"])
    told = CliRunner().invoke(app, ["shrink", str(path), str(tmp_path / "out.gguf")])
    assert (told.exit_code, "Nothing to save" in told.output, "Nothing was written" in told.output) == (0, True, True)


def test_nothing_to_save_says_why(tmp_path):
    path = write(tmp_path / "in.gguf", {"a.weight": weights(), "norm.weight": np.ones(4, np.float32)})
    expected = "no type tried holds the values of 1 tensor, 1 tensor not tried, for llama.cpp"
    assert expected in tb.shrink(path, dry_run=True).summary
    path = write(tmp_path / "q.gguf", {"a.weight": (gguf.quants.quantize(weights(), kind("Q8_0")), kind("Q8_0"))})
    assert tb.shrink(path, dry_run=True).summary == "nothing to save: no tensor is of a floating-point type"


def test_what_is_refused(tmp_path):
    half = weights().astype(np.float16).astype(np.float32)
    path = write(tmp_path / "in.gguf", {"a.weight": half})
    with pytest.raises(UsageError, match="give an output"):
        tb.shrink(path)
    with pytest.raises(UsageError, match="is the input"):
        tb.shrink(path, path, force=True)
    with pytest.raises(UsageError, match="--allow layout"):
        tb.shrink(path, tmp_path / "out.gguf", allow=["layout"])
    (tmp_path / "out.gguf").write_bytes(b"mine")
    with pytest.raises(Refused, match="--force"):
        tb.shrink(path, tmp_path / "out.gguf")
    with path.open("ab") as file:
        file.write(b"trailing" * 8)
    with pytest.raises(Refused, match="it would be lost"):
        tb.shrink(path, tmp_path / "out.gguf", force=True)
    assert (tmp_path / "out.gguf").read_bytes() == b"mine"


def test_blocks_that_stand_for_something_else_are_never_written(tmp_path, monkeypatch):
    """Were the search wrong, the proof would find it."""
    path = write(tmp_path / "in.gguf", {"a.weight": upcast("Q8_0")})
    right = module.repacked

    def wrong(words, type, stored):
        found = right(words, type, stored)
        found.levels[77, 5] -= 1
        return found

    monkeypatch.setattr(module, "repacked", wrong)
    with pytest.raises(VerificationFailed, match=f"a.weight: value {77 * 32 + 5:,}"):
        tb.shrink(path, tmp_path / "out.gguf")
    monkeypatch.setattr(module, "repacked", right)
    monkeypatch.setattr(module, "block_quantized", lambda tensor: module.plain(tensor._replace(type="I8")))
    with pytest.raises(VerificationFailed, match="holds other values"):
        tb.shrink(path, tmp_path / "out.gguf")
    assert names(tmp_path) == ["in.gguf"]


@pytest.mark.parametrize("stop", [1, 3])
def test_interrupted_it_leaves_nothing_behind(tmp_path, stop):
    path = write(tmp_path / "in.gguf", {"a.weight": upcast("Q8_0"), "b.weight": weights()})
    before, calls = path.read_bytes(), 0

    def progress(done, total):
        nonlocal calls
        calls += 1
        if calls == stop + 3:  # the plan's come before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tb.shrink(path, tmp_path / "out.gguf", progress=progress)
    assert (names(tmp_path), path.read_bytes()) == (["in.gguf"], before)


def test_the_command_says_what_was_saved_and_proves_it(quantized, tmp_path):
    tb.dequantize(quantized, tmp_path / "f32.gguf")
    run = CliRunner().invoke(
        app, ["shrink", str(tmp_path / "f32.gguf"), str(tmp_path / "out.gguf")], env={"COLUMNS": "80"}
    )
    assert run.exit_code == 0, run.output
    lines = run.output.splitlines()
    assert "the same values in 1" in run.output
    assert any(re.fullmatch(r"Q8_0.weight +1 +F32 +Q8_0 +36.1 kB +384 blocks, every bit", line) for line in lines)
    assert max(map(len, lines)) <= 80 + len(str(tmp_path))
    assert tb.fingerprint(tmp_path / "f32.gguf").value in run.output
    document = json.loads(CliRunner().invoke(app, ["shrink", str(tmp_path / "f32.gguf"), "--dry-run", "--json"]).stdout)
    assert (document["schema"], document["written"], document["fingerprint"]) == ("truebits.shrink/1", False, None)
    assert [row["to"] for row in document["tensors"]] == [*TYPES, "F32"]


def test_the_shipped_model_shrinks_by_what_scan_says(tmp_path):
    tb.dequantize(data.MODEL_Q8_0, tmp_path / "f32.gguf")
    tb.shrink(tmp_path / "f32.gguf", tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == data.MODEL_Q8_0.read_bytes()
    for path in (data.MODEL, tmp_path / "f32.gguf"):
        saved = tb.shrink(path, dry_run=True, keep_f32=False).saved
        assert saved >= sum(one.bytes_saved for one in tb.scan(path, blocks=False).tensors.values())
