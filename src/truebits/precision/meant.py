"""Counts of the values that a quantized checkpoint's tensors stand for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import truebits_native as native
from truebits.files.model import Model
from truebits.precision.batches import Batch, Progress, stepper
from truebits.precision.counting import Counts, TensorPrecision, count_batch, joined
from truebits.quantizers.quantized import Quantized
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
    step = stepper(progress, sum(one.tensor.nbytes for one in tensors))
    with model.map() as files:

        def counted(job: tuple[Quantized, int, int]) -> Counts:
            one, first, count = job
            words = one.words(files, first, count)
            one.forget(files)
            plain = one.tensor._replace(type="F32")
            range_ = np.array([0]), np.array([words.size]), np.array([first])
            return count_batch(Batch((plain,), words, *range_, files[plain.part], []))

        for one in tensors:
            jobs = ((one, *span) for span in one.spans())
            name, counts = one.tensor.name, Counts.merge(in_order(counted, jobs, threads))
            found[name] = joined(one.tensor, "F32", counts.pieces.get(name, ()))
            found[name].first = counts.first.get(name, {})
            step(one.tensor.nbytes)
    return found
