"""Chunks of a text through a base and its candidates.

The models decode in turn, each with all threads. While one does, the statistics of what the one before left
in shared memory are computed: each model writes to one of two slots, and to the other the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np

from truebits.errors import EvaluationFailed
from truebits.evaluation.scores import Scores, compare
from truebits.evaluation.worker import SharedLogits, Worker

REPEAT_EVERY = 20
"""The base decodes the first of so many chunks twice, to see what a repetition alone changes."""


def steps(chunks: int, models: int) -> int:
    """Return how many times a chunk is decoded."""
    return chunks * models + -(-chunks // REPEAT_EVERY)


def score_chunks(crew: Sequence[Worker], chunks: np.ndarray, vocabulary: int, step: Callable[[], None]) -> list[Scores]:
    """Score the second half of each chunk with all models.

    Parameters
    ----------
    crew : sequence of Worker
        The base, then the candidates.
    chunks : ndarray of int32, shape (chunks, tokens)
    vocabulary : int
        Tokens in it.
    step : callable
        Called when a chunk is decoded.

    Returns
    -------
    list of Scores
        The base against itself, then each candidate against the base.

    Raises
    ------
    EvaluationFailed
        A process died, llama.cpp cannot decode, or logits are not finite.
    OSError
        There is not enough memory to share.
    """
    tokens = chunks.shape[1]
    with closing(SharedLogits(4, tokens - 1 - tokens // 2, vocabulary)) as memory:
        for worker in crew:
            worker.share(memory)
        scoring = _Scoring(crew, memory, step)
        for number, chunk in enumerate(chunks):
            scoring.add(number, chunk)
        scoring.catch_up()
    return [Scores.joined(parts) for parts in scoring.found]


class _Scoring:
    """Scores as they come.

    Attributes
    ----------
    found : list of list of Scores
        By model and chunk.
    """

    def __init__(self, crew: Sequence[Worker], memory: SharedLogits, step: Callable[[], None]):
        self.crew = crew
        self.memory = memory
        self.step = step
        self.found: list[list[Scores]] = [[] for _ in crew]
        self.waiting: tuple[int, int, int, np.ndarray] | None = None
        self.turn = 0

    def add(self, number: int, chunk: np.ndarray) -> None:
        """Decode a chunk with all models; the statistics of the last one are still to come."""
        ours = number % 2
        self._decode(self.crew[0], chunk, ours)
        for who in range(1 if number % REPEAT_EVERY else 0, len(self.crew)):
            theirs = 2 + self.turn % 2
            self.turn += 1
            self._decode(self.crew[who], chunk, theirs)
            self.waiting = who, ours, theirs, chunk[len(chunk) // 2 + 1 :]

    def _decode(self, worker: Worker, chunk: np.ndarray, slot: int) -> None:
        worker.send("score", chunk, slot)
        self.catch_up()
        worker.receive()
        self.step()

    def catch_up(self) -> None:
        """Compute the statistics that wait for it."""
        if self.waiting is None:
            return
        who, ours, theirs, right = self.waiting
        self.waiting = None
        scores = compare(self.memory.arrays[ours], self.memory.arrays[theirs], right)
        for number, values in ((0, scores.base), (who, scores.candidate), (who, scores.divergence)):
            if not np.isfinite(values).all():
                raise EvaluationFailed(f"{self.crew[number].name}: there are NaN or Inf among its logits")
        self.found[who].append(scores)
