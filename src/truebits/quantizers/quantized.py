"""A tensor of a quantized checkpoint: the values that its codes and scales stand for, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from truebits.errors import TruebitsError
from truebits.files.mapping import Files, MappedFile
from truebits.files.tensor import Tensor
from truebits.files.types import BY_NAME
from truebits.numbers.words import to_singles
from truebits.quantizers.unpacking import e8m0_table

PIECE_VALUES = 1 << 19
"""Made at a time, about."""

DTYPES = {"I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "BOOL": "<u1"}


class Unread(TruebitsError):
    """Tensors that do not fit together as their format says: the reason why they are not read."""


class Stored:
    """One tensor as it stands in its file.

    Parameters
    ----------
    file : MappedFile
    tensor : Tensor
    """

    def __init__(self, file: MappedFile, tensor: Tensor):
        self.type = tensor.type
        layout = BY_NAME[tensor.type]
        is_blocks = layout.values > 1
        dtype = np.dtype("u1" if is_blocks else DTYPES.get(tensor.type, f"<u{max(1, layout.nbytes)}"))
        items = tensor.nbytes // dtype.itemsize
        start = tensor.offset if items else 0  # an empty tensor may stand past the end of the file
        file.expect_all([(start, start + tensor.nbytes)] if items else [])
        flat = np.frombuffer(file.data, dtype, items, start)
        if is_blocks:
            self.words = flat.reshape(-1, layout.nbytes)
        else:
            self.words = flat.reshape(tensor.shape) if items == tensor.values else flat

    def singles(self, words: np.ndarray) -> np.ndarray:
        """Return some of `words` as float32 values, of the same shape."""
        if self.type in DTYPES or self.type.startswith("U"):
            return words.astype(np.float32)
        if self.type == "F8_E8M0":
            return e8m0_table()[words]
        own = np.array(words, order="C").reshape(-1)  # the kernels want it aligned
        return to_singles(own, self.type).view(np.float32).reshape(words.shape)

    def values(self) -> np.ndarray:
        """Return all of it as float32 values."""
        return self.singles(self.words)


Arrays = Mapping[str, Stored]
"""The stored tensors of a quantized one, by role."""

Rows = Callable[[Arrays, int, int], np.ndarray]
"""From stored tensors, the first row and the one after the last: their values, float32 of shape (rows, row)."""


Peek = Callable[[Tensor], bytes]
"""Reads a small stored tensor whole."""


@dataclass(frozen=True)
class Quantized:
    """A tensor that is stored as several.

    Attributes
    ----------
    tensor : Tensor
        As it is meant: its name without what quantizers add, its own shape, the format's name as its type
        (``GPTQ 4-bit``), and in `nbytes` all that is stored of it.
    sources : dict of str to Tensor
        What is read of what is stored, by role: ``weight``, ``scale``, ``zero``.
    rows : callable
        See `Rows`.
    computed_in : str
        F32, BF16 or F16: what the format's own code rounds each value to; `words` are exact, or rounded to F32.
    as_stored : Quantized or None
        The same values in the order in which they are stored, where that is another one (gpt-oss keeps its experts
        out x in, and means them in x out).
    block : int or None
        Values of a block, which counts as a row, where each is read by itself.
    """

    tensor: Tensor
    sources: dict[str, Tensor]
    rows: Rows = field(repr=False)
    computed_in: str = "F32"
    as_stored: Quantized | None = None
    block: int | None = None

    @property
    def row(self) -> int:
        """Values of a row."""
        return self.block or (self.tensor.shape[-1] if self.tensor.shape else 1)

    def words(self, files: Files, first: int, count: int) -> np.ndarray:
        """Return the F32 words of `count` values from value `first` on: a new array.

        Parameters
        ----------
        files : mapping of int to MappedFile
            The files of the model, by number.

        Raises
        ------
        FileChanged
        """
        if not count:
            return np.empty(0, np.uint32)
        for part in {tensor.part for tensor in self.sources.values()}:
            files[part].check()
        start, stop = first // self.row, -(-(first + count) // self.row)
        arrays = {role: Stored(files[tensor.part], tensor) for role, tensor in self.sources.items()}
        with np.errstate(all="ignore"):  # scales that are NaN, Inf or too large
            values = self.rows(arrays, start, stop)
        at = first - start * self.row
        return np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)[at : at + count]

    def spans(self, size: int = PIECE_VALUES) -> Iterator[tuple[int, int]]:
        """Yield the first value and the number of values of each piece: whole rows, about `size` values."""
        step = max(1, size // max(1, self.row)) * max(1, self.row)
        for first in range(0, self.tensor.values, step):
            yield first, min(step, self.tensor.values - first)

    def pieces(self, files: Files, size: int = PIECE_VALUES) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of the first value and the F32 words of each piece of `spans`."""
        for first, count in self.spans(size):
            yield first, self.words(files, first, count)
            self.forget(files)

    def forget(self, files: Files) -> None:
        """Unmap the pages of what is stored, so that memory stays flat."""
        for tensor in self.sources.values():
            files[tensor.part].forget(tensor.offset, tensor.offset + tensor.nbytes)


def meant(name: str, type: str, shape: tuple[int, ...], sources: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor that stored ones stand for; its offset is that of the first."""
    first = next(iter(sources.values()))
    nbytes = sum(tensor.nbytes for tensor in sources.values())
    return Tensor(name, type, shape, first.offset, nbytes, prod(shape), first.part)


def need(sources: Mapping[str, Tensor], role: str) -> Tensor:
    """Return the stored tensor of a role; raises `Unread` if there is none."""
    if role not in sources:
        raise Unread(f"its {role} is absent")
    return sources[role]
