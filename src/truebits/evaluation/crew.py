"""Models of one vocabulary, loaded side by side, and the chunks of a text that they are to predict."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from truebits.errors import UsageError
from truebits.evaluation.inference import LoadSettings, Vocabulary
from truebits.evaluation.worker import Worker

BATCH = 512
"""Tokens that llama.cpp decodes at a time, at most."""

SMALLEST_CONTEXT = 8
SMALLEST_ROUNDS = 5
"""Of fewer, chance alone too often makes all speak for the same model."""


def settings_of(n_ctx: int, threads: int | None, backend: str | None) -> LoadSettings:
    """Return how models are loaded: with all threads, where it is not said."""
    return LoadSettings(n_ctx, min(n_ctx, BATCH), threads or len(os.sched_getaffinity(0)), backend)


def check_numbers(*, n_ctx: int, chunks: int | None, threads: int | None, rounds: int, answer_tokens: int) -> None:
    """Raise `UsageError` where a number is out of range."""
    if n_ctx < SMALLEST_CONTEXT:
        raise UsageError(f"a context of {n_ctx} tokens is too short: give at least {SMALLEST_CONTEXT}")
    for name, number in (("chunks", chunks), ("threads", threads), ("tokens per answer", answer_tokens)):
        if number is not None and number < 1:
            raise UsageError(f"{number} {name}: give at least 1")
    if rounds < 0 or 0 < rounds < SMALLEST_ROUNDS:
        raise UsageError(f"{rounds} rounds tell nothing from chance: give at least {SMALLEST_ROUNDS}, or 0 for none")


def load_models(crew: Sequence[Worker], n_ctx: int) -> Vocabulary:
    """Load all models; return the vocabulary that they share.

    Raises
    ------
    UsageError
        They do not share one, or one was trained for less context.
    """
    for method in ("load", "vocabulary"):
        for worker in crew:
            worker.send(method)
        found = [worker.receive() for worker in crew]
    base, *others = found
    for worker, vocabulary in zip(crew, found, strict=True):
        if vocabulary.trained_context < n_ctx:
            raise UsageError(
                f"{worker.name}: was trained for {vocabulary.trained_context} tokens of context, not {n_ctx}"
            )
    for worker, other in zip(crew[1:], others, strict=True):
        if other.size != base.size:
            raise UsageError(
                f"{worker.name}: has another vocabulary: {other.size:,} tokens, the base has {base.size:,}"
            )
        if (other.digest, other.bos) != (base.digest, base.bos):
            raise UsageError(f"{worker.name}: has another vocabulary: as many tokens as the base, but not the same")
    return base


def cut_chunks(tokens: np.ndarray, vocabulary: Vocabulary, n_ctx: int, limit: int | None) -> np.ndarray:
    """Cut a text's tokens into chunks, each with the token that begins a text in place of its first.

    Returns
    -------
    ndarray of int32, shape (chunks, n_ctx)

    Raises
    ------
    UsageError
        There is not one.
    """
    count = min(len(tokens) // n_ctx, limit or len(tokens))
    if not count:
        raise UsageError(f"the text has {len(tokens):,} tokens; one chunk takes {n_ctx:,}")
    chunks = tokens[: count * n_ctx].reshape(count, n_ctx)
    if vocabulary.bos is not None:
        chunks[:, 0] = vocabulary.bos
    return chunks
