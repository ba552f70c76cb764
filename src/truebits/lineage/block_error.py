"""Whether quantized blocks can come from given values: by their bytes, or by their error."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import truebits_native as native
from truebits.errors import MissingExtra
from truebits.numbers.formats import BLOCK_TYPES, GgmlType
from truebits_native.packing import QUANTIZED


class Bound(NamedTuple):
    """How far from their source the values of a block type may be.

    Attributes
    ----------
    share : float
        Of a block's largest magnitude, for each value; Inf where no such bound is stated.
    rms : float
        Root of the squared error over the squares of the source, of the whole tensor.
    steps : int
        Largest whole number that the type multiplies its FP16 scale with: half a quantum of FP16, so
        often, is added to what a value may be off.
    """

    share: float
    rms: float
    steps: int = 0

    @property
    def least(self) -> float:
        """What a value may be off however small it is: the scale is FP16."""
        return self.steps * 2.0**-25


BOUNDS = {
    "Q8_0": Bound(0.0045, 0.015, 127),
    "Q4_0": Bound(0.50, 0.16, 8),
    "Q4_1": Bound(0.72, 0.14, 16),
    "Q5_0": Bound(0.35, 0.090, 16),
    "Q5_1": Bound(0.40, 0.065, 32),
    "Q2_K": Bound(1.10, 0.50, 45),
    "Q3_K": Bound(0.60, 0.22, 128),
    "Q4_K": Bound(0.42, 0.13, 945),
    "Q5_K": Bound(0.20, 0.065, 1953),
    "Q6_K": Bound(0.27, 0.045, 4096),
    "IQ4_NL": Bound(0.43, 0.14, 127),
    "IQ4_XS": Bound(0.34, 0.14, 4064),
    "MXFP4": Bound(0.27, 0.20),
    "TQ1_0": Bound(0.52, 0.90, 1),
    "TQ2_0": Bound(0.52, 0.90, 1),
    "IQ3_S": Bound(np.inf, 0.30),
    "IQ3_XXS": Bound(np.inf, 0.35),
    "IQ2_S": Bound(np.inf, 0.42),
    "IQ2_XS": Bound(np.inf, 0.50),
    "IQ2_XXS": Bound(np.inf, 0.55),
    "IQ1_S": Bound(np.inf, 0.70),
    "IQ1_M": Bound(np.inf, 0.75),
}
"""Measured, and a tenth or more added: the worst of ggml's quantizers, with and without a random importance
matrix, over normal, Student, Cauchy, Laplace, uniform, shifted, sparse and mixed values (`tests/test_block_error.py`
measures again). Q8_0 without importance is half a step. The last ones for weights alone: normal and Laplace."""

CACHED_VALUES = 1 << 15
"""Looked at together: what is made of them on the way stays in the cache."""

REFERENCE_VALUES = 1 << 18
"""Of each tensor, so many are quantized again, unless all are asked for: the rest is held to the bounds."""

WORST_RATIO = 2.0
"""Error over that of the reference quantizer on the same values: an importance matrix makes up to 1.3 of it."""


class BlockErrors:
    """The error of one tensor's blocks, added up piece by piece.

    Attributes
    ----------
    values, beyond : int
        Values seen, and those off by more than the bound.
    first_beyond : int or None
        The first of these.
    born : int
        NaN and Inf that the source does not have.
    """

    def __init__(self, type: str, block: int):
        self.bound = BOUNDS[type]
        self.block = block
        self.values = self.beyond = self.born = 0
        self.first_beyond: int | None = None
        self.squared_error = self.squares = 0.0

    def add(self, stored: np.ndarray, expected: np.ndarray, first: int) -> None:
        """Take in a piece: F32 values of the GGUF and of its source, from value `first` on, in whole blocks."""
        step = max(1, CACHED_VALUES // self.block) * self.block
        with np.errstate(invalid="ignore", over="ignore"):
            for at in range(0, stored.size, step):
                self._add(stored[at : at + step], expected[at : at + step], first + at)

    def _add(self, stored: np.ndarray, expected: np.ndarray, first: int) -> None:
        error = np.abs(stored - expected)
        magnitude = np.abs(expected)
        allowed = np.float32(self.bound.share) * magnitude.reshape(-1, self.block).max(axis=1)
        allowed = np.nan_to_num(allowed + np.float32(self.bound.least), nan=np.inf, posinf=np.inf)
        if not (error.reshape(-1, self.block).max(axis=1) <= allowed).all():
            off = ~(error.reshape(-1, self.block) <= allowed[:, None]).reshape(-1)
            off = (off | ~np.isfinite(stored)) & (np.isfinite(stored) | np.isfinite(expected))
            if self.first_beyond is None and off.any():
                self.first_beyond = first + int(np.argmax(off))
            self.beyond += int(np.count_nonzero(off))
            self.born += int(np.count_nonzero(~np.isfinite(stored) & np.isfinite(expected)))
        self.squared_error += squares(error)
        self.squares += squares(magnitude)
        self.values += stored.size

    @property
    def rms(self) -> float:
        """Relative: of the error over that of the source."""
        return float(np.sqrt(self.squared_error / self.squares)) if self.squares else float(self.squared_error > 0)

    @property
    def is_consistent(self) -> bool:
        """No value, and not all together, are further off than the type makes them."""
        allowed = self.bound.rms * np.sqrt(self.squares) + self.bound.least * np.sqrt(self.values)
        return not self.beyond and bool(np.sqrt(self.squared_error) <= allowed)


def squares(values: np.ndarray) -> float:
    """Return the sum of the squares of float32 values; those that are not finite do not count."""
    found = float(np.square(values).sum(dtype=np.float64))
    return found if np.isfinite(found) else float(np.square(values[np.isfinite(values)], dtype=np.float64).sum())


def reference(type: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what quantizes F32 values to the bytes of a type; None if nothing here does.

    gguf-py for the simple types, whose bytes are the same as ggml's, and ggml for K-quants and IQ4, where it is
    installed.
    """
    of = _block_type(type)
    if of is None:
        return None
    if type in QUANTIZED:
        return lambda values: native.quantized(values.reshape(-1), type)
    import gguf

    from truebits.quantizers import ggml

    number = gguf.GGMLQuantizationType[type]
    block = of.block
    if of.by == "gguf":
        return lambda values: gguf.quants.quantize(ggml.in_rows(values, block, block), number).reshape(-1)
    try:
        ggml.quantize(np.zeros((1, block), np.float32), number)
    except MissingExtra:
        return None
    return lambda values: ggml.quantize(_finite(values).reshape(-1, block), number).reshape(-1)


def _finite(values: np.ndarray) -> np.ndarray:
    """Put zeros in the place of what ggml would abort the process for."""
    return np.where(np.isfinite(values), values, np.float32(0))


def is_deterministic(type: str) -> bool:
    """Tell whether a type's reference quantizer gives the same bytes in each of its versions: no search, no FMA."""
    of = _block_type(type)
    return of is not None and of.by == "gguf"


def _block_type(type: str) -> GgmlType | None:
    return next((one for one in BLOCK_TYPES.values() if one.type == type), None)
