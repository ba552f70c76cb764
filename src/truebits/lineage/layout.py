"""Where each value of a GGUF tensor stands in the checkpoint: strips of its sources, in the GGUF's order.

What a converter does to the order of values (split, join, permute, transpose) is done to an outline of each
source: an array of its shape without any data. What comes out tells by its strides which value goes where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

PIECE_VALUES = 1 << 20
"""Values read at a time; more where they only come together."""

Arrange = Callable[[np.ndarray], Sequence[np.ndarray]]
"""From an outline of a source, views of it, in the order of the GGUF."""


class Strip(NamedTuple):
    """Values of one source, as strides tell.

    Attributes
    ----------
    source : int
        Its number among the sources.
    offset : int
        Of the first value, in values.
    shape, strides : tuple of int
        Strides in values.
    """

    source: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def values(self) -> int:
        return prod(self.shape)

    @property
    def extent(self) -> int:
        """Values of the source from the first to the last of these."""
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def is_contiguous(self) -> bool:
        return self.extent == self.values and self.strides == _steps(self.shape)

    def pieces(self, block: int) -> Iterator[Strip]:
        """Cut it in pieces of about `PIECE_VALUES`, each of whole blocks."""
        strip = self
        if self.is_contiguous:
            strip = Strip(self.source, self.offset, (self.values,), (1,))
        axis = next(at for at in range(len(strip.shape)) if prod(strip.shape[at + 1 :]) <= PIECE_VALUES)
        while axis and prod(strip.shape[axis:]) % block:
            axis -= 1
        inner = prod(strip.shape[axis + 1 :])
        step = max(1, PIECE_VALUES // inner)
        if axis:
            step = strip.shape[axis] if inner % block else step
        else:
            step = max(1, step // block) * block if inner % block else step
        for index in np.ndindex(*strip.shape[:axis]):
            start = strip.offset + sum(i * stride for i, stride in zip(index, strip.strides, strict=False))
            for first in range(0, strip.shape[axis], step):
                some = min(step, strip.shape[axis] - first)
                at = start + first * strip.strides[axis]
                yield Strip(strip.source, at, (some, *strip.shape[axis + 1 :]), strip.strides[axis:])

    def gather(self, words: np.ndarray) -> np.ndarray:
        """Put words of the source, from `offset` on and `extent` of them, in the GGUF's order."""
        if self.is_contiguous:
            return words
        strides = tuple(stride * words.itemsize for stride in self.strides)
        return as_strided(words, self.shape, strides, writeable=False).reshape(-1)


def strips(shapes: Sequence[tuple[int, ...]], arrange: Arrange) -> tuple[Strip, ...]:
    """Return the strips that a GGUF tensor consists of.

    Parameters
    ----------
    shapes : sequence of tuple of int
        Of its sources, in their order.
    arrange : callable
        What is done to each.

    Raises
    ------
    ValueError
        A source cannot be arranged so.
    """
    found = []
    for number, shape in enumerate(shapes):
        outline = as_strided(np.zeros(1, np.uint8), shape, _steps(shape))
        start = _address(outline)
        found += [
            Strip(number, _address(view) - start, view.shape or (1,), view.strides or (1,)) for view in arrange(outline)
        ]
    return tuple(found)


def whole(outline: np.ndarray) -> list[np.ndarray]:
    """Arrange nothing."""
    return [outline]


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[at + 1 :]) for at in range(len(shape)))


def _address(view: np.ndarray) -> int:
    return int(view.__array_interface__["data"][0])
