"""Formats whose values share scales: what the scale of each block, row or tensor is, and the rounding with it."""

from __future__ import annotations

import re
from math import inf

import numpy as np

import truebits_native as native
from truebits.errors import Refused
from truebits.files.tensor import Tensor
from truebits.numbers.formats import CLIPS, GgmlType, Integer, Shared
from truebits.numbers.rounding import MODES, Rounding, Words, grid_of, key_of
from truebits.numbers.spelling import find
from truebits_native import reference
from truebits_native.reference import Difference, Grid, Scales

WHOLE = Grid(23, 23, 0.0, 0.0, 0.0, 0, has_negative_zero=False)
"""Whole numbers: multiples of 1, as the subnormals of a format whose smallest normal value is 2^23 are."""

LEAST_E8M0, GREATEST_E8M0 = -127, 127


WHOLE_AGAIN = np.float32(1 + 2**-21)
"""Factor of an inverse before truncating: more than F32 loses in whole number times scale, and that times inverse."""

LARGEST = float(np.finfo(np.float32).max)


class IntegerQuantizer:
    """Whole numbers times the scale of a block, a row or a tensor."""

    def __init__(self, format: Integer, tensor: Tensor, unit: int, rounding: Rounding):
        self.format, self.tensor, self.unit = format, tensor, unit
        self.block = unit if format.per == "block" else 1
        self.rounding = MODES[rounding.mode]
        self.key = key_of(tensor, rounding)
        self.scales: Scales | None = None

    def prepare(self, words: Words) -> None:
        """Find the scales of rows or of the tensor; blocks come whole."""
        if self.format.per != "block":
            self.scales = self._scales(words, -(-self.tensor.values // self.unit))

    def round(self, words: np.ndarray, first: int, threads: int | None) -> Difference:
        if self.format.per == "block":
            scales, offset = self._scales(lambda: iter([(0, words)]), words.size // self.unit), 0
        else:
            assert self.scales is not None
            before, offset = divmod(first, self.unit)
            scales = Scales(*(of[before:] for of in self.scales))
        return native.round_scaled(
            words, self.unit, offset, scales, WHOLE, self.rounding, self.key, first, threads=threads
        )

    def _scales(self, words: Words, units: int) -> Scales:
        low, high = extremes(words, self.unit, units, self.tensor)
        if not self.format.mse:
            return self._clipped(low, high, 1.0)
        candidates = [self._clipped(low, high, clip) for clip in CLIPS]
        tables = Scales(*(np.stack(of, axis=1) for of in zip(*candidates, strict=True)))
        errors = np.zeros(tables.scale.shape)
        for first, piece in words():
            of, starts, stops = segments(first, piece.size, self.unit)
            errors[of] += native.scale_errors(piece, starts, stops, Scales(*(table[of] for table in tables)))
        best = np.argmin(errors, axis=1)[:, np.newaxis]
        return Scales(*(np.take_along_axis(table, best, 1)[:, 0] for table in tables))

    def _clipped(self, low: np.ndarray, high: np.ndarray, clip: float) -> Scales:
        """Return the scales that cover a share `clip` of each range.

        Each is the scale of the range's own ends after rounding, too: a second round trip finds it again.
        """
        bits = self.format.bits
        if self.format.affine:
            low, high = np.minimum(low, 0), np.maximum(high, 0)
            steps = float((1 << bits) - 1)
        else:
            high = np.maximum(-low, high)
            low, steps = -high, float((1 << bits) - 2)

        def scale_of(low: np.ndarray, high: np.ndarray) -> np.ndarray:
            ends = (np.clip(end.astype(np.float64), -LARGEST, LARGEST) for end in (high, low))
            return (np.subtract(*ends) / steps).astype(np.float32)

        scale = scale_of(low * clip, high * clip)
        inverse = inverse_of(scale, high > low, self.tensor)
        least = np.rint((low * clip).astype(np.float32) * inverse)
        most = least + np.float32(steps)
        with np.errstate(over="ignore"):
            scale = scale_of(least * scale, most * scale)
            is_too_large = np.isinf(least * scale) | np.isinf(most * scale)
        largest = (LARGEST / np.maximum(np.abs(least), np.abs(most)).clip(1)).astype(np.float32)
        scale = np.where(is_too_large, np.nextafter(largest, np.float32(0)), scale)
        inverse = inverse_of(scale, high > low, self.tensor)
        if self.rounding == reference.TRUNCATE:
            inverse *= WHOLE_AGAIN
        return Scales(inverse, scale, least, most)


class SharedQuantizer:
    """Small floats times the scale of their block: OCP's MX formats, and NVFP4."""

    def __init__(self, format: Shared, tensor: Tensor, rounding: Rounding):
        self.format, self.tensor = format, tensor
        self.block = format.block
        element = format.element
        self.grid = Grid(element.mantissa_bits, element.smallest_normal_exponent, element.largest, inf, inf, 0)
        self.rounding = MODES[rounding.mode]
        self.key = key_of(tensor, rounding)
        self.of_tensor = np.float32(0)

    def prepare(self, words: Words) -> None:
        """Find the scale of the tensor, where the blocks' scales have one."""
        if self.format.scale is None:
            return
        low, high = extremes(words, max(1, self.tensor.values), 1, self.tensor)
        most = np.float32(self.format.element.largest * self.format.scale.largest)
        greatest = np.maximum(np.abs(low), np.abs(high))
        scale = greatest / most
        inverse_of(scale, greatest > 0, self.tensor)
        ends = np.float32(self.format.element.largest), np.float32(self.format.scale.largest)
        self.of_tensor = (ends[0] * (ends[1] * scale) / most)[0]  # a second round trip finds it again

    def round(self, words: np.ndarray, first: int, threads: int | None) -> Difference:
        low, high = extremes(lambda: iter([(0, words)]), self.block, words.size // self.block, self.tensor)
        scale = self._scales(np.maximum(np.abs(low), np.abs(high)))
        inverse = inverse_of(scale, scale > 0, self.tensor)
        end = np.full(scale.size, self.format.element.largest, np.float32)
        scales = Scales(inverse, scale, -end, end)
        return native.round_scaled(
            words, self.block, 0, scales, self.grid, self.rounding, self.key, first, threads=threads
        )

    def _scales(self, greatest: np.ndarray) -> np.ndarray:
        """Return the scale of each block from its greatest magnitude."""
        element, format = self.format.element, self.format.scale
        if format is None:
            _, exponent = np.frexp(greatest)
            shared = np.clip(exponent - 1 - element.largest_exponent, LEAST_E8M0, GREATEST_E8M0)
            return np.ldexp(np.float32(1), shared)
        if not self.of_tensor:
            return np.zeros_like(greatest)
        scales = greatest / np.float32(element.largest) / self.of_tensor
        saturating = Rounding(overflow="saturate")
        native.round_floats(scales.view(np.uint32), grid_of(format, find("f32"), saturating))
        return scales * self.of_tensor


class Q8Quantizer:
    """Q8_0 of ggml, by truebits' own kernel; the same bits as gguf-py's."""

    def __init__(self, format: GgmlType, tensor: Tensor, rounding: Rounding):
        self.tensor = tensor
        self.block = format.block

    def prepare(self, words: Words) -> None:
        """Nothing: a block knows its own scale."""

    def round(self, words: np.ndarray, first: int, threads: int | None) -> Difference:
        low, high = extremes(lambda: iter([(0, words)]), self.block, words.size // self.block, self.tensor)
        scale = np.maximum(np.abs(low), np.abs(high)) / np.float32(127)
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.where(scale == 0, np.float32(0), 1 / scale)
            stored = scale.astype(np.float16).astype(np.float32)
        if not (np.isfinite(stored).all() and np.isfinite(inverse).all()):
            raise Refused(
                f"{self.tensor.label}: a block's scale is beyond F16, in which q8_0 keeps it, or has no inverse"
            )
        end = np.full(scale.size, 127, np.float32)
        return native.round_scaled(
            words, self.block, 0, Scales(inverse, stored, -end, end), WHOLE, reference.AWAY, threads=threads
        )


def segments(first: int, count: int, unit: int) -> tuple[slice, np.ndarray, np.ndarray]:
    """Cut `count` values, the first of them number `first` of its tensor, where units end."""
    units = slice(first // unit, -(-(first + count) // unit))
    borders = np.arange(units.start, units.stop + 1) * unit - first
    borders[0], borders[-1] = 0, count
    return units, borders[:-1], borders[1:]


def extremes(words: Words, unit: int, units: int, tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest value of each unit; float32 of shape (units,).

    Raises
    ------
    Refused
        A value is Inf or NaN.
    """
    low, high = np.full(units, inf, np.float32), np.full(units, -inf, np.float32)
    for first, piece in words():
        if piece.size:
            of, starts, stops = segments(first, piece.size, unit)
            least, most = native.extremes(piece, starts, stops)
            low[of], high[of] = np.minimum(low[of], least), np.maximum(high[of], most)
    if np.isnan(low).any():
        raise Refused(
            f"{tensor.label} has NaN or Inf values, and values that share a scale with one would have none; "
            f"`truebits scan` counts them; leave the tensor alone with --rule '^{re.escape(tensor.label)}$=keep' or -L"
        )
    return low, high


def inverse_of(scale: np.ndarray, is_needed: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Return one over each scale, and 0 where all values are zero.

    Raises
    ------
    Refused
        A scale is zero, or too small to have an inverse, though there are values to scale.
    """
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(is_needed, 1 / scale, np.float32(0))
    if not np.isfinite(inverse).all():
        raise Refused(f"{tensor.label} has values so small that their scale would be zero; multiply them first")
    return inverse
