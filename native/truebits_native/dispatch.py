"""Twin or kernel: which of the two does a piece of work, and what both ask of their words. No numba import.

A twin starts at once; a kernel is many times as fast once it is in memory. To get it there takes the import of Numba,
and then loading it from the `cache`, or compiling it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache as once
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from truebits_native import cache, pool

LOADED_WORDS = 1 << 14
"""From this many words on a kernel that is in memory beats its twin."""

IMPORT_SECONDS, LOAD_SECONDS = 0.5, 0.03


class Costs(NamedTuple):
    """What decides between a kernel and its twin, on a core of 2023.

    Attributes
    ----------
    compile : float
        Seconds that compiling the kernel takes.
    twin : float
        Million words a second that the twin does.
    """

    compile: float
    twin: float


COSTS = {
    "lowbits.count_matching": Costs(0.4, 5000),
    "histogram.count_single_bins": Costs(1, 40),
    "histogram.count_half_bins": Costs(0.4, 25),
    "difference.count_differing": Costs(0.2, 3000),
    "difference.measure": Costs(3, 20),
    "rounding.cut_low_bits": Costs(0.2, 120),
    "rounding.round_to_grid": Costs(4, 15),
    "scaling.find_extremes": Costs(0.2, 7),
    "scaling.sum_scale_errors": Costs(0.5, 2),
    "scaling.round_in_units": Costs(1.4, 13),
    "halves.widen_with": Costs(0.1, 600),
    "halves.widen_bfloats": Costs(0.1, 5000),
    "halves.narrow_to_bfloats": Costs(0.1, 5000),
    "halves.narrow_to_halves": Costs(0.2, 200),
    "blocks.count_scales": Costs(0.6, 80),
    "dequantizing.dequantize_blocks": Costs(0.7, 200),
    "dequantizing.dequantize_super_blocks": Costs(1.5, 200),
    "quantizing.quantize_blocks": Costs(2, 120),
}

WORK = {
    "matching_counts": ("lowbits.count_matching",),
    "differing_count": ("difference.count_differing",),
    "profiles": ("histogram.count_single_bins", "histogram.count_half_bins"),
    "truncate": ("rounding.cut_low_bits",),
    "rounding": tuple(name for name in COSTS if name.split(".")[0] not in ("lowbits", "histogram", "blocks")),
    "blocks": ("blocks.count_scales",),
}
"""The kernels that each kind of work may call."""

loaded: set[str] = set()
"""The kernels that are in memory."""

expected: set[str] = set()
"""Those that are worth getting there, for the work that was announced."""

spent: dict[str, float] = {}
"""Seconds, about, that twins have worked on pieces of work that was not announced."""

on_compile: Callable[[float], None] | None = None
"""Called with the seconds it will take, about, when a kernel is compiled: once per machine. Nothing is said if None."""


def uses_kernel(name: str, words: int) -> bool:
    """Tell whether work on so many words goes to a Numba kernel or to its NumPy twin."""
    if words < LOADED_WORDS:
        return False
    return name in loaded or name in expected or _pays(name, words / (1e6 * COSTS[name].twin))


def uses_kernel_by_now(name: str, words: int) -> bool:
    """Tell the same of work that comes in pieces that nobody announced.

    The kernel is taken once the twin has worked for as long as it takes to load it: at most twice the least time.
    """
    if uses_kernel(name, words):
        return True
    spent[name] = spent.get(name, 0.0) + words / (1e6 * COSTS[name].twin)
    return words >= LOADED_WORDS and _pays(name, spent[name])


def expect_work(name: str, words: int) -> bool:
    """Say how many words will come in several calls, so that kernels worth it are used from the first on.

    Returns
    -------
    bool
        Whether any is: the work is then for the `pool`.
    """
    worth_it = {kernel for kernel in WORK[name] if uses_kernel(kernel, words)}
    expected.update(worth_it)
    return bool(worth_it)


def _pays(name: str, seconds: float) -> bool:
    """Tell whether so much of the twin's time is more than what it takes to get the kernel into memory."""
    seconds -= 0 if "numba" in sys.modules else IMPORT_SECONDS
    return seconds > LOAD_SECONDS and (seconds > COSTS[name].compile or _is_kept(name))


@once
def _is_kept(name: str) -> bool:
    return cache.holds(name)


def announce(name: str) -> None:
    """Tell whoever wants to know that a kernel is compiled now."""
    if on_compile is not None:
        on_compile(COSTS[name].compile)


def run(name: str, *arguments: Any) -> None:
    """Run a kernel: on the `pool`'s threads, where no signal arrives; the first time with no other thread forking."""
    if name in loaded:
        kernel(name)(*arguments)
        return
    with pool.LOADING[0]:
        kernel(name)(*arguments)


@once
def kernel(name: str) -> Callable[..., Any]:
    """Return a kernel by its module and its name."""
    module, function = name.split(".")
    return getattr(import_module(f"truebits_native.kernels.{module}"), function)


def check_bits(bits: int) -> None:
    if not 1 <= bits <= 31:
        raise ValueError(f"bits is {bits}, allowed are 1 to 31")


def check_words(words: np.ndarray, dtype: np.dtype | type) -> None:
    if words.dtype != dtype or words.ndim != 1:
        raise TypeError(
            f"words must be 1-D {np.dtype(dtype).name}, not {words.ndim}-D {words.dtype}: use array.ravel().view(...)"
        )


def readable(words: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Return a read-only view of aligned, contiguous words: a copy only where they are not."""
    check_words(words, dtype)
    view = np.require(words, requirements=["C", "A"])[:]
    view.flags.writeable = False
    return view
