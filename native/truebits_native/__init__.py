"""truebits_native: what the bits of floating-point arrays say, counted in parallel.

Kernels over 1-D little-endian words: no files, no policy. Each has a NumPy twin of the same
name in `truebits_native.reference`, and gives bit-identical results for any number of threads.
Small work goes to the twin, because importing Numba and loading a kernel takes longer.
"""

import sys as _sys

if _sys.byteorder != "little":
    raise ImportError("truebits_native maps files, which are little-endian: it does not run on a big-endian machine")


from truebits_native.blocks import block_counts, dequantized, quantized
from truebits_native.chunks import CHUNK
from truebits_native.codes import code_counts
from truebits_native.counting import (
    bins_of,
    low_zero_count,
    low_zero_counts,
    matching_counts,
    profile,
    profiles,
)
from truebits_native.difference import compare, differing_count
from truebits_native.dispatch import expect_work
from truebits_native.rounding import (
    extremes,
    narrowed,
    round_floats,
    round_scaled,
    scale_errors,
    truncate,
    widened,
)

__all__ = [
    "CHUNK",
    "bins_of",
    "block_counts",
    "code_counts",
    "compare",
    "dequantized",
    "differing_count",
    "expect_work",
    "extremes",
    "low_zero_count",
    "low_zero_counts",
    "matching_counts",
    "narrowed",
    "profile",
    "profiles",
    "quantized",
    "round_floats",
    "round_scaled",
    "scale_errors",
    "truncate",
    "widened",
]
