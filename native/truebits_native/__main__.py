"""Compile and cache every kernel ahead of time: ``python -m truebits_native``.

For containers, read-only installations and cluster workers; and a way to see what is cached where.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from truebits_native.blocks import dequantizing_numbers, layout_numbers
from truebits_native.dispatch import kernel, readable
from truebits_native.packing import quantizing_numbers
from truebits_native.types import FACTS, LAYOUTS, Grid, word_grid


def arguments() -> dict[str, list[tuple[Any, ...]]]:
    """Return, for each kernel, arguments of the types it is called with: of no chunk, so that it has nothing to do."""
    none = np.zeros(0, np.int64)
    range_, how = (none, none), (word_grid(Grid(7, -126, 1.0, 1.0, 1.0, 7)), np.int64(0), np.uint64(0), np.int64(0))
    singles, halves = words(np.uint32), words(np.uint16)
    measured = np.zeros((0, 6), np.int64), np.zeros((0, 6))
    of_unit, of_candidates = (np.zeros(0, np.float32),) * 4, (np.zeros((0, 1), np.float32),) * 4
    mask, lookup = np.uint32(1), np.zeros(0, np.uint16)
    single, half, changed, changed_half = singles[0], halves[0], singles[1], halves[1]
    values = np.zeros(0, np.float32)
    raw = np.zeros(0, np.uint8), np.zeros(0, np.bool_)
    table = none, changed_half, changed, none
    layout = layout_numbers(LAYOUTS["Q4_K"])
    return {
        "blocks.count_scales": [(words(np.uint8)[0], *range_, layout, np.zeros((0, len(FACTS)), np.int64))],
        "dequantizing.dequantize_blocks": [(words(np.uint8)[0], *range_, *dequantizing_numbers("Q4_0"), values)],
        "dequantizing.dequantize_super_blocks": [(words(np.uint8)[0], *range_, *dequantizing_numbers("Q4_K"), values)],
        "quantizing.quantize_blocks": [
            (readable(values, np.float32), *range_, quantizing_numbers(LAYOUTS["Q4_0"]), *raw)
        ],
        "lowbits.count_matching": [(single, *range_, mask, mask, none), (half, *range_, mask, mask, none)],
        "histogram.count_single_bins": [(single, *range_, *table)],
        "histogram.count_half_bins": [(half, *range_, lookup, *table)],
        "difference.count_differing": [(single, single, *range_, mask, none)],
        "difference.measure": [(single, single, *range_, *measured)],
        "halves.widen_with": [(half, changed, changed)],
        "halves.widen_bfloats": [(half, changed)],
        "halves.narrow_to_bfloats": [(single, changed_half)],
        "halves.narrow_to_halves": [(single, changed_half)],
        "rounding.cut_low_bits": [(changed, *range_, mask, none)],
        "rounding.round_to_grid": [(changed, *range_, *how, True, *measured)],
        "scaling.find_extremes": [(single, *range_, *(np.zeros(0, t) for t in (np.int32, np.int32, np.uint8)))],
        "scaling.sum_scale_errors": [(words(np.float32)[0], *range_, none, *of_candidates, np.zeros((0, 1)))],
        "scaling.round_in_units": [(changed, *range_, 1, 0, *of_unit, *how, *measured)],
    }


def words(dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Return read-only words and writable ones, of which there are none."""
    plain: np.ndarray = np.zeros(0, dtype)
    plain.flags.writeable = False
    return plain, np.zeros(0, dtype)


def main() -> None:
    """Compile, or load from the cache, and print what, for which CPU, in how long."""
    started = time.perf_counter()
    import llvmlite.binding as llvm
    import numba

    print(f"numba {numba.__version__} for {llvm.get_host_cpu_name()}")
    print(f"{time.perf_counter() - started:6.2f} s  importing")
    folders = set()
    for name, signatures in arguments().items():
        for given in signatures:
            begun = time.perf_counter()
            function = kernel(name)
            function(*given)
            seconds, stats = time.perf_counter() - begun, getattr(function, "stats", None)
            how = "from the cache" if stats and sum(stats.cache_hits.values()) else "compiled"
            print(f"{seconds:6.2f} s  {name} ({given[0].dtype}): {how if stats else 'not compiled'}")
        folders.add(getattr(stats, "cache_path", None))
    print(f"{time.perf_counter() - started:6.2f} s  in all; cached in {', '.join(map(str, folders))}")


if __name__ == "__main__":
    main()
