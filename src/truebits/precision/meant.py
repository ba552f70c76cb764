"""Counts of the values that a quantized checkpoint's tensors stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

import truebits_native as native
from truebits.files.model import Model
from truebits.precision.batches import Batch, Progress
from truebits.precision.counting import Piece, TensorPrecision, counted_ranges, joined, special
from truebits.quantizers.quantized import PIECE_VALUES, Quantized
from truebits_native.pool import in_order


def meant_profiles(
    model: Model,
    tensors: Sequence[Quantized],
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, TensorPrecision]:
    """Count each of a model's quantized tensors, as the F32 values that it stands for, in the order given.

    Each thread makes and counts a piece of its own.
    """
    native.expect_work("profiles", sum(one.tensor.values for one in tensors))
    found: dict[str, TensorPrecision] = {}
    total, done = sum(one.tensor.nbytes for one in tensors), 0
    with model.map() as files:

        def counted(job: tuple[Quantized, int, int]) -> tuple[list[Piece], dict[str, int]]:
            one, first, count = job
            words = one.words(files, first, count)
            one.forget(files)
            plain = one.tensor._replace(type="F32")
            ends = np.array([0]), np.array([words.size])
            pieces = [piece for _, piece in counted_ranges(Batch((plain,), words, *ends, files[plain.part], []))]
            return pieces, special("F32", pieces[0][0], words, first)

        for one in tensors:
            pieces: list[Piece] = []
            where: dict[str, int] = {}
            for some, seen in in_order(counted, _jobs(one), threads):
                pieces += some
                where = seen | where
            found[one.tensor.name] = joined(one.tensor, "F32", pieces)
            found[one.tensor.name].first = where
            done += one.tensor.nbytes
            if progress is not None:
                progress(done, total)
    return found


def _jobs(one: Quantized) -> Iterator[tuple[Quantized, int, int]]:
    step = max(1, PIECE_VALUES // max(1, one.row)) * max(1, one.row)
    for first in range(0, one.tensor.values, step):
        yield one, first, min(step, one.tensor.values - first)
