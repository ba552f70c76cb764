"""A base's predictions, decoded once and kept, for any number of candidates to be held against one after another."""

from __future__ import annotations

import hashlib

import numpy as np

from truebits.errors import EvaluationFailed
from truebits.evaluation.scores import Scores, compare
from truebits.evaluation.worker import SharedLogits, Worker


class Baseline:
    """The base's logits for the second half of each chunk of a text.

    Parameters
    ----------
    base : Worker
        Not needed any more afterwards.
    chunks : ndarray of int32, shape (chunks, tokens)
    vocabulary : int
        Tokens in it.

    Attributes
    ----------
    chunks : ndarray of int32
    digest : str
        SHA-256 of all logits: what every result depends on.

    Raises
    ------
    EvaluationFailed
    OSError
        There is not enough memory for so many logits.
    """

    def __init__(self, base: Worker, chunks: np.ndarray, vocabulary: int):
        tokens = chunks.shape[1]
        self.chunks = chunks
        self.memory = SharedLogits(len(chunks) + 2, tokens - 1 - tokens // 2, vocabulary)
        try:
            base.share(self.memory)
            for slot, chunk in enumerate(chunks):
                base.ask("score", chunk, slot)
            logits = self.memory.arrays[: len(chunks)]
            if not np.isfinite(logits).all():
                raise EvaluationFailed(f"{base.name}: there are NaN or Inf among its logits")
            self.digest = hashlib.sha256(logits.data).hexdigest()
        except BaseException:
            self.close()
            raise

    def score(self, candidate: Worker, chunks: int | None = None) -> Scores:
        """Hold a loaded candidate against the base; while it decodes a chunk the one before is compared.

        Parameters
        ----------
        candidate : Worker
        chunks : int, optional
            Only the first so many.

        Raises
        ------
        EvaluationFailed
        """
        candidate.share(self.memory)
        found: list[Scores] = []
        count = len(self.chunks) if chunks is None else chunks
        for number in range(count + 1):
            if number < count:
                candidate.send("score", self.chunks[number], self._slot(number))
            if number:
                found.append(self._compare(candidate, number - 1))
            if number < count:
                candidate.receive()
        return Scores.joined(found)

    def _slot(self, number: int) -> int:
        return len(self.chunks) + number % 2

    def _compare(self, candidate: Worker, number: int) -> Scores:
        right = self.chunks[number, self.chunks.shape[1] // 2 + 1 :]
        scores = compare(self.memory.arrays[number], self.memory.arrays[self._slot(number)], right)
        if not np.isfinite(scores.divergence).all():
            raise EvaluationFailed(f"{candidate.name}: there are NaN or Inf among its logits")
        return scores

    def close(self) -> None:
        """Give the memory back."""
        self.memory.close()
