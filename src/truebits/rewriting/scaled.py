"""A matrix of plain words -> the scales with which it is FP8: of it all, of each row, or of each block of 128 x 128."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod

import numpy as np

from truebits.files.mapping import MappedFile
from truebits.files.tensor import Tensor
from truebits.precision.evidence import most_exceptions
from truebits.quantizers.fp8_upcasts import (
    SIDE,
    Scaled,
    UnitScales,
    bounds,
    candidates,
    odd_one,
    proved,
    scale_shape,
    scales_of,
)
from truebits.rewriting.narrowest import Stray, forget, singles
from truebits_native.pool import in_order

TYPE = "F8_E4M3"

SAMPLE = 4
"""Strips, at equal distances, of which a unit is looked at first."""

LEAST_ROW = 16
"""Values that share the scale of a row at least: of fewer in BF16 some would be codes by chance."""

LONGEST_ROW = 1 << 18
"""Longer ones are no layer's, and a strip of them would take too much memory."""

GROUP_VALUES = 1 << 17
"""Of several units, looked at together."""

SAME_SCALE = 2.0**-5
"""Relatively: the mantissas of the scales of a tensor's parts are nearer than that, where it has only one scale."""


def ways_of(file: MappedFile, tensor: Tensor, threads: int | None) -> list[Scaled] | Stray | None:
    """Find all ways in which a matrix is FP8 with scales; or the value that keeps it from being so; or nothing.

    Parameters
    ----------
    file : MappedFile
    tensor : Tensor
        Of two dimensions, as F32, F16 or BF16.
    threads : int, optional
    """
    stray: Stray | None = None
    if tensor.shape[1] > LONGEST_ROW:
        return None
    for per in ("block", "row"):
        if (per == "row" and tensor.shape[1] < LEAST_ROW) or not _has_hope(file, tensor, per):
            continue
        found = _search(file, tensor, per, threads)
        if isinstance(found, UnitScales):
            one = _single(file, tensor, found.values, threads)
            if one is not None:
                others = {of: np.full(scale_shape(tensor, of), one.scales[0]) for of in ("row", "block")}
                return [one, *(one._replace(per=of, scales=scales) for of, scales in others.items())]
            scales = np.where(found.values > 0, found.values, np.float32(1)).reshape(scale_shape(tensor, per))
            return [Scaled(per, scales, tensor.values, int(found.finer.sum()))]
        stray = stray or found
    return stray


def strips(tensor: Tensor) -> range:
    """Return the first row of each strip: as many rows as blocks have are read at a time."""
    return range(0, tensor.shape[0], SIDE)


