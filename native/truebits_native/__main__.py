"""Compile and cache every kernel ahead of time: ``python -m truebits_native``.

For containers, read-only installations and cluster workers; and a way to see what is cached where.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np


def kernels() -> dict[str, tuple]:
    """Return arguments that make Numba compile each kernel for the types it is called with."""
    from truebits_native.coding import block_layout
    from truebits_native.reference import Grid
    from truebits_native.rounding import word_grid

    one = np.array([0]), np.array([1])
    bins, counts = np.empty(1, np.uint16), np.empty(1, np.uint32)

    def words(dtype: type, writable: bool = False) -> np.ndarray:
        array: np.ndarray = np.zeros(1, dtype)
        array.flags.writeable = writable
        return array

    lookup = np.zeros(1 << 16, np.uint16)
    mask = np.uint32(0xFFFF)
    changed = words(np.uint32, writable=True)
    grid = word_grid(Grid(7, -126, 1.0, 1.0, 1.0, 7))
    how = grid, np.int64(0), np.uint64(0), np.int64(0)
    of_unit: tuple = (np.zeros(1, np.float32),) * 4
    of_candidates: tuple = (np.zeros((1, 1), np.float32),) * 4
    return {
        "blocks.count_few": (words(np.uint8), *one, block_layout("TQ1_0")),
        "blocks.count_fours": (words(np.uint8), *one, block_layout("Q4_0")),
        "blocks.count_fives": (words(np.uint8), *one, block_layout("Q5_0")),
        "blocks.count_wide": (words(np.uint8), *one, block_layout("Q8_0")),
        "lowbits.count_matching F32": (words(np.uint32), *one, mask, np.uint32(0)),
        "lowbits.count_matching F16": (words(np.uint16), *one, mask, np.uint32(0)),
        "histogram.count_single_bins": (words(np.uint32), *one, np.array([0]), bins, counts),
        "histogram.count_half_bins": (words(np.uint16), *one, lookup, np.array([0]), bins, counts),
        "difference.count_differing": (words(np.uint32), words(np.uint32), *one, mask),
        "difference.measure": (words(np.uint32), words(np.uint32), *one),
        "difference.measure_specials": (words(np.uint32), words(np.uint32), *one),
        "halves.widen_with": (words(np.uint16), words(np.uint32), changed),
        "halves.widen_bfloats": (words(np.uint16), changed),
        "halves.narrow_to_bfloats": (words(np.uint32), words(np.uint16, writable=True)),
        "halves.narrow_to_halves": (words(np.uint32), words(np.uint16, writable=True)),
        "rounding.cut_low_bits": (changed, *one, mask),
        "rounding.round_to_grid": (changed, *one, *how, True),
        "scaling.find_extremes": (words(np.uint32), *one),
        "scaling.sum_scale_errors": (words(np.float32), *one, np.array([0]), *of_candidates),
        "scaling.round_in_units": (changed, *one, 1, 0, *of_unit, *how),
    }


def main() -> None:
    """Compile, or load from the cache, and print what, for which CPU, in how long."""
    started = time.perf_counter()
    import llvmlite.binding as llvm
    import numba

    from truebits_native import blocks, difference, halves, histogram, lowbits, rounding, scaling

    modules = {
        **{"blocks": blocks, "difference": difference, "lowbits": lowbits, "halves": halves, "histogram": histogram},
        **{"rounding": rounding, "scaling": scaling},
    }
    print(f"numba {numba.__version__} for {llvm.get_host_cpu_name()}, {numba.config.NUMBA_NUM_THREADS} threads")
    print(f"{time.perf_counter() - started:6.2f} s  importing")
    for name, arguments in kernels().items():
        module, kernel = name.split()[0].split(".")
        function = getattr(modules[module], kernel)
        begun = time.perf_counter()
        function(*arguments)
        print(f"{time.perf_counter() - begun:6.2f} s  {name}: {_how(function)}")
    print(f"{time.perf_counter() - started:6.2f} s  in all; cached in {_cache_folder(function)}")


def _how(function: Any) -> str:
    """Tell where a kernel came from (with NUMBA_DISABLE_JIT it is plain Python)."""
    stats = getattr(function, "stats", None)
    if stats is None:
        return "not compiled"
    return "from the cache" if sum(stats.cache_hits.values()) else "compiled"


def _cache_folder(function: Any) -> str | None:
    return getattr(getattr(function, "stats", None), "cache_path", None)


if __name__ == "__main__":
    main()
