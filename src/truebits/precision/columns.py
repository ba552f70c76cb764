"""A sample of a matrix's columns."""

from __future__ import annotations

import numpy as np

from truebits.files.mapping import MappedFile
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.numbers.words import to_singles

SPOTS = 16
"""Places of a matrix, at equal distances, that columns are taken from."""

COLUMNS = 32
"""Neighbouring columns that are taken at each."""

LENGTHS = (128, 64, 32)
"""Values that are taken of each column: the most that divide its length."""


def column_runs(file: MappedFile, tensor: Tensor, rows: int, row: int) -> np.ndarray | None:
    """Read runs of neighbours in the columns of a floating-point tensor.

    Parameters
    ----------
    file : MappedFile
    tensor : Tensor
    rows, row : int
        Rows that follow each other in one matrix (a tensor may have several), and their length.

    Returns
    -------
    ndarray of float32, shape (runs, 128), (runs, 64) or (runs, 32)
        None if the columns are no multiple of 32 long.
    """
    length = next((length for length in LENGTHS if rows % length == 0), None)
    if length is None or rows == 0 or row < COLUMNS:
        return None
    item = FLOAT_BYTES[tensor.type]
    stretches = tensor.values // row // length
    spots = np.unique(np.linspace(0, stretches - 1, SPOTS).astype(np.int64))
    firsts = np.linspace(0, row - COLUMNS, spots.size).astype(np.int64)
    at = (spots[:, None] * length + np.arange(length)) * row + firsts[:, None]
    starts = (tensor.offset + at * item).ravel().tolist()
    file.expect_all((start, start + COLUMNS * item) for start in starts)
    raw = b"".join(file.data[start : start + COLUMNS * item] for start in starts)
    file.forget(tensor.offset, tensor.offset + tensor.nbytes)
    values = to_singles(np.frombuffer(raw, f"<u{item}"), tensor.type).view(np.float32)
    return values.reshape(spots.size, length, COLUMNS).transpose(0, 2, 1).reshape(-1, length)
