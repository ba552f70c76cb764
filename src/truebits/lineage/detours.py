"""What values may have gone through before they were stored: other types, and other quantizations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from truebits.errors import MissingExtra
from truebits.lineage.comparison import Comparison
from truebits.lineage.ways import BF16, FP16, Cast
from truebits.numbers.formats import BLOCK_TYPES
from truebits.quantizers.ggml import round_trip


class Detour(NamedTuple):
    """One thing that values went through.

    Attributes
    ----------
    name : str
        ``FP16``, ``Q8_0``.
    block : int
        Values that it takes together.
    apply : callable
        From F32 values, shape (n,), to what became of them; what it is given stays as it is.
    """

    name: str
    block: int
    apply: Callable[[np.ndarray], np.ndarray]


def casts(of: Comparison) -> Iterator[Detour]:
    """Yield the types through which a converter's output may have gone: a file in F16 that was quantized then."""
    for cast in {"F16": (), "BF16": (FP16,)}.get(of.expected.type, (FP16, BF16)):
        yield Detour(cast.format.upper(), 1, partial(_rounded, cast=cast, threads=of.settings.threads))


def requantizations(of: Comparison) -> Iterator[Detour]:
    """Yield the block types whose rows the tensor has, by their reference quantizers."""
    row = of.side.tensor.shape[0] if of.side.tensor.shape else 1
    return (detour for detour in through_blocks(row) if detour.name != of.type)


def through_blocks(row: int) -> Iterator[Detour]:
    """Yield the block types that rows of so many values can be, by their reference quantizers."""
    for format in BLOCK_TYPES.values():
        if row % format.block:
            continue
        trip = round_trip(format)
        try:
            trip(np.zeros((1, format.block), np.float32))
        except MissingExtra:
            continue
        yield Detour(format.type, format.block, partial(_trip, trip=trip, block=format.block))


def _rounded(values: np.ndarray, cast: Cast, threads: int | None) -> np.ndarray:
    words = values.view("<u4").copy()
    cast.apply(words, threads)
    return words.view("<f4")


def _trip(values: np.ndarray, trip: Callable[[np.ndarray], np.ndarray], block: int) -> np.ndarray:
    finite = np.where(np.isfinite(values), values, np.float32(0))  # ggml aborts the process else
    with np.errstate(all="ignore"):  # a scale beyond F16
        return np.ascontiguousarray(trip(finite.reshape(-1, block)).reshape(-1), np.float32)
