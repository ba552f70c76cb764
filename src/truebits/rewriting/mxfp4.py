"""Matrices that hold nothing but values of MXFP4, which is not rebuilt in checkpoints: told, so that nobody wonders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.precision.columns import COLUMNS, column_runs
from truebits.quantizers.upcasts import repacked
from truebits.rewriting.narrowest import SAMPLE, singles
from truebits_native.types import LAYOUTS

SIZE = LAYOUTS["MXFP4"].values

LEAST_MAGNITUDES = 4
"""Different ones: fewer are a constant, or ternary."""

NOT_REBUILT = "MXFP4, which is not rebuilt in checkpoints"


def once_mxfp4(model: Model, tensors: Iterable[Tensor]) -> Iterator[str]:
    """Yield the names of matrices that were MXFP4 before, by a few blocks of rows, or of columns (gpt-oss)."""
    for tensor in tensors:
        if len(tensor.shape) > 1 and tensor.values >= SIZE:
            with model.parts[tensor.part].map() as file:
                if any(map(_are_blocks, _samples(file, tensor, *model.rows(tensor)))):
                    yield tensor.name


def _samples(file: MappedFile, tensor: Tensor, rows: int, row: int) -> Iterator[np.ndarray]:
    """Yield the F32 words of some blocks along rows, and along columns, as far as there can be such."""
    if row % SIZE == 0:
        blocks = np.unique(np.linspace(0, tensor.values // SIZE - 1, SAMPLE).astype(np.int64)).tolist()
        yield np.concatenate([singles(file, tensor, block * SIZE, SIZE) for block in blocks])
    runs = column_runs(file, tensor, rows, row)
    if runs is not None:
        yield np.ascontiguousarray(runs[::COLUMNS]).reshape(-1).view(np.uint32)


def _are_blocks(words: np.ndarray) -> bool:
    magnitudes = np.unique(words & np.uint32(0x7FFFFFFF))
    return magnitudes.size >= LEAST_MAGNITUDES and bool(repacked(words, "MXFP4").held.all())
