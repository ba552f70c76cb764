"""What is measured, against what, and the figure wanted: one line per benchmark, in the report's order.

The wanted figures are the design's yardsticks; a benchmark without one is there for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Measure(NamedTuple):
    """A figure made of one round's ours and theirs, and how it is read."""

    of: Callable[[float, float], float]
    label: str
    wanted: str
    unit: str = "s"

    def met(self, figure: float, wanted: float) -> bool:
        return figure >= wanted if self.wanted == "at least" else figure <= wanted


MEASURES = {
    "speed": Measure(lambda ours, theirs: theirs / ours, "{:.3g} x as fast", "at least"),
    "time": Measure(lambda ours, theirs: ours / theirs, "{:.3g} x its time", "at most"),
    "processor time": Measure(lambda ours, theirs: ours, "{:.3g} s of processor time", "at most"),
    "whole time": Measure(lambda ours, theirs: ours, "{:.3g} s", "at most"),
    "added time": Measure(lambda ours, theirs: 1e3 * (ours - theirs), "{:+.0f} ms", "at most"),
    "added memory": Measure(lambda ours, theirs: ours - theirs, "{:+.1f} MiB", "at most", "MiB"),
}


class Goal(NamedTuple):
    """One row of the report; `bound` says what keeps it from being met, where it is not."""

    what: str
    against: str
    measure: str
    wanted: float | None = None
    bound: str = ""


