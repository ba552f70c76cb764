"""What a converter makes of a checkpoint's tensors, piece by piece, in the order of the GGUF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import lcm

import numpy as np

from truebits.comparing.diff import Side
from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.lineage.matching import Pair
from truebits.precision.converters import Kind
from truebits.quantizers.quantize import to_singles

PIECE_VALUES = 1 << 20
"""Values read at a time; more where they only come together, as those of a head of a huge model."""

Files = Mapping[int, MappedFile]


class Expected:
    """The source side of a pair, in the order and with the values that a converter gives it.

    Parameters
    ----------
    source : Model
    files : mapping of int to MappedFile
        The checkpoint's files, by the number of the part.
    pair : Pair
        Without a problem, and with sources.
    """

    def __init__(self, source: Model, files: Files, pair: Pair):
        self.pair = pair
        self.files = files
        self.type = pair.sources[0].type
        self.values = pair.tensor.values
        shape = pair.sources[0].shape
        sides = [(Side(source, tensor), 0) for tensor in pair.sources]
        if pair.half is not None:
            each = shape[-1] * (shape[-2] // 2)
            sides = [(sides[0][0], (2 * i + pair.half) * each) for i in range(self.values // each)]
        self.sides = sides
        self.each = self.values // len(sides)
        self.row = shape[-1] if len(shape) > 1 else 1
        self.head = self.each // pair.heads if pair.heads else 1
        self.column = shape[0] if pair.has(Kind.TRANSPOSED) else 1

    def spans(self, block: int) -> Iterator[tuple[int, int]]:
        """Yield the first value and the number of values of each piece: whole blocks, heads and columns."""
        together = lcm(block, self.head, self.column)
        step = max(1, PIECE_VALUES // together) * together
        for first in range(0, self.values, step):
            yield first, min(step, self.values - first)

    def words(self, first: int, count: int, is_ordered: bool = True) -> np.ndarray:
        """Return the source's own words; `is_ordered` False: in the source's order, which only broken files have."""
        if self.column > 1 and is_ordered:
            return self._columns(first, count)
        found = []
        while count:
            side, start, some = self._run(first, count)
            found.append(side.words(self.files[side.tensor.part], start, some, self.type))
            first, count = first + some, count - some
        words = found[0] if len(found) == 1 else np.concatenate(found)
        if self.pair.heads and is_ordered:
            halves = words.reshape(-1, 2, self.head // self.row // 2, self.row)
            return halves.swapaxes(1, 2).reshape(-1)
        return words

    def _columns(self, first: int, count: int) -> np.ndarray:
        side, _ = self.sides[0]
        matrix = side.words(self.files[side.tensor.part], 0, self.values, self.type).reshape(self.column, -1)
        return matrix[:, first // self.column : (first + count) // self.column].T.reshape(-1)

    def forget(self, first: int, count: int) -> None:
        """Unmap the pages of a piece that was read."""
        if self.column > 1:
            return
        while count:
            side, start, some = self._run(first, count)
            side.forget(self.files[side.tensor.part], start, some)
            first, count = first + some, count - some

    def _run(self, first: int, count: int) -> tuple[Side, int, int]:
        """Return where a piece begins: in which tensor, at which of its values, and how many follow there."""
        number, start = divmod(first, self.each)
        side, offset = self.sides[number]
        return side, offset + start, min(count, self.each - start)

    @property
    def shift(self) -> float:
        return sum(row.amount for row in self.pair.transforms if row.kind is Kind.ADDED)

    @property
    def is_exponential(self) -> bool:
        return self.pair.has(Kind.EXPONENTIAL)

    @property
    def is_computed(self) -> bool:
        """Tell whether the converter makes other values of the source's, that `computed` gives."""
        return bool(self.shift) or self.is_exponential

    @property
    def is_transformed(self) -> bool:
        """Tell whether values or their order in the GGUF are not the source's own."""
        return self.is_computed or bool(self.pair.heads) or self.column > 1

    def computed(self, singles: np.ndarray) -> np.ndarray:
        """Do to F32 words what the converter does to values, in F32 as it does.

        ``-exp`` is rounded correctly here; a converter's may be off by one unit in the last place.
        """
        if self.shift:
            return (singles.view("<f4") + np.float32(self.shift)).view("<u4")
        if self.is_exponential:
            with np.errstate(over="ignore"):
                return (-np.exp(singles.view("<f4").astype("<f8"))).astype("<f4").view("<u4")
        return singles

    def singles(self, words: np.ndarray, threads: int | None = None) -> np.ndarray:
        """Return the source's words as F32 words, a copy."""
        singles = to_singles(words, self.type, threads)
        return singles.copy() if singles is words or singles.base is not None else singles