def row_spans(tensor: Tensor) -> list[tuple[int, int]]:
    """Return the first value and the number of values of pieces to write: whole rows, a strip's at most."""
    rows, columns = tensor.shape
    step = min(SIDE, max(1, GROUP_VALUES // columns))
    return [(at * columns, min(step, rows - at) * columns) for at in range(0, rows, step)]


def strip_of(file: MappedFile, tensor: Tensor, first: int) -> np.ndarray:
    """Return a strip's F32 words, of shape (rows, columns)."""
    rows, columns = min(SIDE, tensor.shape[0] - first), tensor.shape[1]
    return singles(file, tensor, first * columns, rows * columns).reshape(rows, columns)


def _units(strip: np.ndarray, per: str) -> Iterator[np.ndarray]:
    """Yield the values of some units of a strip at a time: float32 of shape (units, values)."""
    values = strip.view(np.float32)
    rows, columns = values.shape
    if per == "row":
        step = max(1, GROUP_VALUES // columns)
        yield from (values[at : at + step] for at in range(0, rows, step))
        return
    for at in range(0, columns, GROUP_VALUES // SIDE):
        some = values[:, at : at + GROUP_VALUES // SIDE]
        some = np.pad(some, ((0, 0), (0, -some.shape[1] % SIDE)))
        yield some.reshape(rows, -1, SIDE).swapaxes(0, 1).reshape(-1, rows * SIDE)


def _has_hope(file: MappedFile, tensor: Tensor, per: str) -> bool:
    """Tell whether one of a few units is codes times a scale, and not nothing."""
    firsts = strips(tensor)
    for number in np.unique(np.linspace(0, len(firsts) - 1, SAMPLE).astype(np.int64)).tolist():
        units = next(_units(strip_of(file, tensor, firsts[number]), per))
        some = units[(units != 0).any(axis=1)][:SAMPLE]
        if some.size and scales_of(some, tensor.type).held.any():
            return True
    return False


def _search(file: MappedFile, tensor: Tensor, per: str, threads: int | None) -> UnitScales | Stray | None:
    """Find the scale of each unit; or the first value of one that has none, if they are few."""

    def over(first: int) -> UnitScales:
        found = [scales_of(units, tensor.type) for units in _units(strip_of(file, tensor, first), per)]
        _forget(file, tensor, first)
        return UnitScales(*(np.concatenate(of) for of in zip(*found, strict=True)))

    parts, off, units = [], 0, prod(scale_shape(tensor, per))
    for part in in_order(over, strips(tensor), threads):
        parts.append(part)
        off += int(np.count_nonzero(~part.held))
        if off > most_exceptions(units):
            return None
    found = UnitScales(*(np.concatenate(of) for of in zip(*parts, strict=True)))
    return _stray(file, tensor, per, int(found.held.argmin()), off) if off else found


def _stray(file: MappedFile, tensor: Tensor, per: str, unit: int, off: int) -> Stray | None:
    """Return which value keeps a unit from being codes times a scale."""
    tiles = scale_shape(tensor, per)
    columns = tensor.shape[1]
    row, at = divmod(unit, tiles[1])
    first = row * SIDE if per == "block" else row // SIDE * SIDE
    words = strip_of(file, tensor, first)
    some = words[:, at * SIDE : (at + 1) * SIDE] if per == "block" else words[row - first : row - first + 1]
    values = some.view(np.float32)
    found = odd_one(values.reshape(-1), tensor.type)
    if found is None:
        return None
    down, along = divmod(found, values.shape[1])
    place = (first + down) * columns + at * SIDE + along if per == "block" else row * columns + along
    return Stray(f"{TYPE} x scale", place, float(values[down, along]), off, prod(tiles), f"{per}s")


def _single(file: MappedFile, tensor: Tensor, scales: np.ndarray, threads: int | None) -> Scaled | None:
    """Find the one scale of a matrix, of whose units each has one."""
    near = scales.max()
    mantissas = np.frexp(scales[scales > 0] / near)[0]
    if (np.abs(mantissas - np.rint(mantissas * 2) / 2) > SAME_SCALE).any():
        return None
    for scale in _candidates(file, tensor, near, threads):
        finer = _finer(file, tensor, scale, threads)
        if finer is not None:
            return Scaled("tensor", scale, tensor.values, finer)
    return None


def _candidates(file: MappedFile, tensor: Tensor, near: np.float32, threads: int | None) -> Iterator[np.ndarray]:
    """Yield what may be the scale of a matrix: that of its largest value's unit, then what all values leave open."""
    yield np.array([near])
    low, high = 0.0, np.inf
    for least, most in in_order(partial(_bounds, file, tensor, near), strips(tensor), threads):
        low, high = max(low, least), min(high, most)
        if low > 2 * high:
            return
    yield from candidates(np.array([low]), np.array([high]))


def _bounds(file: MappedFile, tensor: Tensor, near: np.float32, first: int) -> tuple[float, float]:
    low, high = 0.0, np.inf
    for rows in _units(strip_of(file, tensor, first), "row"):
        least, most = bounds(np.abs(rows), np.full(len(rows), near), tensor.type)
        low, high = max(low, float(least.max())), min(high, float(most.min()))
    _forget(file, tensor, first)
    return low, high


def _finer(file: MappedFile, tensor: Tensor, scale: np.ndarray, threads: int | None) -> int | None:
    """Return how many values a scale makes finer; None if it does not give all of them back."""

    def over(first: int) -> tuple[bool, int]:
        rows = _units(strip_of(file, tensor, first), "row")
        held, finer = zip(*(proved(np.abs(some), scale[:, None], tensor.type) for some in rows), strict=True)
        _forget(file, tensor, first)
        return all(of.all() for of in held), int(sum(of.sum() for of in finer))

    total = 0
    for is_held, finer in in_order(over, strips(tensor), threads):
        if not is_held:
            return None
        total += finer
    return total


def _forget(file: MappedFile, tensor: Tensor, first: int) -> None:
    forget(file, tensor, first * tensor.shape[1], min(SIDE, tensor.shape[0] - first) * tensor.shape[1])
