"""Values that a converter changed: verdicts on draws of known precision, and the stated odds by experiment."""

import gguf
import numpy as np
import pytest

import truebits as tb
from models import finish
from truebits.precision.converters import is_changed
from truebits.precision.origin import judge
from truebits.precision.undone import Change, before, change_of
from words import draws, rounded

SHIFT = change_of("gemma2", "blk.0.attn_norm.weight")
EXPONENTIAL = change_of("mamba2", "blk.0.ssm_a")


def shifted(values):
    return np.float32(1) + values


def judged(values, change=SHIFT):
    return judge(before(values.view(np.uint32), change))


def test_who_changes_what():
    assert is_changed("gemma2")
    assert not is_changed("llama")
    assert isinstance(SHIFT, Change)
    assert isinstance(EXPONENTIAL, Change)
    assert change_of("llama", "blk.0.attn_norm.weight") is None
    assert change_of("gemma4", "blk.0.attn_norm.weight") is None
    assert change_of("qwen3next", "blk.0.ssm_norm.weight") is None
    assert change_of("nobody", "blk.0.attn_norm.weight") is None
    assert change_of(None, "output_norm.weight") is None


@pytest.mark.parametrize("name", ["bf16", "fp16", "f32"])
@pytest.mark.parametrize("scale", [0.02, 0.3, 1.0, 3.0])
def test_shifted_norms_of_a_known_precision(name, scale):
    for seed in range(50):
        got = judged(shifted(rounded(draws(640, scale, seed), name)))
        assert got.format == name, (seed, got)
        assert "before the converter changed them" in got.reason


@pytest.mark.parametrize("name", ["bf16", "fp16", "f32"])
def test_logarithms_of_a_known_precision(name):
    for seed in range(50):
        source = rounded(np.abs(draws(48, 2.0, seed)), name)
        stored = (-np.exp(source.astype(np.float64))).astype(np.float32)
        assert judged(stored, EXPONENTIAL).format == name, seed


def test_raw_bits_of_shifted_norms_say_f32():
    """What truebits would say if it did not know the converter."""
    stored = shifted(rounded(draws(640, 0.02, 0), "bf16"))
    assert np.count_nonzero(stored.view(np.uint32) & 0xFFFF) > 320


@pytest.mark.parametrize("exponent", range(-20, 2))
def test_the_odds_of_a_binade(exponent):
    """A true F32 w in [2^e, 2^(e+1)) is taken for BF16 once in 2^max(0, e + 16), for s in [1, 2); 40,000 draws."""
    random = np.random.default_rng(exponent + 100)
    source = (random.uniform(1, 2, 40_000) * 2.0**exponent).astype(np.float32)
    stored = shifted(source)
    evidence = before(stored.view(np.uint32), SHIFT)
    accepted = stored.size - evidence.outside["bf16"]
    bits = exponent + 16 - int(np.frexp(stored[0])[1] - 1)
    expected = stored.size * 2.0 ** -max(0, bits)
    assert abs(accepted - expected) <= 5 * np.sqrt(expected) + 1
    if bits <= 0:
        assert evidence.bits["bf16", "f32"] == 0


def test_too_small_values_are_ambiguous():
    """Below 2^-16 a shift leaves nothing to tell."""
    got = judged(shifted(draws(1_000, 2.0**-20, 0)))
    assert got.format == "ambiguous"


@pytest.mark.parametrize("seed", range(50))
def test_twenty_values(seed):
    assert judged(shifted(rounded(draws(20, 0.3, seed), "bf16"))).format == "bf16"
    assert judged(shifted(draws(20, 0.3, seed))).format == "f32"


def test_one_outlier():
    values = shifted(rounded(draws(2_048, 0.3, 0), "bf16"))
    values[77] = np.float32(1.2345678)
    got = judged(values)
    assert (got.format, got.holds_most, got.exceptions) == ("f32", "bf16", 1)


def test_specials_tell_nothing():
    values = np.array([np.nan, np.inf, -np.inf] * 10, np.float32)
    evidence = before(values.view(np.uint32), SHIFT)
    assert (evidence.outside["bf16"], evidence.telling) == (0, 0)
    assert judged(values).format == "ambiguous"


def test_what_is_no_exponential_is_nothing_else():
    evidence = before(np.array([1.0, 3.5], np.float32).view(np.uint32), EXPONENTIAL)
    assert evidence.outside == {"fp8_e5m2": 2, "fp8_e4m3fn": 2, "bf16": 2, "fp16": 2, "tf32": 2, "f32": 0}


@pytest.fixture
def gemma(tmp_path):
    """Give a function that writes a GGUF with norms of a known precision, shifted, and one that is not."""

    def write(name, architecture="gemma2"):
        path = tmp_path / f"{architecture}.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        for block in range(4):
            writer.add_tensor(f"blk.{block}.attn_norm.weight", shifted(rounded(draws(640, 0.05, block), name)))
        writer.add_tensor("blk.0.ffn_gate_inp.weight", rounded(draws(640, 0.05, 9), name))
        finish(writer)
        return path

    return write


@pytest.mark.parametrize("name", ["bf16", "fp16", "f32"])
def test_a_scan_undoes_the_shift(gemma, name):
    report = tb.scan(gemma(name))
    assert report.architecture == "gemma2"
    assert {one.origin.format for one in report.values()} == {name}
    assert report.origins()["F32"].format == name
    assert report["blk.0.ffn_gate_inp.weight"].before is None


def test_a_scan_of_another_architecture_judges_what_stands_there(gemma):
    report = tb.scan(gemma("bf16", "llama"))
    assert report["blk.0.attn_norm.weight"].origin.format == "f32"
    assert report["blk.0.ffn_gate_inp.weight"].origin.format == "bf16"


def test_a_shifted_norm_that_was_cut_is_judged_as_it_stands(gemma, tmp_path):
    tb.truncate(gemma("f32"), tmp_path / "cut.gguf", bits=16)
    report = tb.scan(tmp_path / "cut.gguf")
    assert {one.origin.format for one in report.values()} == {"bf16"}
    assert all(one.before is None for one in report.values())
