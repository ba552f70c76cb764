"""What a converter makes of a checkpoint's tensors, piece by piece, in the order of the GGUF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from truebits.comparing.sides import ITEM_BYTES, AnySide, QuantizedSide, Side
from truebits.files.mapping import Files
from truebits.files.tensor import Tensor
from truebits.lineage.layout import Strip
from truebits.lineage.matching import Pair
from truebits.numbers.words import to_singles
from truebits.precision.converters import Kind
from truebits.quantizers.meaning import Meaning


def reader_of(of: Meaning, files: Files, tensor: Tensor) -> AnySide:
    """Return what reads a tensor that is meant in the order of its file."""
    quantized = None if tensor.type in ITEM_BYTES else of.quantized.get(tensor.name)
    return QuantizedSide(quantized.as_stored or quantized, files) if quantized else Side(tensor, files)


def why_unread(of: Meaning, files: Files, pair: Pair) -> str | None:
    """Say why the sources of a pair cannot be read as values of one type; None if they can."""
    for tensor in pair.sources:
        if tensor.name in of.not_read:
            return of.not_read[tensor.name]
    types = {reader_of(of, files, tensor).type for tensor in pair.sources}
    return f"the source is {' and '.join(sorted(types))}" if len(types) > 1 or not types <= ITEM_BYTES.keys() else None


class Expected:
    """The source side of a pair, in the order and with the values that a converter gives it.

    Parameters
    ----------
    readers : sequence of AnySide
        Of the pair's sources.
    pair : Pair
        Without a problem, and with sources.
    """

    def __init__(self, readers: Sequence[AnySide], pair: Pair):
        self.pair = pair
        self.readers = readers
        self.type = readers[0].type
        self.values = pair.tensor.values
        self._pieces: dict[int, Strip] = {}

    def spans(self, block: int) -> Iterator[tuple[int, int]]:
        """Yield the first value and the number of values of each piece: whole blocks.

        Only these can be asked for afterwards.
        """
        first = 0
        for strip in self.pair.strips:
            for piece in strip.pieces(block):
                self._pieces[first] = piece
                yield first, piece.values
                first += piece.values

    def words(self, first: int, count: int, is_ordered: bool = True) -> np.ndarray:
        """Return the source's own words; `is_ordered` False: in the source's order, which only broken files have."""
        if not is_ordered:
            return self._as_they_stand(first, count)
        piece = self._pieces[first]
        return piece.gather(self.readers[piece.source].words(piece.offset, piece.extent, self.type))

    def _as_they_stand(self, first: int, count: int) -> np.ndarray:
        each, found = self.values // len(self.readers), []
        while count:
            number, start = divmod(first, each)
            some = min(count, each - start)
            found.append(self.readers[number].words(start, some, self.type))
            first, count = first + some, count - some
        return found[0] if len(found) == 1 else np.concatenate(found)

    def forget(self, first: int) -> None:
        """Unmap the pages of a piece that was read."""
        piece = self._pieces[first]
        if piece.is_contiguous:
            self.readers[piece.source].forget(piece.offset, piece.values)

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
        """Tell whether values or their order in the GGUF are not the source's own, all of them."""
        is_all = sum(source.values for source in self.pair.sources) == self.values
        is_moved = is_all and (len(self.pair.strips) > len(self.readers) or not self.pair.strips[0].is_contiguous)
        return self.is_computed or is_moved

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