GOALS = {
    "test_low_zero_count_c": Goal(
        "`low_zero_count`, 1 GiB in memory, all cores",
        "the same loop in C, same threads",
        "speed",
        1.0,
        bound="memory, as the loop in C is",
    ),
    "test_profile_c": Goal(
        "`profile`, 1 GiB in memory, all cores",
        "read-only OR in C, same threads",
        "speed",
        0.45,
        "adding one to a place in memory for each value takes two thirds of it",
    ),
    "test_truncate_c": Goal("`truncate`, 1 GiB in memory, all cores", "AND loop in C, same threads", "speed", 0.95),
    "test_low_bits_warm": Goal(
        "low bits of a 2 GiB file, warm, mapped anew",
        "`dd bs=1M of=/dev/null`, warm",
        "speed",
        1.5,
        bound="mapping the file: of memory the same takes a quarter less",
    ),
    "test_header": Goal(
        "header of 32,000 tokens and 61,249 merges",
        "`gguf.GGUFReader`",
        "speed",
        300.0,
        bound="one string after the other: where the next begins is only known then",
    ),
    "test_safetensors_header": Goal(
        "safetensors header of 20,000 tensors", "`json.loads` with a duplicate check", "speed", 0.5
    ),
    "test_scan_process": Goal(
        "`truebits scan --no-blocks`, TinyLlama's shape, whole process",
        "GGUFReader + NumPy, whole process",
        "speed",
        18.0,
        "starting Python and importing NumPy takes half of it",
    ),
    "test_scan_process_sampling": Goal(
        "`truebits scan`, TinyLlama's shape, 156 tensors sampled, whole process",
        "the same: it reads none of these",
        "speed",
    ),
    "test_truncate_file": Goal("`truncate IN OUT`, 2 GiB", "`cp --reflink=never` + fsync", "time", 1.2),
    "test_memory": Goal("peak memory, `truebits scan` of 8 GiB", "the same of 2 GiB", "added memory", 16.0),
    "test_growth": Goal("full scan of 8 GiB", "full scan of 2 GiB", "time", 4.3),
    "test_small_tensors": Goal(
        "full scan of 2 GiB with 10,000 more tensors",
        "full scan of 2 GiB",
        "added time",
        100.0,
        "reading the header takes 40 ms of it",
    ),
    "test_round_counted": Goal(
        "round to BF16, nearest, 1 GiB in memory", "`truncate` to BF16, the same array", "speed", 0.8
    ),
    "test_round_ml_dtypes": Goal(
        "round to FP8 E4M3FN, with error figures, 256 MiB", "ml_dtypes: cast there and back", "speed", 3.0
    ),
    "test_round_torch": Goal(
        "round to FP8 E4M3FN, with error figures, 256 MiB", "torch: cast there and back", "speed", 1.0
    ),
    "test_round_blocks": Goal(
        "Q8_0 there and back, with error figures, 64 MiB", "`gguf.quants.quantize` and `dequantize`", "speed", 5.0
    ),
    **{
        f"test_dequantize[{type}]": Goal(
            f"{type} to values, 64 Mi of them",
            "`gguf.quants.dequantize`",
            "speed",
            10.0,
            f"writing the values alone takes {share} % of it",
        )
        for type, share in {"Q4_0": 60, "Q8_0": 60, "Q2_K": 40, "Q4_K": 45, "Q6_K": 40}.items()
    },
    **{
        f"test_quantize[{type}]": Goal(
            f"64 Mi values to {type}",
            "`gguf.quants.quantize`",
            "speed",
            10.0,
            bound="arithmetic: each block is gone through for its largest value, then for its codes",
        )
        for type in ("Q4_0", "Q5_1")
    },
    "test_diff_c": Goal(
        "`diff` of two 1 GiB files, warm",
        "read-only OR over 2 x 1 GiB in C, same threads",
        "speed",
        0.4,
        bound="arithmetic, ten figures of each pair of values",
    ),
    "test_diff_numpy": Goal(
        "`diff` of two 1 GiB files, warm", "NumPy, one expression per figure, mapped", "speed", 10.0
    ),
    "test_diff_one_bit": Goal(
        "`truebits diff` of two quantized 250 MB files, one bit apart, whole process", "`cmp -l`", "whole time", 0.35
    ),
    "test_trace": Goal(
        "`trace A B` of two 1 GiB files, warm",
        "`diff` of them",
        "time",
        1.5,
        bound="rounding one side again and comparing, beside the scan of both",
    ),
    "test_evaluate": Goal(
        "`evaluate`: perplexity and KL of two models over 30 KB",
        "each decoding it alone, one after the other",
        "time",
        1.15,
    ),
    "test_scan_against_memory": Goal(
        "full scan of a 2 GiB file, warm", "the same kernels on 1 GiB in memory, twice", "speed", 0.6
    ),
    "test_low_bits_against_memory": Goal(
        "low bits of a 2 GiB file, warm", "the same kernel on 1 GiB in memory, twice", "speed", 0.6
    ),
    "test_scan_blocks": Goal("`scan --blocks` of 1 GiB of Q4_K, warm", "full scan of 1 GiB of F32, warm", "time", 1.5),
    "test_first_scan_blocks": Goal(
        "first `scan --blocks` of 250 MB of four block types, empty cache", "the second", "processor time", 5.0
    ),
    "test_compile": Goal("all kernels, `python -m truebits_native`, empty cache", "the second", "processor time", 25.0),
    "test_fakequant_memory": Goal(
        "peak memory, `truebits fakequant --dry-run` of 8 GiB", "the same of 2 GiB", "added memory", 16.0
    ),
    "test_low_zero_count_numpy": Goal("`low_zero_count`, 1 GiB", "the same in NumPy", "speed"),
    "test_low_zero_count_ml_dtypes": Goal("`low_zero_count`, 256 MiB", "ml_dtypes: to BF16 and back, equal", "speed"),
    "test_low_zero_count_torch": Goal("`low_zero_count`, 256 MiB", "torch: to BF16 and back, equal", "speed"),
    "test_profile_numpy": Goal("`profile`, 128 MiB", "its NumPy twin", "speed"),
    "test_truncate_numpy": Goal("`truncate`, 1 GiB", "`&=` in NumPy", "speed"),
    "test_round_measured": Goal(
        "round to BF16, with error figures, 1 GiB in memory", "`truncate` to BF16, the same array", "speed"
    ),
    "test_fakequant_file": Goal("`fakequant IN OUT` to FP8 E4M3FN, 2 GiB", "`cp --reflink=never` + fsync", "time"),
    "test_scan_warm": Goal("full scan of a 2 GiB file, warm", "`dd bs=1M of=/dev/null`, warm", "speed"),
    "test_low_bits_cold": Goal("low bits of a 1 GiB file, cold", "`dd bs=1M of=/dev/null`, cold", "speed"),
    "test_scan_cold": Goal("full scan of a 1 GiB file, cold", "`dd bs=1M of=/dev/null`, cold", "speed"),
    "test_truncate_process": Goal(
        "`truebits truncate IN OUT`, 2 GiB, whole process", "`cp --reflink=never` + fsync", "time"
    ),
    "test_import": Goal("`import truebits`, whole process", "`python -c pass`", "added time", 15.0),
    "test_show": Goal("`truebits show`, TinyLlama's shape, whole process", "`python -c pass`", "added time", 200.0),
    "test_help": Goal("`truebits --help`, whole process", "`python -c pass`", "added time"),
}
