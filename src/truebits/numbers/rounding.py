"""How to round: what can be asked of a format, and what every kind of rounding is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from math import floor, frexp, inf, ldexp, nan
from typing import NamedTuple, Protocol

import numpy as np

from truebits.errors import UsageError
from truebits.files.tensor import Tensor
from truebits.numbers.formats import Format, GgmlType, Target
from truebits.numbers.spelling import find
from truebits_native import reference
from truebits_native.reference import Difference, Grid

MODES = {"nearest": reference.NEAREST, "truncate": reference.TRUNCATE, "stochastic": reference.STOCHASTIC}
OVERFLOWS = ("saturate", "inf")

Words = Callable[[], Iterator[tuple[int, np.ndarray]]]
"""Goes through a tensor's values as F32 words, with the index of the first of each array."""


class Rounding(NamedTuple):
    """How to round.

    Attributes
    ----------
    mode : {"nearest", "truncate", "stochastic"}
        To the nearest, ties to even; toward zero; or up with a chance that is the distance from below.
    seed : int
        Of stochastic rounding, which depends on it, on the tensor's name and on the value's index only.
    overflow : {"saturate", "inf"} or None
        What becomes of a value beyond the format's largest. None: Inf if the format has it, but for
        truncation, which never goes away from zero (IEEE 754-2019, 4.3.2 and 7.4).
    flush_subnormals : bool
        The format's subnormals become zero, as on hardware that has none.
    """

    mode: str = "nearest"
    seed: int = 0
    overflow: str | None = None
    flush_subnormals: bool = False

    @classmethod
    def of(cls, rounding: Rounding | str) -> Rounding:
        """Take a mode by its name for the rounding that has it and nothing else."""
        return cls(rounding) if isinstance(rounding, str) else rounding


class Quantizer(Protocol):
    """A format at work on one tensor.

    Attributes
    ----------
    block : int
        Values that have to come together; a piece starts at a multiple of it.
    """

    block: int

    def prepare(self, words: Words) -> None:
        """Learn what the rounding has to know of the whole tensor."""

    def round(self, words: np.ndarray, first: int, threads: int | None) -> Difference:
        """Round words in place, of which the first is value number `first` of the tensor."""


def check(target: Target, rounding: Rounding) -> None:
    """Refuse what cannot be asked of a format.

    Raises
    ------
    UsageError
    """
    if rounding.mode not in MODES:
        raise UsageError(f"rounding is {rounding.mode!r}, allowed are {', '.join(MODES)}")
    if rounding.overflow not in (None, *OVERFLOWS):
        raise UsageError(f"overflow is {rounding.overflow!r}, allowed are {', '.join(OVERFLOWS)}")
    if not 0 <= rounding.seed < 1 << 64:
        raise UsageError(f"seed is {rounding.seed}, allowed are 0 to 2^64 - 1")
    if isinstance(target, GgmlType) and rounding.mode != "nearest":
        raise UsageError(f"{target.name} is rounded by ggml's own rules: --rounding {rounding.mode} is not among them")
    can_overflow = isinstance(target, Format) and (target.has_inf or target.has_nan)
    if rounding.overflow == "inf" and not can_overflow:
        raise UsageError(f"{target.name} has no Inf or NaN to overflow to: it saturates")
    if rounding.overflow == "saturate" and not isinstance(target, Format):
        raise UsageError(f"{target.name} chooses its scales so that nothing is beyond: --overflow is not for it")
    if rounding.flush_subnormals and not isinstance(target, Format):
        raise UsageError(f"--flush-subnormals is for floating-point formats without scales, not for {target.name}")


def grid_of(format: Format, storage: Format, rounding: Rounding) -> Grid:
    """Return the values of a format that a storage type has, too."""
    largest = min(_cut(format.largest, storage.mantissa_bits), _cut(storage.largest, format.mantissa_bits))
    by_custom = "inf" if format.has_inf and rounding.mode != "truncate" else "saturate"
    overflow = rounding.overflow or by_custom
    beyond = {"saturate": largest, "inf": inf if format.has_inf else nan}[overflow]
    wide = storage if storage.name == "f64" else find("f32")
    return Grid(
        mantissa_bits=min(format.mantissa_bits, wide.mantissa_bits),
        least_exponent=max(format.smallest_normal_exponent, wide.smallest_normal_exponent),
        largest=largest,
        beyond=beyond,
        infinity=inf if format.has_inf else beyond,
        nan_bits=min(format.mantissa_bits if format.bits >= 16 else 0, wide.mantissa_bits) if format.has_nan else -1,
        has_subnormals=not (
            rounding.flush_subnormals and format.smallest_normal_exponent >= wide.smallest_normal_exponent
        ),
        has_negative_zero=format.has_negative_zero,
    )


def _cut(value: float, mantissa_bits: int) -> float:
    """Return the greatest number of so many mantissa bits that is not above a positive value."""
    fraction, exponent = frexp(value)
    return ldexp(floor(ldexp(fraction, mantissa_bits + 1)), exponent - mantissa_bits - 1)


def key_of(tensor: Tensor, rounding: Rounding) -> int:
    """Return the key of a tensor's random numbers: they depend on its name and on the seed, not on its place."""
    name = tensor.name.encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(name, digest_size=8, key=rounding.seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")
