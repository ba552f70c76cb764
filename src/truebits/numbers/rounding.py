"""How to round: what can be asked of a format, and what every kind of rounding is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from math import floor, frexp, inf, ldexp, nan
from typing import NamedTuple, Protocol

import numpy as np

from truebits.errors import UsageError
from truebits.files.tensor import Tensor
from truebits.numbers.formats import BlockType, Format, Target, find
from truebits_native import reference
from truebits_native.reference import Difference, Grid

ROUNDINGS = {"nearest": reference.NEAREST, "truncate": reference.TRUNCATE, "stochastic": reference.STOCHASTIC}
OVERFLOWS = ("saturate", "inf")
STORAGE = {"F64": "f64", "F32": "f32", "F16": "fp16", "BF16": "bf16"}

Words = Callable[[], Iterator[tuple[int, np.ndarray]]]
"""Goes through a tensor's values as F32 words, with the index of the first of each array."""


class Manner(NamedTuple):
    """How to round.

    Attributes
    ----------
    rounding : {"nearest", "truncate", "stochastic"}
    seed : int
        Of stochastic rounding.
    overflow : {"saturate", "inf"} or None
        What becomes of a value beyond the format's largest. None: Inf if the format has it, but for
        truncation, which never goes away from zero (IEEE 754-2019, 4.3.2 and 7.4).
    flush_subnormals : bool
        The format's subnormals become zero.
    """

    rounding: str = "nearest"
    seed: int = 0
    overflow: str | None = None
    flush_subnormals: bool = False


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


def check(target: Target, manner: Manner) -> None:
    """Refuse what cannot be asked of a format.

    Raises
    ------
    UsageError
    """
    if manner.rounding not in ROUNDINGS:
        raise UsageError(f"rounding is {manner.rounding!r}, allowed are {', '.join(ROUNDINGS)}")
    if manner.overflow not in (None, *OVERFLOWS):
        raise UsageError(f"overflow is {manner.overflow!r}, allowed are {', '.join(OVERFLOWS)}")
    if not 0 <= manner.seed < 1 << 64:
        raise UsageError(f"seed is {manner.seed}, allowed are 0 to 2^64 - 1")
    if isinstance(target, BlockType) and manner.rounding != "nearest":
        raise UsageError(
            f"{target.name} is rounded by ggml's own rules: --rounding {manner.rounding} is not among them"
        )
    can_overflow = isinstance(target, Format) and (target.has_inf or target.has_nan)
    if manner.overflow == "inf" and not can_overflow:
        raise UsageError(f"{target.name} has no Inf or NaN to overflow to: it saturates")
    if manner.overflow == "saturate" and not isinstance(target, Format):
        raise UsageError(f"{target.name} chooses its scales so that nothing is beyond: --overflow is not for it")
    if manner.flush_subnormals and not isinstance(target, Format):
        raise UsageError(f"--flush-subnormals is for floating-point formats without scales, not for {target.name}")


def grid_of(format: Format, storage: Format, manner: Manner) -> Grid:
    """Return the values of a format that a storage type has, too."""
    largest = min(_cut(format.largest, storage.mantissa_bits), _cut(storage.largest, format.mantissa_bits))
    by_custom = "inf" if format.has_inf and manner.rounding != "truncate" else "saturate"
    overflow = manner.overflow or by_custom
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
            manner.flush_subnormals and format.smallest_normal_exponent >= wide.smallest_normal_exponent
        ),
        has_negative_zero=format.has_negative_zero,
    )


def _cut(value: float, mantissa_bits: int) -> float:
    """Return the greatest number of so many mantissa bits that is not above a positive value."""
    fraction, exponent = frexp(value)
    return ldexp(floor(ldexp(fraction, mantissa_bits + 1)), exponent - mantissa_bits - 1)


def key_of(tensor: Tensor, manner: Manner) -> int:
    """Return the key of a tensor's random numbers: they depend on its name and on the seed, not on its place."""
    name = tensor.name.encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(name, digest_size=8, key=manner.seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")
