"""The model and the text that the package ships: what they are, and that the model has learned to speak."""

import hashlib
import re

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, TokenType

import truebits as tb
from llama_numpy import Llama
from truebits import data

MODELS = [data.MODEL, data.MODEL_Q8_0]


def contents(path, name):
    return gguf.GGUFReader(path).get_field(name).contents()


@pytest.fixture(scope="module")
def start():
    """Return the held-out text's beginning."""
    return data.HELDOUT.read_bytes()[:2048]


@pytest.fixture(scope="module")
def model():
    return Llama(data.MODEL)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_a_model_is_small_and_says_what_it_is(path):
    assert path.stat().st_size < 1_500_000
    assert contents(path, "general.architecture") == "llama"
    assert contents(path, "general.name")
    assert contents(path, "general.license") == "PSF-2.0"
    assert "Apache-2.0" in contents(path, "general.description")


def test_all_weights_are_f32_with_all_its_bits():
    report = tb.scan(data.MODEL)
    assert {tensor.type for tensor in report.model.tensors} == {"F32"}
    assert {precision.origin.format for precision in report.values()} == {"f32"}
    total = report.totals()["F32"]
    assert total.low_zero(16) < 10 * total.values / 2**16 + 10
    assert total.mantissa_bits(0.5) >= 22


def test_the_second_has_bf16_norms_and_q8_0_matrices():
    report = tb.scan(data.MODEL_Q8_0)
    assert {precision.origin.format for precision in report.values()} == {"bf16"}
    for tensor in report.model.tensors:
        assert tensor.type == ("F32" if "norm" in tensor.name else "Q8_0")
    assert report.totals()["F32"].low_zero(16) == report.totals()["F32"].values
    assert tb.plan(data.MODEL_Q8_0, bits=16).changed == 0


def test_the_second_is_the_first_in_less(model):
    for name, weight in Llama(data.MODEL_Q8_0).weights.items():
        if weight.ndim == 1:
            np.testing.assert_allclose(weight, model.weights[name], rtol=2**-8)
        else:
            np.testing.assert_allclose(weight, model.weights[name], atol=np.abs(model.weights[name]).max() / 200)


def test_a_token_is_a_byte(model):
    every = bytes(range(256))
    assert model.bos == 1
    assert model.tokens(every) == [byte + 3 for byte in every]
    assert model.tokens("§ 1") == [byte + 3 for byte in "§ 1".encode()]
    types = contents(data.MODEL, "tokenizer.ggml.token_type")
    assert types[:3] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    assert set(types[3:]) == {TokenType.BYTE, TokenType.NORMAL}


def test_the_held_out_text_is_ascii_and_about_30_kb():
    text = data.HELDOUT.read_bytes()
    assert 28_000 < len(text) < 32_000
    assert text.isascii()
    assert not re.search(rb"[^\n -~]|[ \t]\n|\n{3}", text)


def test_the_provenance_is_of_these_files():
    note = data.HELDOUT.with_name("PROVENANCE.md").read_text()
    for path in [*MODELS, data.HELDOUT]:
        row = f"| `{path.name}` | {path.stat().st_size:,} | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |"
        assert row in note
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in note
    assert "All Rights Reserved" in note


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_a_model_has_learned_to_speak(path, start):
    assert Llama(path, np.float32).perplexity(start) < 5


def test_a_model_reads_no_further_than_the_token(model, start):
    tokens = model.tokens(start[:100])
    np.testing.assert_allclose(model.logits(tokens[:50]), model.logits(tokens)[:50], atol=1e-9)


def test_a_byte_costs_as_much_in_pieces_as_alone(model, start):
    pieces = model.nll(start[:100], context=64)
    np.testing.assert_allclose(pieces[64:], model.nll(start[64:100]), atol=1e-9)
    assert model.perplexity(start[:100], context=64) == pytest.approx(np.exp(pieces.mean()))


def test_truncation_changes_nearly_all_weights_and_what_the_model_says(tmp_path, model, start):
    done = tb.truncate(data.MODEL, tmp_path / "bf16.gguf", bits=16)
    values = sum(weight.size for weight in model.weights.values())
    assert done.changed > 0.999 * values
    cut = Llama(tmp_path / "bf16.gguf")
    tokens = [model.bos, *model.tokens(start[:256])]
    difference = np.abs(cut.logits(tokens) - model.logits(tokens)).max()
    assert 1e-3 < difference < 1
    assert cut.perplexity(start) == pytest.approx(model.perplexity(start), rel=0.02)
    assert cut.perplexity(start) != model.perplexity(start)


def test_q8_0_is_what_ggml_would_write(model):
    for tensor in gguf.GGUFReader(data.MODEL_Q8_0).tensors:
        if tensor.tensor_type == GGMLQuantizationType.Q8_0:
            weight = model.weights[tensor.name].astype(np.float32)
            np.testing.assert_array_equal(gguf.quants.quantize(weight, GGMLQuantizationType.Q8_0), tensor.data)
