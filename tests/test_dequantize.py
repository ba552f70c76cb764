"""Quantized models written as plain values: what is read back is what the formats' own code gives."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

from models import finish
from safetensors_bytes import safetensors
from truebits import data
from truebits.cli.app import app
from truebits.comparing.diff import diff
from truebits.comparing.fingerprint import fingerprint
from truebits.errors import Refused, UsageError
from truebits.files.model import open_model
from truebits.rewriting.dequantize import dequantize
from truebits.rewriting.relaid import READ_BYTES

RANDOM = np.random.default_rng(3)
TYPES = ("Q4_0", "Q5_1", "Q8_0", "Q6_K", "MXFP4", "IQ4_XS")
DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


def quantized_gguf(path: Path) -> dict[str, np.ndarray]:
    """Write one tensor of each type, of random but finite blocks, and a norm; return their values."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(2)
    writer.add_array("list", ["a", "b"])
    values = {}
    for name in TYPES:
        type = gguf.GGMLQuantizationType[name]
        block, nbytes = gguf.GGML_QUANT_SIZES[type]
        raw = RANDOM.integers(0, 60, (3, 512 // block * nbytes), dtype=np.uint8)
        writer.add_tensor(f"{name}.weight", raw, raw_dtype=type)
        values[f"{name}.weight"] = gguf.quants.dequantize(raw, type)
    values["norm.weight"] = RANDOM.normal(1, 0.1, 512).astype(np.float32)
    writer.add_tensor("norm.weight", values["norm.weight"])
    finish(writer)
    return values


@pytest.mark.parametrize("to", DTYPES)
def test_gguf(tmp_path, to):
    expected = quantized_gguf(tmp_path / "q.gguf")
    done = dequantize(tmp_path / "q.gguf", tmp_path / "out.gguf", to=to)
    assert (len(done.tensors), done.kept, done.values) == (len(TYPES), 1, 3 * 512 * len(TYPES))
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    for tensor in reader.tensors:
        values = expected[tensor.name]
        kind = "f32" if tensor.name.startswith("norm") else to
        with np.errstate(over="ignore"):
            words = values.astype(DTYPES[kind])
        got = np.frombuffer(tensor.data.tobytes(), words.dtype).reshape(values.shape)
        assert got.tobytes() == words.tobytes(), tensor.name
    assert reader.fields["general.file_type"].contents() == {"f32": 0, "f16": 1, "bf16": 32}[to]
    assert reader.fields["list"].contents() == ["a", "b"]
    if to == "f32":
        assert diff(tmp_path / "q.gguf", tmp_path / "out.gguf").changed == 0


def checkpoint(path: Path, rows: int = 256) -> np.ndarray:
    """Write FP8 in blocks of 128 x 128 and a norm; return the FP8's values."""
    path.mkdir()
    codes = RANDOM.normal(0, 50, (rows, 256)).astype(ml_dtypes.float8_e4m3fn)
    scales = RANDOM.gamma(2, 1e-3, (rows // 128, 2)).astype(np.float32)
    tensors = {
        "m.weight": ("F8_E4M3", codes.shape, codes.tobytes()),
        "m.weight_scale_inv": ("F32", scales.shape, scales.tobytes()),
        "norm.weight": ("BF16", (4,), bytes(8)),
    }
    (path / "model.safetensors").write_bytes(safetensors(tensors, {"format": "pt"}))
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    return codes.astype(np.float32) * scales.repeat(128, 0).repeat(128, 1)


@pytest.mark.parametrize("rows", [256, READ_BYTES // 256])
def test_checkpoint(tmp_path, rows):
    expected = checkpoint(tmp_path / "hf", rows)
    out = tmp_path / "out.safetensors"
    dequantize(tmp_path / "hf", out)
    model = open_model(out)
    assert [(one.name, one.type) for one in model.tensors] == [("m.weight", "F32"), ("norm.weight", "BF16")]
    one = model.tensors[0]
    assert out.read_bytes()[one.offset : one.offset + one.nbytes] == expected.tobytes()
    assert model.value("format") == "pt"
    assert fingerprint(tmp_path / "hf").value == fingerprint(out).value


def test_what_is_refused(tmp_path):
    checkpoint(tmp_path / "hf")
    out = tmp_path / "out.safetensors"
    dequantize(tmp_path / "hf", out)
    with pytest.raises(Refused, match="--force"):
        dequantize(tmp_path / "hf", out)
    dequantize(tmp_path / "hf", out, force=True)
    with pytest.raises(UsageError, match="no tensor is quantized"):
        dequantize(out, tmp_path / "again.safetensors")
    (tmp_path / "hf" / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(Refused, match="says gptq"):
        dequantize(tmp_path / "hf", tmp_path / "other.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out.safetensors"]


def test_bytes_that_belong_to_no_tensor_are_not_lost_without_a_word(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(data.MODEL_Q8_0.read_bytes() + b"trailing" * 8)
    with pytest.raises(Refused, match=r"E_UNEXPLAINED .*it would be lost"):
        dequantize(path, tmp_path / "out.gguf")
    assert [one.name for one in tmp_path.iterdir()] == ["model.gguf"]


def test_the_command(tmp_path):
    checkpoint(tmp_path / "hf")
    out = tmp_path / "out.safetensors"
    got = CliRunner().invoke(app, ["dequantize", str(tmp_path / "hf"), str(out), "--to", "bf16"])
    expected = "1 F8_E4M3 x scale as 65,536 BF16 values, 1 kept as they are"
    assert (got.exit_code, expected in " ".join(got.output.split())) == (0, True), got.output


def test_an_input_is_never_the_output(tmp_path):
    checkpoint(tmp_path / "hf")
    whole = (tmp_path / "hf" / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="is the input"):
        dequantize(tmp_path / "hf", tmp_path / "hf" / "model.safetensors", force=True)
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == whole
