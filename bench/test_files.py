"""Reading files, and whole processes: against dd, gguf-py and the report's own way with NumPy."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import gguf
import pytest

import truebits
import truebits_native
from compare import alternate, record
from files import BITS, TRUEBITS, drop_from_cache, expected_low_zero, packed, read_with_dd, run
from first_use import first_and_second, processor_seconds

REPORTS_WAY = """
import sys
import numpy as np
from gguf import GGUFReader, GGMLQuantizationType

tensors = [t for t in GGUFReader(sys.argv[1]).tensors if t.tensor_type == GGMLQuantizationType.F32]
print(sum(int(np.count_nonzero(t.data.view(np.uint32) & np.uint32(0xFFFF) == 0)) for t in tensors))
"""

PEAK_OF_CHILD = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""In a small process of its own: a child starts with its parent's peak, and pytest's is large."""


def scanned(report: truebits.Report) -> dict[str, int]:
    return {name: precision.low_zero(BITS) for name, precision in report.items()}


def counted(counts: dict[str, int]) -> str:
    return f"{sum(counts.values()):,} low-zero values in {len(counts):,} tensors"


def low_bits_against_dd(benchmark, path, rounds, prepare):
    ours, theirs = alternate(
        benchmark, lambda: truebits.low_bits(path, bits=BITS), lambda: read_with_dd(path), rounds, prepare
    )
    got = ours.results[-1]
    record(benchmark, ours.seconds, theirs.seconds, counted(got), got == expected_low_zero(path))


def scan_against_dd(benchmark, path, rounds, prepare):
    ours, theirs = alternate(benchmark, lambda: truebits.scan(path), lambda: read_with_dd(path), rounds, prepare)
    got = scanned(ours.results[-1])
    record(benchmark, ours.seconds, theirs.seconds, counted(got), got == expected_low_zero(path))


def test_low_bits_warm(benchmark, threads, two_gib):
    truebits.low_bits(two_gib, bits=BITS)
    low_bits_against_dd(benchmark, two_gib, 9, prepare=lambda: None)


def test_scan_warm(benchmark, threads, two_gib):
    truebits.scan(two_gib)
    scan_against_dd(benchmark, two_gib, 7, prepare=lambda: None)


def against_memory(benchmark, path, words, of_file, of_words):
    """A file of twice as many bytes as the words: they are counted twice, so that both fit in memory."""
    of_file()
    of_words()
    ours, theirs = alternate(benchmark, of_file, lambda: [of_words(), of_words()], rounds=9)
    record(benchmark, ours.seconds, theirs.seconds, f"{path.stat().st_size:,} and 2 x {words.nbytes:,} bytes", None)


def test_scan_against_memory(benchmark, threads, two_gib, words):
    against_memory(benchmark, two_gib, words, lambda: truebits.scan(two_gib), lambda: truebits_native.profile(words))


def test_low_bits_against_memory(benchmark, threads, two_gib, words):
    against_memory(
        *(benchmark, two_gib, words),
        lambda: truebits.low_bits(two_gib, bits=BITS),
        lambda: truebits_native.low_zero_count(words, BITS),
    )


def test_scan_blocks(benchmark, threads, folder, cold_file, scale):
    """Random codes, scales of any size: none is spared."""
    path = packed(folder / "q4_k.gguf", {"Q4_K": cold_file.stat().st_size})
    ours, theirs = alternate(
        benchmark, lambda: truebits.scan(path, blocks=True), lambda: truebits.scan(cold_file), rounds=7
    )
    found = ours.results[-1].blocks["Q4_K"]
    record(benchmark, ours.seconds, theirs.seconds, f"{found.blocks:,} blocks, {found.special:,} Inf or NaN", None)


@pytest.mark.slow
def test_first_scan_blocks(benchmark, folder, scale):
    path = packed(folder / "four.gguf", dict.fromkeys(("Q4_0", "Q8_0", "Q4_K", "Q6_K"), int(62.5e6 * scale)))
    ours, theirs = first_and_second(benchmark, "-m", "truebits", "scan", str(path), "--blocks")
    result = ours.results[-1].partition("processor")[0]
    record(
        *(benchmark, processor_seconds(ours), processor_seconds(theirs), f"{path.stat().st_size:,} bytes"),
        result == theirs.results[-1].partition("processor")[0],
    )


def test_low_bits_cold(benchmark, threads, cold_file):
    low_bits_against_dd(benchmark, cold_file, 3, prepare=lambda: drop_from_cache(cold_file))


def test_scan_cold(benchmark, threads, cold_file):
    scan_against_dd(benchmark, cold_file, 3, prepare=lambda: drop_from_cache(cold_file))


def test_header(benchmark, tinyllama):
    ours, theirs = alternate(benchmark, lambda: truebits.open(tinyllama), lambda: gguf.GGUFReader(tinyllama), rounds=5)
    got = [(t.name, t.type, list(t.shape), t.offset, t.nbytes) for t in ours.results[-1].tensors]
    expected = [
        (t.name, t.tensor_type.name, t.shape.tolist(), int(t.data_offset), int(t.n_bytes))
        for t in theirs.results[-1].tensors
    ]
    result = f"{len(got)} tensors"
    record(benchmark, ours.seconds, theirs.seconds, result, sorted(got) == sorted(expected))


