"""Values that a converter changed, judged as they were before.

Of ``s = f32(w + 1)`` little is left of a small w: near 1 an F32 has a step of 2^-23, so that w is known to that.
``w = round(s - 1)`` in a format is accepted if ``f32(w + 1) == s``. A w of any other format passes by chance as
often as the format's values are among the F32 values there: once in 2^(e(w) + 16) for BF16 and s in [1, 2),
and always where w is so small that the format is finer than s. The same for ``s = f32(-exp(w))``, where
functions exp that differ in the last place are let pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import truebits_native as native
from truebits.numbers.rounding import Rounding, grid_of
from truebits.numbers.spelling import find
from truebits.precision.converters import Kind, shift_of, transforms_of
from truebits.precision.evidence import FEW_BITS, Evidence, ladder
from truebits_native.reference import TABLE, single_bins

CANDIDATES = ("bf16", "fp16")

MANTISSA_BITS = 23
EXP_BITS = 2
"""By which functions exp that differ by one in the last place raise the chance of being accepted."""


class Change(NamedTuple):
    """What a converter does to each value of a tensor.

    Attributes
    ----------
    forth : callable
        Of an F32 array; what it returns is rounded to F32.
    back : callable
        Its inverse, F64 to F64.
    is_relative : bool
        A step of the source is a step relative to the size of what is stored: as for exp.
    """

    forth: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    is_relative: bool


def change_of(architecture: str | None, name: str) -> Change | None:
    """Return how converters change the values of a GGUF tensor; None if they do not, or it cannot be undone."""
    kinds = {row.kind for row in transforms_of(architecture, name)}
    if kinds & {Kind.COMPUTED, Kind.MADE}:
        return None
    if Kind.EXPONENTIAL in kinds:
        return Change(lambda w: -np.exp(w.astype(np.float64)), lambda s: np.log(-s), True)
    amount = np.float32(shift_of(architecture, name))
    return Change(lambda w: w + amount, lambda s: s - np.float64(amount), False) if amount else None


def before(words: np.ndarray, change: Change) -> Evidence:
    """Judge F32 values as they were before a converter changed them.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
    change : Change

    Returns
    -------
    Evidence
        Of BF16 and FP16: FP8 counts as holding none.
    """
    with np.errstate(all="ignore"):  # NaN, Inf, and what no converter can have written
        source = change.back(words.view("<f4").astype(np.float64)).astype(np.float32).view(np.uint32)
    kept, bits = {}, {}
    for name in CANDIDATES:
        kept[name], chance = _accepted(words, source.copy(), name, change)
        bits[name] = np.where(kept[name], chance, 0)
    names = ladder("F32")
    outside = dict.fromkeys(names, words.size)
    outside |= {name: int(np.count_nonzero(~mask)) for name, mask in kept.items()} | {"f32": 0}
    pairs = {(name, wider): 0 for at, name in enumerate(names) for wider in names[at + 1 :]}
    pairs |= {(name, "f32"): int(bits[name].sum()) for name in CANDIDATES}
    pairs["bf16", "fp16"] = int(np.where(kept["fp16"], np.maximum(bits["bf16"] - bits["fp16"], 0), 0).sum())
    telling = int(np.count_nonzero((bits["bf16"] > 0) | (bits["fp16"] > 0)))
    return Evidence("F32", words.size, outside, pairs, pairs, telling, converted=words.size, fractions=words.size)


def bits_of_fp16(words: np.ndarray, change: Change) -> int:
    """Return what speaks against chance where what a converter wrote is exact in FP16.

    It computes in the model's own type, where that is FP16, or in F32: then a BF16 source, which is finer than
    FP16 where it is small, leaves no FP16 but by chance.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
        F32 values, all of them exact in FP16.
    change : Change
    """
    stored = words.view("<f4").astype(np.float64)
    with np.errstate(all="ignore"):
        source = change.back(stored)
    tells = np.isfinite(source) & (source != 0) & (stored != 0)
    of_stored, of_source = (np.frexp(values[tells])[1] - 1 for values in (stored, source))
    fp16, bf16 = find("fp16"), find("bf16")
    quantum = np.maximum(of_stored - fp16.mantissa_bits, fp16.quantum_exponent)
    finer = of_stored - MANTISSA_BITS + EXP_BITS if change.is_relative else of_source - bf16.mantissa_bits
    return int(np.maximum(quantum - finer, 0).sum())


def _accepted(words: np.ndarray, source: np.ndarray, name: str, change: Change) -> tuple[np.ndarray, np.ndarray]:
    """Round the source to a format; return which values it gives back, and how many bits speak against chance."""
    format = find(name)
    native.round_floats(source, grid_of(format, find("f32"), Rounding()))
    with np.errstate(all="ignore"):
        again = change.forth(source.view("<f4")).astype("<f4").view(np.uint32)
    apart = np.abs(again.astype(np.int64) - words)
    exponent, trailing = divmod(single_bins(np.stack([source, words])).astype(np.int64), TABLE[1])
    (of_source, of_stored), is_zero = exponent - 127, source << np.uint32(1) == 0
    quantum = np.maximum(of_source - format.mantissa_bits, format.quantum_exponent)
    step = quantum + MANTISSA_BITS - (EXP_BITS if change.is_relative else of_stored)
    tells = ~is_zero & (of_stored < 128) & (trailing[0] < MANTISSA_BITS - FEW_BITS)
    return apart <= change.is_relative, np.where(tells, np.maximum(step, 0), 0)
