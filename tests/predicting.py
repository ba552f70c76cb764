"""What stands for a worker in tests: its logits are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Predicting:
    """A worker that writes the logits that a function gives for a chunk, and keeps what it was asked."""

    def __init__(self, name: str, logits: Callable[[np.ndarray], np.ndarray]):
        self.name, self.logits = name, logits
        self.memory: Any = None
        self.waiting: list[tuple[np.ndarray, int]] = []
        self.asked: list[tuple[int, ...]] = []

    def share(self, memory: Any) -> None:
        self.memory = memory

    def send(self, method: str, chunk: np.ndarray, slot: int) -> None:
        assert method == "score"
        assert not self.waiting
        self.waiting.append((chunk, slot))
        self.asked.append((*chunk.tolist(), slot))

    def receive(self) -> None:
        chunk, slot = self.waiting.pop()
        self.memory.arrays[slot] = self.logits(chunk)

    def ask(self, method: str, chunk: np.ndarray, slot: int) -> None:
        self.send(method, chunk, slot)
        self.receive()


VOCABULARY = 7


def drawn(chunk: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Return logits for the second half of a chunk, which depend on its tokens only."""
    random = np.random.default_rng(int(chunk.sum()))
    rows = len(chunk) - 1 - len(chunk) // 2
    return (random.normal(0, 1, (rows, VOCABULARY)) + shift * np.arange(VOCABULARY)).astype(np.float32)