def test_safetensors_header(benchmark, tmp_path):
    """A file with holes: 3 MB of header, 63 GB of data that nobody reads."""
    path, nbytes = tmp_path / "model.safetensors", 2048 * 768 * 2
    entries = {
        f"model.layers.{i // 100}.mlp.experts.{i % 100}.down_proj.weight": {
            "dtype": "BF16",
            "shape": [2048, 768],
            "data_offsets": [i * nbytes, (i + 1) * nbytes],
        }
        for i in range(20_000)
    }
    header = json.dumps(entries, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with path.open("r+b") as file:
        file.truncate(8 + len(header) + 20_000 * nbytes)

    def unique(pairs):
        members = dict(pairs)
        assert len(members) == len(pairs)
        return members

    ours, theirs = alternate(
        benchmark, lambda: truebits.open(path), lambda: json.loads(header, object_pairs_hook=unique), rounds=9
    )
    got = [(one.name, list(one.shape), one.nbytes) for one in ours.results[-1].tensors]
    expected = [(name, entry["shape"], nbytes) for name, entry in theirs.results[-1].items()]
    record(benchmark, ours.seconds, theirs.seconds, f"{len(got)} tensors", got == expected)


def test_scan_process(benchmark, tinyllama):
    """The report's way reads F32 tensors only."""
    against_reports_way(benchmark, tinyllama, "--no-blocks")


def test_scan_process_sampling(benchmark, tinyllama):
    """What is looked at besides: a sample of each quantized tensor."""
    against_reports_way(benchmark, tinyllama)


def against_reports_way(benchmark, path, *options):
    ours, theirs = alternate(
        benchmark,
        lambda: run(*TRUEBITS, "scan", path, *options),
        lambda: run(sys.executable, "-c", REPORTS_WAY, path),
        rounds=5,
    )
    total = json.loads(run(*TRUEBITS, "scan", path, *options, "--json"))["total"]
    got, expected = total["low_zero"][str(BITS)], int(theirs.results[-1])
    record(benchmark, ours.seconds, theirs.seconds, f"{got:,} of {total['values']:,}", got == expected)


def test_help(benchmark):
    against_pass(benchmark, *TRUEBITS, "--help")


def test_show(benchmark, tinyllama):
    against_pass(benchmark, *TRUEBITS, "show", tinyllama)


def test_import(benchmark):
    against_pass(benchmark, sys.executable, "-c", "import truebits; print(truebits.__version__)")


def against_pass(benchmark, *command):
    ours, theirs = alternate(benchmark, lambda: run(*command), lambda: run(sys.executable, "-c", "pass"), rounds=15)
    shown = ours.results[-1]
    assert shown.strip()
    record(benchmark, ours.seconds, theirs.seconds, f"{len(shown.splitlines())} lines", equal=None)


def test_memory(benchmark, two_gib, eight_gib):
    def peak(path: Path) -> float:
        return int(run(sys.executable, "-c", PEAK_OF_CHILD, *TRUEBITS, "scan", path)) / 1024

    ours, theirs = alternate(benchmark, lambda: peak(eight_gib), lambda: peak(two_gib), rounds=5)
    got = json.loads(run(*TRUEBITS, "scan", eight_gib, "--json"))["total"]["low_zero"][str(BITS)]
    expected = sum(expected_low_zero(eight_gib).values())
    record(benchmark, ours.results, theirs.results, f"{got:,} low-zero values", got == expected)


def test_fakequant_memory(benchmark, two_gib, eight_gib):
    """Rounding in blocks is tried piece by piece, which must not hold more of a larger file."""
    options = ("--to", "int8", "--dry-run", "--json")

    def peak(path: Path) -> float:
        return int(run(sys.executable, "-c", PEAK_OF_CHILD, *TRUEBITS, "fakequant", path, *options)) / 1024

    ours, theirs = alternate(benchmark, lambda: peak(eight_gib), lambda: peak(two_gib), rounds=3)
    got = json.loads(run(*TRUEBITS, "fakequant", eight_gib, *options))["total"]
    expected = sum(tensor.n_elements for tensor in gguf.GGUFReader(eight_gib).tensors)
    result = f"{got['changed']:,} of {got['values']:,} would change"
    record(benchmark, ours.results, theirs.results, result, got["values"] == expected)


def test_growth(benchmark, threads, two_gib, eight_gib):
    truebits.scan(eight_gib)
    truebits.scan(two_gib)
    ours, theirs = alternate(benchmark, lambda: truebits.scan(eight_gib), lambda: truebits.scan(two_gib), rounds=5)
    got = scanned(ours.results[-1])
    record(benchmark, ours.seconds, theirs.seconds, counted(got), got == expected_low_zero(eight_gib))


def test_small_tensors(benchmark, threads, two_gib, many_tensors):
    truebits.scan(two_gib)
    truebits.scan(many_tensors)
    ours, theirs = alternate(benchmark, lambda: truebits.scan(many_tensors), lambda: truebits.scan(two_gib), rounds=7)
    got = scanned(ours.results[-1])
    record(benchmark, ours.seconds, theirs.seconds, counted(got), got == expected_low_zero(many_tensors))
