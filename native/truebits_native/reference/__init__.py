"""The NumPy twins: what the kernels are held to, bit for bit. No numba import.

Each function has the name and the signature of the front door that it stands behind, but for the number of threads.
"""

from truebits_native.reference.blocks import block_counts
from truebits_native.reference.dequantizing import dequantized
from truebits_native.reference.difference import compare, differing_count, half_distance
from truebits_native.reference.halves import half_singles, narrowed, widened
from truebits_native.reference.histogram import bfloat_bins, double_bins, half_bins, profile, profiles, single_bins
from truebits_native.reference.lowbits import low_zero_count, low_zero_counts, matching_counts
from truebits_native.reference.quantizing import quantized
from truebits_native.reference.rounding import on_grid, random_words, round_floats, truncate, whole_numbers
from truebits_native.reference.scaling import extremes, ordered, round_scaled, scale_errors
from truebits_native.types import (
    AWAY,
    BINS,
    LANES,
    NEAREST,
    ROUND_CHUNK,
    ROWS,
    STOCHASTIC,
    TABLE,
    TRUNCATE,
    Difference,
    Grid,
    Scales,
    merged,
)

__all__ = [
    "AWAY",
    "BINS",
    "Difference",
    "Grid",
    "LANES",
    "NEAREST",
    "ROUND_CHUNK",
    "ROWS",
    "STOCHASTIC",
    "Scales",
    "TABLE",
    "TRUNCATE",
    "bfloat_bins",
    "block_counts",
    "compare",
    "dequantized",
    "differing_count",
    "double_bins",
    "extremes",
    "half_bins",
    "half_distance",
    "half_singles",
    "low_zero_count",
    "low_zero_counts",
    "matching_counts",
    "merged",
    "narrowed",
    "on_grid",
    "ordered",
    "profile",
    "profiles",
    "quantized",
    "random_words",
    "round_floats",
    "round_scaled",
    "scale_errors",
    "single_bins",
    "truncate",
    "whole_numbers",
    "widened",
]
