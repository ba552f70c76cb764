"""One side of a comparison: a tensor of a model, read piece by piece, as bytes or as words."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm
from typing import NamedTuple

import numpy as np

from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import BY_NAME, FLOAT_BYTES, FP8_FORMATS
from truebits.numbers.words import to_singles
from truebits.quantizers.ggml import in_rows

PIECE_VALUES = 1 << 22
"""Compared at a time; half as many where words have to be made of them first."""

ITEM_BYTES = {**FLOAT_BYTES, **dict.fromkeys(FP8_FORMATS, 1)}
"""Bytes per value of the types that have no blocks."""


class Side(NamedTuple):
    """One side of a comparison: a tensor of a model, read piece by piece."""

    model: Model
    tensor: Tensor

    def map(self) -> MappedFile:
        return self.model.parts[self.tensor.part].map()

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
        import gguf

        with np.errstate(invalid="ignore", over="ignore"):  # scales that are NaN or Inf
            values = gguf.quants.dequantize(in_rows(data, *self.block), gguf.GGMLQuantizationType[own]).ravel()
        return _as_type(values.view(np.uint32), "F32", type)

    def forget(self, file: MappedFile, first: int, count: int) -> None:
        """Unmap the pages of values that were read."""
        values, nbytes = self.block
        start = self.tensor.offset + first // values * nbytes
        file.forget(start, start + count // values * nbytes)


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
