import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truebits.evaluation import scores as statistics
from truebits.evaluation.scores import Scores, compare, divergence, perplexity, timing
from truebits.report.json import document


def softmax(logits):
    """Return probabilities, from nothing but the formula."""
    powers = [math.exp(x - max(logits)) for x in logits]
    return [power / math.fsum(powers) for power in powers]


def logits_of(seed, tokens, vocabulary, spread=3.0):
    return np.random.default_rng(seed).normal(0, spread, (tokens, vocabulary)).astype(np.float32)


# --- scores per token


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 40),
    vocabulary=st.integers(2, 300),
    noise=st.sampled_from([0.0, 1e-6, 1e-2, 1.0, 30.0]),
)
def test_scores_are_the_formulas(seed, tokens, vocabulary, noise):
    base = logits_of(seed, tokens, vocabulary)
    candidate = base + np.float32(noise) * logits_of(seed + 1, tokens, vocabulary)
    right = np.random.default_rng(seed).integers(vocabulary, size=tokens)
    got = compare(base, candidate, right)
    for i in range(tokens):
        p, q = softmax(base[i].tolist()), softmax(candidate[i].tolist())
        assert got.base[i] == pytest.approx(-math.log(p[right[i]]), abs=1e-12)
        assert got.candidate[i] == pytest.approx(-math.log(q[right[i]]), abs=1e-12)
        kl = math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
        assert got.divergence[i] == pytest.approx(kl, rel=1e-9, abs=1e-13)
        assert got.same_top[i] == (np.argmax(p) == np.argmax(q))
        assert got.changed[i] == (base[i].tobytes() != candidate[i].tobytes())


def test_equal_logits_give_exact_zero():
    logits = logits_of(0, 50, 1000)
    scores = compare(logits, logits.copy(), np.arange(50))
    assert not scores.divergence.any()
    assert not scores.changed.any()
    np.testing.assert_array_equal(scores.base, scores.candidate)


def test_one_bit_is_a_change():
    base = logits_of(0, 5, 100)
    candidate = base.copy()
    candidate[3, 7] = np.nextafter(candidate[3, 7], np.float32(np.inf))
    assert compare(base, candidate, np.zeros(5, int)).changed.tolist() == [False, False, False, True, False]


def test_divergence_is_never_negative():
    base = logits_of(0, 500, 400)
    scores = compare(base, np.nextafter(base, np.float32(np.inf)), np.zeros(500, int))
    assert scores.divergence.min() >= 0
    assert scores.divergence.max() < 1e-12


@pytest.mark.parametrize("values", [1, 500, 1 << 20])
def test_scores_do_not_depend_on_the_block(monkeypatch, values):
    base, candidate, right = logits_of(1, 33, 129), logits_of(2, 33, 129), np.arange(33)
    expected = compare(base, candidate, right)
    monkeypatch.setattr(statistics, "BLOCK_VALUES", values)
    for got, known in zip(compare(base, candidate, right), expected, strict=True):
        np.testing.assert_array_equal(got, known)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_show(value):
    base = logits_of(0, 3, 10)
    odd = base.copy()
    odd[1, 4] = value
    right = np.zeros(3, int)
    assert not np.isfinite(compare(base, odd, right).candidate[1])
    assert not np.isfinite(compare(odd, base, right).base[1])
    assert np.isfinite(compare(base, odd, right).candidate[[0, 2]]).all()


# --- all tokens


def test_perplexity_is_llama_perplexity_s():
    nll = np.random.default_rng(0).gamma(2, 1, 1000)
    total = total_of_squares = 0.0
    for value in nll.tolist():  # as in llama-perplexity
        total += value
        total_of_squares += value * value
    mean, variance = total / 1000, total_of_squares / 1000 - (total / 1000) ** 2
    got = perplexity(nll)
    assert got.value == pytest.approx(math.exp(mean), rel=1e-12)
    assert got.error == pytest.approx(math.sqrt(variance / 999) * math.exp(mean), rel=1e-9)
    assert got.tokens == 1000


def test_a_perplexity_beyond_float64_is_infinite_and_null_in_json():
    got = perplexity(np.array([700.0, 800.0]))
    assert (got.value, got.error) == (math.inf, math.inf)
    assert json.loads(document("eval", asdict(got)))["value"] is None


def test_divergence_sums_up():
    generator = np.random.default_rng(0)
    kl = np.arange(1001) / 10
    base, candidate = generator.gamma(2, 1, 1001), generator.gamma(2, 1, 1001)
    same, changed = np.arange(1001) % 4 > 0, np.arange(1001) % 2 > 0
    got = divergence(Scores(base, candidate, kl, same, changed))
    assert (got.mean, got.median, got.max) == pytest.approx((50, 50, 100))
    assert (got.p90, got.p95, got.p99, got.p999) == pytest.approx((90, 95, 99, 99.9))
    assert got.error == pytest.approx(np.std(kl, ddof=1) / math.sqrt(1001))
    share = 750 / 1001
    assert (got.top1, got.top1_error) == pytest.approx((share, math.sqrt(share * (1 - share) / 1000)))
    moved = [math.exp(-b) - math.exp(-a) for a, b in zip(base, candidate, strict=True)]
    assert got.right_change == pytest.approx(math.fsum(moved) / 1001)
    assert got.right_rms == pytest.approx(math.sqrt(math.fsum(x * x for x in moved) / 1001))
    assert got.log_ratio == pytest.approx(math.log(perplexity(candidate).value / perplexity(base).value))
    assert got.log_ratio_error == pytest.approx(np.std(candidate - base, ddof=1) / math.sqrt(1001))
    assert (got.changed, got.tokens) == (500, 1001)


# --- timings


def test_timing_tells_a_difference_and_its_sign():
    slow, fast = [2.0, 2.1, 1.9, 2.05, 2.2], [1.0, 1.1, 0.9, 1.05, 1.2]
    assert timing(slow, fast, more_is_faster=False, seed=0).verdict == "faster"
    assert timing(slow, fast, more_is_faster=True, seed=0).verdict == "slower"
    assert timing(fast, slow, more_is_faster=False, seed=0).verdict == "slower"
    assert timing(slow, slow, more_is_faster=False, seed=0).verdict == "within noise"
    got = timing(slow, fast, more_is_faster=False, seed=0)
    assert (got.base, got.candidate, got.difference) == pytest.approx((2.05, 1.05, -1))
    assert got.low <= got.difference <= got.high < 0
    assert (got.base_rounds, got.candidate_rounds) == (tuple(slow), tuple(fast))


def test_timing_depends_on_the_seed_alone():
    rounds = np.random.default_rng(0).random((2, 7)).tolist()
    first = timing(*rounds, more_is_faster=True, seed=3)
    assert timing(*rounds, more_is_faster=True, seed=3) == first


def test_nothing_is_seldom_taken_for_something():
    """Rounds of the same distribution are told apart about once in a hundred times."""
    generator = np.random.default_rng(0)
    rounds = generator.exponential(size=(300, 2, 5)).tolist()
    verdicts = [timing(*pair, more_is_faster=True, seed=0).verdict for pair in rounds]
    assert verdicts.count("within noise") >= 290
