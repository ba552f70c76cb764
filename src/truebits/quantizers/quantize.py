"""A format put to work on the words of one tensor.

Every kind of format is a class with the same three things: how many values belong together, what has to
be known of the whole tensor before the first of them is rounded, and the rounding itself, in place.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

import truebits_native as native
from truebits.errors import UsageError
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_FORMATS
from truebits.numbers.formats import Format, Integer, Shared, Target
from truebits.numbers.rounding import MODES, Quantizer, Rounding, Words, grid_of, key_of
from truebits.numbers.spelling import find
from truebits.numbers.words import to_singles
from truebits.quantizers.ggml import GgmlQuantizer
from truebits.quantizers.scales import IntegerQuantizer, Q8Quantizer, SharedQuantizer
from truebits_native import reference
from truebits_native.reference import Difference


def quantizer(target: Target, tensor: Tensor, row: int, rounding: Rounding) -> Quantizer:
    """Put a format to work on a tensor whose rows have `row` values.

    Raises
    ------
    UsageError
        The tensor's rows are not whole blocks, or a library is missing.
    """
    if isinstance(target, Format):
        return FloatQuantizer(target, tensor, rounding)
    block = target.unit(tensor.values, row) if isinstance(target, Integer) else target.block
    if (not isinstance(target, Integer) or target.per == "block") and row % block:
        raise UsageError(
            f"{tensor.label} has rows of {row} values, which are not whole blocks of {block}, as {target.name} "
            f"needs; leave it alone with --rule '^{re.escape(tensor.label)}$=keep' or -L, or take int8:row"
        )
    if isinstance(target, Integer):
        return InSingles(IntegerQuantizer(target, tensor, block, rounding), tensor)
    if isinstance(target, Shared):
        return InSingles(SharedQuantizer(target, tensor, rounding), tensor)
    kind = Q8Quantizer if target.type == "Q8_0" else GgmlQuantizer
    return InSingles(kind(target, tensor, rounding), tensor)


class FloatQuantizer:
    """A floating-point format: each value for itself."""

    block = 1

    def __init__(self, format: Format, tensor: Tensor, rounding: Rounding):
        self.type = tensor.type
        self.grid = grid_of(format, find(FLOAT_FORMATS[tensor.type]), rounding)
        self.rounding = MODES[rounding.mode]
        self.key = key_of(tensor, rounding)

    def prepare(self, words: Words) -> None:
        """Nothing: a value knows its own scale."""

    def round(self, words: np.ndarray, first: int, threads: int | None) -> Difference:
        def change(plain: np.ndarray) -> Difference:
            return native.round_floats(plain, self.grid, self.rounding, self.key, first, threads=threads)

        return in_singles(words, self.type, change, threads, is_exact=True) if words.itemsize == 2 else change(words)


class InSingles:
    """A quantizer of F32 words, for a tensor of any type: the results are rounded once more, to that type."""

    def __init__(self, inner: Quantizer, tensor: Tensor):
        self.inner = inner
        self.type = tensor.type
        self.block = inner.block

    def prepare(self, words: Words) -> None:
        self.inner.prepare(words)

    def round(self, words: np.ndarray, first: int, threads: int | None) -> Difference:
        def change(plain: np.ndarray) -> Difference:
            return self.inner.round(plain, first, threads)

        return change(words) if self.type == "F32" else in_singles(words, self.type, change, threads)


def in_singles(
    words: np.ndarray,
    type: str,
    change: Callable[[np.ndarray], Difference],
    threads: int | None,
    is_exact: bool = False,
) -> Difference:
    """Change the F32 words of an F16, BF16 or F64 tensor's values, and put what comes out back.

    What is not `is_exact` in the type is rounded to it, to the nearest.
    """
    before = words.copy()
    old = to_singles(words, type, threads)
    new = old.copy()
    saturated = change(new).saturated
    if type == "F64":
        words.view("<f8")[:] = new.view("<f4")
        return native.compare(before, words, threads)._replace(saturated=saturated)
    if not is_exact:
        storage = find(FLOAT_FORMATS[type])
        saturating = grid_of(storage, storage, Rounding(overflow="saturate"))
        native.round_floats(new, saturating, measured=False, threads=threads)
    words[:] = native.narrowed(new, type, threads)
    measured = native.compare(old, new, threads)
    return measured._replace(saturated=saturated, max_ulp=reference.half_distance(before, words, type))
