"""The commands dequantize and shrink: what they print, and their exit codes."""

import json

import gguf
import numpy as np
import pytest

import truebits as tb
from models import write
from words import words_in

VALUES = np.random.default_rng(0).normal(0, 0.02, (4, 256)).astype(np.float32)


@pytest.fixture
def packed(tmp_path):
    blocks = gguf.quants.quantize(VALUES, gguf.GGMLQuantizationType.Q8_0)
    return write(tmp_path / "packed.gguf", {"a.weight": ("Q8_0", blocks)})


def test_dequantize(truebits, packed, tmp_path):
    out = tmp_path / "out.gguf"
    got = truebits("dequantize", packed, out)
    assert (got.returncode, got.stderr) == (0, "")
    assert got.stdout.startswith(f"{out}: ")
    assert " became 4.1 kB." in got.stdout
    expected = gguf.quants.dequantize(
        gguf.quants.quantize(VALUES, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0
    )
    (tensor,) = gguf.GGUFReader(out).tensors
    assert tensor.data.tolist() == expected.tolist()
    assert truebits("dequantize", packed, out).returncode == 5
    document = json.loads(truebits("dequantize", packed, out, "--force", "--to", "bf16", "--json").stdout)
    assert document["schema"] == "truebits.dequantize/1"
    assert {one.type for one in tb.open(out).tensors} == {"BF16"}


def test_dequantize_of_what_is_not_quantized(truebits, tmp_path):
    path = write(tmp_path / "plain.gguf", {"a.weight": ("F32", words_in(VALUES, "F32"))})
    got = truebits("dequantize", path, tmp_path / "out.gguf")
    assert (got.returncode, (tmp_path / "out.gguf").exists()) == (2, False)
    assert "nothing to dequantize" in got.stderr


@pytest.mark.parametrize("style", ["text", "md", "csv"])
def test_shrink_says_beforehand_what_it_saves(truebits, tmp_path, style):
    words = words_in(VALUES, "F32") & np.uint32(0xFFFF0000)
    path, out = write(tmp_path / "wide.gguf", {"a.weight": ("F32", words)}), tmp_path / "out.gguf"
    planned = truebits("shrink", path, out, "--dry-run", "-o", style)
    assert (planned.returncode, out.exists()) == (0, False)
    assert "BF16" in planned.stdout
    assert truebits("shrink", path, out, "-o", style).returncode == 0
    assert tb.fingerprint(out).value == tb.fingerprint(path).value
    assert out.stat().st_size < path.stat().st_size
    assert truebits("shrink", path, out).returncode == 5


def test_shrink_needs_somewhere_to_write(truebits, packed):
    assert truebits("shrink", packed).returncode == 2
