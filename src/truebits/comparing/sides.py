"""One side of a comparison: a tensor of a model, read piece by piece, as bytes or as words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from math import lcm
from typing import NamedTuple

import numpy as np

from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import BY_NAME, FLOAT_BYTES, FP8_FORMATS
from truebits.numbers.words import to_singles
from truebits.quantizers.blocks import block_values
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.quantized import Quantized

PIECE_VALUES = 1 << 22
"""Compared at a time; half as many where words have to be made of them first."""

ITEM_BYTES = {**FLOAT_BYTES, **dict.fromkeys(FP8_FORMATS, 1)}
"""Bytes per value of the types that have no blocks."""


class Side(NamedTuple):
    """One side of a comparison: a tensor of a model, read piece by piece."""

    model: Model
    tensor: Tensor

    def map(self) -> AbstractContextManager[MappedFile]:
        return self.model.parts[self.tensor.part].map()

    def stored(self, file: MappedFile) -> Iterator[tuple[MappedFile, Tensor]]:
        """Yield what is stored of the tensor, and where."""
        yield file, self.tensor

    @property
    def block(self) -> tuple[int, int]:
        """Values and bytes of a block."""
        if self.tensor.type in ITEM_BYTES:
            return 1, ITEM_BYTES[self.tensor.type]
        layout = BY_NAME[self.tensor.type]
        return layout.values, layout.nbytes

    def expect(self, file: MappedFile) -> None:
        """Say that the whole tensor will be read."""
        file.expect(self.tensor.offset, self.tensor.offset + self.tensor.nbytes)

    def bytes(self, file: MappedFile, first: int, count: int) -> np.ndarray:
        """View the bytes of `count` values, whole blocks, from value `first` on."""
        file.check()
        values, nbytes = self.block
        size, start = count // values * nbytes, self.tensor.offset + first // values * nbytes
        file.expect_all([(start, start + size)])
        return np.frombuffer(file.data, np.uint8, size, start)

    def words(self, file: MappedFile, first: int, count: int, type: str) -> np.ndarray:
        """Return values as words of `type`: their own, F32, or F64."""
        data = self.bytes(file, first, count)
        own = self.tensor.type
        if own in ITEM_BYTES:
            words = data.view(f"<u{ITEM_BYTES[own]}")
            return words if own == type else _as_type(words, own, type)
        return _as_type(block_values(data, own).view(np.uint32), "F32", type)

    def forget(self, file: MappedFile, first: int, count: int) -> None:
        """Unmap the pages of values that were read."""
        values, nbytes = self.block
        start = self.tensor.offset + first // values * nbytes
        file.forget(start, start + count // values * nbytes)


class QuantizedSide:
    """One side of a comparison: a tensor of a quantized checkpoint, which may be spread over several files."""

    def __init__(self, model: Model, quantized: Quantized):
        self.model, self.quantized = model, quantized
        self.tensor = quantized.tensor
        self.files: dict[int, MappedFile] = {}
        self.block = 1, 0

    @contextmanager
    def map(self) -> Iterator[MappedFile]:
        with ExitStack() as stack:
            parts = {tensor.part for tensor in self.quantized.sources.values()}
            self.files = {number: stack.enter_context(self.model.parts[number].map()) for number in parts}
            yield next(iter(self.files.values()))

    def stored(self, file: MappedFile) -> Iterator[tuple[MappedFile, Tensor]]:
        """Yield what is stored of the tensor, and where."""
        for tensor in self.quantized.sources.values():
            yield self.files[tensor.part], tensor

    def expect(self, file: MappedFile) -> None:
        """Say that the whole tensor will be read."""
        for of, tensor in self.stored(file):
            of.expect(tensor.offset, tensor.offset + tensor.nbytes)

    def bytes(self, file: MappedFile, first: int, count: int) -> np.ndarray:
        """Raise TypeError: a value has no bytes of its own."""
        raise TypeError(f"{self.tensor.type} has no bytes by value")

    def words(self, file: MappedFile, first: int, count: int, type: str) -> np.ndarray:
        """Return values as words of `type`: F32, or F64."""
        return _as_type(self.quantized.words(self.files, first, count), "F32", type)

    def forget(self, file: MappedFile, first: int, count: int) -> None:
        """Unmap the pages of what is stored."""
        self.quantized.forget(self.files)


AnySide = Side | QuantizedSide


def side_of(of: Meaning, tensor: Tensor) -> AnySide:
    """Return the side of a tensor that is meant."""
    is_words = tensor.type in ITEM_BYTES or tensor.name not in of.quantized
    return Side(of.model, tensor) if is_words else QuantizedSide(of.model, of.quantized[tensor.name])


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
