"""Statistics over two models' logits, and over their timings.

All sums are in float64 and in a fixed order, whatever the number of threads: the same logits give the
same numbers, and equal logits a divergence of exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BLOCK_VALUES = 1 << 14
"""Logits taken at a time: their float64 copies stay in a core's cache."""

RESAMPLES = 10_000
"""Of the bootstrap. Its interval is one of 99 %: where nothing differs, five rounds then say otherwise once in
a hundred times; with 95 % it would be three times, and six if rounds were taken in pairs."""


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text: e to the mean negative log-likelihood per token.

    Attributes
    ----------
    value, error : float
        The perplexity and its standard error, by llama-perplexity's formulas; Inf where float64 does not hold it,
        which JSON writes as null.
    tokens : int
        Tokens that were scored.
    """

    value: float
    error: float
    tokens: int


@dataclass(frozen=True)
class Divergence:
    """How far a candidate's predictions are from the base's, over all scored tokens.

    Attributes
    ----------
    mean, error : float
        Mean Kullback-Leibler divergence from base to candidate, in nats, and its standard error.
    median, p90, p95, p99, p999, max : float
        Its distribution over tokens.
    top1, top1_error : float
        Share of tokens for which both find the same token most likely, and its standard error.
    right_change, right_rms : float
        Change in the probability of the token that does come: mean, and root mean square.
    log_ratio, log_ratio_error : float
        Logarithm of the candidate's perplexity over the base's, and its standard error: much smaller
        than that of either perplexity, as both speak of the same tokens.
    changed : int
        Tokens for which any logit differs, by as little as one bit.
    tokens : int
    """

    mean: float
    error: float
    median: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float
    top1: float
    top1_error: float
    right_change: float
    right_rms: float
    log_ratio: float
    log_ratio_error: float
    changed: int
    tokens: int


@dataclass(frozen=True)
class Timing:
    """The same work, timed in alternation.

    Attributes
    ----------
    base, candidate : float
        Medians over the rounds.
    difference, low, high : float
        Candidate's median minus base's, and its 99 % bootstrap interval.
    verdict : {"within noise", "faster", "slower"}
        Of the candidate; within noise where the interval has zero in it.
    base_rounds, candidate_rounds : tuple of float
    """

    base: float
    candidate: float
    difference: float
    low: float
    high: float
    verdict: str
    base_rounds: tuple[float, ...]
    candidate_rounds: tuple[float, ...]


class Scores(NamedTuple):
    """What two models say about the same tokens.

    Attributes
    ----------
    base, candidate : ndarray of float64, shape (tokens,)
        Negative log-likelihood of the token that comes.
    divergence : ndarray of float64, shape (tokens,)
        Kullback-Leibler divergence from base to candidate, in nats.
    same_top, changed : ndarray of bool, shape (tokens,)
        Whether both have the same most likely token, and whether any logit differs.
    """

    base: np.ndarray
    candidate: np.ndarray
    divergence: np.ndarray
    same_top: np.ndarray
    changed: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def compare(base: np.ndarray, candidate: np.ndarray, right: np.ndarray) -> Scores:
    """Score two models' logits for the same tokens.

    Parameters
    ----------
    base, candidate : ndarray of float32, shape (tokens, vocabulary)
    right : ndarray of int, shape (tokens,)
        The token that comes.

    Returns
    -------
    Scores
        Not finite where logits are not.
    """
    rows = max(1, BLOCK_VALUES // base.shape[1])
    work = np.empty((3, rows, base.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        return Scores.joined(
            [
                _compare_rows(base[at : at + rows], candidate[at : at + rows], right[at : at + rows], work)
                for at in range(0, len(base), rows)
            ]
        )


def _compare_rows(base: np.ndarray, candidate: np.ndarray, right: np.ndarray, work: np.ndarray) -> Scores:
    """Compare as many rows as `work` has room for; memory that is new each time would cost more than all else."""
    b, c, exponentials = work[:, : len(right)]
    np.subtract(base, base.max(axis=1, keepdims=True), out=b, dtype=np.float64)
    np.subtract(candidate, candidate.max(axis=1, keepdims=True), out=c, dtype=np.float64)
    at_right = np.arange(len(right)), right
    right_b, right_c = b[at_right], c[at_right]
    total_c = np.exp(c, out=exponentials).sum(axis=1)
    total_b = np.exp(b, out=exponentials).sum(axis=1)
    b -= c
    b *= exponentials
    log_b, log_c = np.log(total_b), np.log(total_c)
    return Scores(
        log_b - right_b,
        log_c - right_c,
        np.maximum(b.sum(axis=1) / total_b + (log_c - log_b), 0),
        base.argmax(axis=1) == candidate.argmax(axis=1),
        (base != candidate).any(axis=1),
    )


def perplexity(nll: np.ndarray) -> Perplexity:
    """Sum up negative log-likelihoods per token.

    Parameters
    ----------
    nll : ndarray of float64, shape (tokens,), two or more
    """
    mean, error = _mean(nll)
    with np.errstate(over="ignore"):
        value = float(np.exp(mean))
    return Perplexity(value, error * value, nll.size)


def divergence(scores: Scores) -> Divergence:
    """Sum up scores of two tokens or more."""
    tokens = scores.divergence.size
    mean, error = _mean(scores.divergence)
    quantiles = np.quantile(scores.divergence, [0.5, 0.9, 0.95, 0.99, 0.999, 1.0])
    median, p90, p95, p99, p999, largest = (float(one) for one in quantiles)
    top1, top1_error = _mean(scores.same_top)
    moved = np.exp(-scores.candidate) - np.exp(-scores.base)
    log_ratio, log_ratio_error = _mean(scores.candidate - scores.base)
    return Divergence(
        mean=mean,
        error=error,
        median=median,
        p90=p90,
        p95=p95,
        p99=p99,
        p999=p999,
        max=largest,
        top1=top1,
        top1_error=top1_error,
        right_change=float(moved.mean()),
        right_rms=float(np.sqrt(np.square(moved).mean())),
        log_ratio=log_ratio,
        log_ratio_error=log_ratio_error,
        changed=int(np.count_nonzero(scores.changed)),
        tokens=tokens,
    )


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(np.sqrt(values.var() / (values.size - 1)))


def timing(base: Sequence[float], candidate: Sequence[float], *, more_is_faster: bool, seed: int) -> Timing:
    """Compare rounds in which both did the same.

    Parameters
    ----------
    base, candidate : sequence of float
        One number per round.
    more_is_faster : bool
        True for a speed, False for a duration.
    seed : int
        Of the bootstrap, which draws rounds.

    Returns
    -------
    Timing
    """
    generator = np.random.default_rng(seed)
    ours, theirs = (
        np.median(np.asarray(rounds)[generator.integers(len(rounds), size=(RESAMPLES, len(rounds)))], axis=1)
        for rounds in (base, candidate)
    )
    low, high = np.quantile(theirs - ours, [0.005, 0.995])
    verdict = "within noise" if low <= 0 <= high else "faster" if (low > 0) == more_is_faster else "slower"
    return Timing(
        float(np.median(base)),
        float(np.median(candidate)),
        float(np.median(candidate) - np.median(base)),
        float(low),
        float(high),
        verdict,
        tuple(base),
        tuple(candidate),
    )
