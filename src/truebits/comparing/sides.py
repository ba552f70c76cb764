"""One side of a comparison: a tensor of a model, read piece by piece, as bytes or as words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import lcm

import numpy as np

from truebits.files.mapping import Files, MappedFile
from truebits.files.tensor import Tensor
from truebits.files.types import BY_NAME, FLOAT_BYTES, FP8_FORMATS
from truebits.numbers.words import to_singles
from truebits.quantizers.blocks import block_values, has_values
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.quantized import Quantized

PIECE_VALUES = 1 << 22
"""Compared at a time; half as many where words have to be made of them first."""

ITEM_BYTES = {**FLOAT_BYTES, **dict.fromkeys(FP8_FORMATS, 1)}
"""Bytes per value of the types that have no blocks."""


class Side:
    """One side of a comparison: a tensor as it stands in its file, read piece by piece.

    Parameters
    ----------
    tensor : Tensor
    files : mapping of int to MappedFile
        The file that it stands in, by number.
    """

    def __init__(self, tensor: Tensor, files: Files):
        self.tensor, self.file = tensor, files[tensor.part]

    @property
    def type(self) -> str:
        """Whose words its values are: its own; of blocks that are read here F32."""
        own = self.tensor.type
        return "F32" if own not in ITEM_BYTES and has_values(own) else own

    @property
    def stored(self) -> list[tuple[MappedFile, Tensor]]:
        """What is stored of it, and where."""
        return [(self.file, self.tensor)]

    @property
    def block(self) -> tuple[int, int]:
        """Values and bytes of a block."""
        if self.tensor.type in ITEM_BYTES:
            return 1, ITEM_BYTES[self.tensor.type]
        layout = BY_NAME[self.tensor.type]
        return layout.values, layout.nbytes

    def bytes(self, first: int, count: int) -> np.ndarray:
        """View the bytes of `count` values, whole blocks, from value `first` on."""
        self.file.check()
        values, nbytes = self.block
        size, start = count // values * nbytes, self.tensor.offset + first // values * nbytes
        self.file.expect_all([(start, start + size)])
        return np.frombuffer(self.file.data, np.uint8, size, start)

    def words(self, first: int, count: int, type: str) -> np.ndarray:
        """Return values as words of `type`: their own, F32, or F64."""
        data = self.bytes(first, count)
        own = self.tensor.type
        if own in ITEM_BYTES:
            words = data.view(f"<u{ITEM_BYTES[own]}")
            return words if own == type else _as_type(words, own, type)
        return _as_type(block_values(data, own).view(np.uint32), "F32", type)

    def forget(self, first: int, count: int) -> None:
        """Unmap the pages of values that were read."""
        values, nbytes = self.block
        start = self.tensor.offset + first // values * nbytes
        self.file.forget(start, start + count // values * nbytes)


class QuantizedSide:
    """One side of a comparison: a tensor of a quantized checkpoint, which may be spread over several files.

    Parameters
    ----------
    quantized : Quantized
    files : mapping of int to MappedFile
        The files of its sources, by number.
    """

    type = "F32"
    block = 1, 0

    def __init__(self, quantized: Quantized, files: Files):
        self.quantized, self.files = quantized, files
        self.tensor = quantized.tensor

    @property
    def stored(self) -> list[tuple[MappedFile, Tensor]]:
        """What is stored of it, and where."""
        return [(self.files[tensor.part], tensor) for tensor in self.quantized.sources.values()]

    def bytes(self, first: int, count: int) -> np.ndarray:
        """Raise TypeError: a value has no bytes of its own."""
        raise TypeError(f"{self.tensor.type} has no bytes by value")

    def words(self, first: int, count: int, type: str) -> np.ndarray:
        """Return values as words of `type`: F32, or F64."""
        return _as_type(self.quantized.words(self.files, first, count), "F32", type)

    def forget(self, first: int, count: int) -> None:
        """Unmap the pages of what is stored."""
        self.quantized.forget(self.files)


AnySide = Side | QuantizedSide


@contextmanager
def side_of(of: Meaning, tensor: Tensor) -> Iterator[AnySide]:
    """Map what is stored of a tensor that is meant, and give it as a side."""
    quantized = None if tensor.type in ITEM_BYTES else of.quantized.get(tensor.name)
    if quantized is None:
        with of.model.parts[tensor.part].map() as file:
            yield Side(tensor, {tensor.part: file})
    else:
        with of.model.map({source.part for source in quantized.sources.values()}) as files:
            yield QuantizedSide(quantized, files)


def _as_type(words: np.ndarray, own: str, type: str) -> np.ndarray:
    if type != "F64":
        return to_singles(words, own)
    if own == "F64":
        return words
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return to_singles(words, own).view("<f4").astype("<f8").view("<u8")


def spans(values: int, size: int, *blocks: int) -> Iterator[tuple[int, int]]:
    """Yield the first value and the number of values of each piece of about `size`, in whole blocks of both sides."""
    together = lcm(*blocks)
    step = max(1, size // together) * together
    for first in range(0, values, step):
        yield first, min(step, values - first)
