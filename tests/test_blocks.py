"""Codes and scales of block-quantized tensors: kernels against twins, twins against gguf.quants and brute force.

The kernels' tests run again in a child process without the compiler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

import truebits as tb
import truebits_native as native
from models import finish
from truebits.cli.app import app
from truebits.precision.blocks import BlockProfile
from truebits.precision.sampling import scale_facts
from truebits_native import dispatch, reference
from truebits_native.codes import code_counts, unpack
from truebits_native.types import FACTS, LAYOUTS
from words import assert_same_bits

WITHOUT_COMPILER = os.environ.get("NUMBA_DISABLE_JIT") == "1"
BLOCKS = (0, 1, 9) if WITHOUT_COMPILER else (0, 1, 2, 7, 8, 9, 127, 128, 129, 300)
OFFSETS = (0, 3) if WITHOUT_COMPILER else range(8)
SPECIAL_SCALES = (0x0000, 0x8000, 0x7C00, 0xFC00, 0x7E01, 0x0001, 0x83FF)
HALF_AT = {
    **{"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,)},
    **{"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,), "MXFP4": (), "NVFP4": ()},
}
TYPES = tuple(LAYOUTS)
pytestmark = pytest.mark.filterwarnings(*(["ignore:overflow encountered:RuntimeWarning"] if WITHOUT_COMPILER else []))


@pytest.fixture
def kernels(monkeypatch):
    """Let the Numba kernels do work of any size."""
    monkeypatch.setattr(dispatch, "uses_kernel", lambda *_: True)


def dequantized(raw, type):
    with np.errstate(invalid="ignore", over="ignore"):
        return gguf.quants.dequantize(raw.reshape(-1, LAYOUTS[type].nbytes), gguf.GGMLQuantizationType[type])


def random_blocks(type, count, seed=0):
    """Return blocks of any bytes: some zero, some all ones, some of one byte, some with special scales."""
    layout, random = LAYOUTS[type], np.random.default_rng(seed)
    blocks = random.integers(0, 256, (count, layout.nbytes), np.uint8)
    kinds = random.integers(0, 8, count)
    blocks[kinds == 0] = 0
    blocks[kinds == 1] = 255
    blocks[kinds == 2] = random.integers(0, 256, (np.count_nonzero(kinds == 2), 1), np.uint8)
    for at in HALF_AT[type]:
        for row in np.flatnonzero(kinds == 3):
            blocks[row, at : at + 2] = list(int(random.choice(SPECIAL_SCALES)).to_bytes(2, "little"))
        for row in np.flatnonzero(kinds == 4):
            blocks[row] = random.choice([0, 0x88, 0x80, 0x20, 0x55])
            blocks[row, at : at + 2] = list(int(random.choice(SPECIAL_SCALES)).to_bytes(2, "little"))
    return blocks


@pytest.mark.parametrize("type", TYPES)
def test_unpacked_blocks_are_what_gguf_makes_of_them(type):
    raw = random_blocks(type, 2_000).ravel()
    got, expected = unpack(raw, type).values(LAYOUTS[type].levels), dequantized(raw, type)
    is_nan = np.isnan(expected)
    assert_same_bits(np.isnan(got), is_nan)
    assert_same_bits(got[~is_nan].view(np.uint32), expected[~is_nan].astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("type", TYPES)
def test_layouts_are_gguf_s(type):
    values, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]]
    assert (LAYOUTS[type].values, LAYOUTS[type].nbytes) == (values, nbytes)


def codes_by_hand(raw, type):
    """Count group by group in plain Python, from the values that gguf dequantizes and from the codes."""
    layout = LAYOUTS[type]
    parts, values = unpack(raw, type), dequantized(raw, type)
    groups = values.reshape(-1, layout.values // layout.groups)
    codes = parts.codes.reshape(groups.shape)
    distinct, dead, seen = [0] * 33, 0, set()
    for group, code, offset in zip(groups.tolist(), codes.tolist(), parts.offset.ravel().tolist(), strict=True):
        cell = {(byte ^ 128) // 4 if type == "Q8_0" else byte for byte in code}
        distinct[len(cell)] += 1
        seen |= cell
        dead += all(value == 0 for value in group) and offset == 0
    return distinct, dead, sum(1 << cell for cell in seen)


@pytest.mark.parametrize("type", TYPES)
def test_twin_is_the_definition(type):
    raw = random_blocks(type, 500, seed=1).ravel()
    (facts,) = reference.block_counts(raw, np.array([0]), np.array([raw.size]), type)
    got, codes = dict(zip(FACTS, facts.tolist(), strict=True)), code_counts(raw, type)
    assert (codes.distinct.tolist(), codes.dead, codes.used) == codes_by_hand(raw, type)
    assert got["blocks"] == 500
    if HALF_AT[type]:
        halves = [raw.reshape(500, -1)[:, at : at + 2].copy().view(np.float16)[:, 0] for at in HALF_AT[type]]
        usual = [float(abs(half)) for half in halves[0] if np.isfinite(half) and half != 0]
        assert got["special"] == sum(not all(np.isfinite(pair)) for pair in zip(*halves, strict=True))
        assert got["zero"] == np.count_nonzero(halves[0] == 0)
        assert got["usual"] == len(usual)
        assert BlockProfile(type, facts, *codes).scale_range == (min(usual), max(usual))


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("count", BLOCKS)
def test_kernel_is_its_twin_wherever_blocks_start(kernels, type, count):
    blocks = random_blocks(type, count, seed=count)
    for offset in OFFSETS:
        raw = np.concatenate([np.full(offset, 77, np.uint8), blocks.ravel(), np.full(5, 99, np.uint8)])
        ranges = np.array([offset]), np.array([offset + blocks.size])
        got = native.block_counts(raw, *ranges, type)
        assert_same_bits(got, reference.block_counts(raw, *ranges, type))


@pytest.mark.parametrize("type", ["Q4_0", "Q6_K"])
def test_kernel_on_many_ranges_of_many_chunks(kernels, monkeypatch, type):
    layout = LAYOUTS[type]
    monkeypatch.setattr(native.blocks, "CHUNK_BYTES", 3 * layout.nbytes)
    raw = random_blocks(type, 60, seed=5).ravel()
    starts = np.array([0, 0, 7, 5 * layout.nbytes, 9])
    stops = starts + np.array([0, 60, 40, 55, 1]) * layout.nbytes
    one, two = (native.block_counts(raw, starts, stops, type, threads) for threads in (1, None))
    expected = reference.block_counts(raw, starts, stops, type)
    for got in (one, two):
        assert_same_bits(got, expected)


def test_ranges_have_to_be_whole_blocks():
    with pytest.raises(ValueError, match="whole blocks of 18 bytes"):
        native.block_counts(np.zeros(40, np.uint8), np.array([0]), np.array([20]), "Q4_0")


def test_everything_holds_without_the_compiler():
    if WITHOUT_COMPILER:
        pytest.skip("this is the child")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "kernel", __file__]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


# --- profiles


def profile_of(raw, type):
    raw = raw.ravel()
    (facts,) = native.block_counts(raw, np.array([0]), np.array([raw.size]), type)
    return BlockProfile(type, facts, *code_counts(raw, type))


def test_profiles_add_up():
    blocks = random_blocks("Q4_K", 100)
    parts = [profile_of(piece, "Q4_K") for piece in np.array_split(blocks, 7)]
    assert BlockProfile.merge(parts) == profile_of(blocks, "Q4_K")
    assert parts[0] + parts[1] == parts[1] + parts[0]
    assert parts[0] != parts[1]
    with pytest.raises(ValueError, match="not of Q4_0, Q4_K"):
        _ = parts[0] + profile_of(random_blocks("Q4_0", 1), "Q4_0")


def test_profile_of_blocks_made_by_hand():
    blocks = np.zeros((4, 18), np.uint8)
    blocks[:, :2] = np.array([1.0, -0.5, 0.0, np.inf], np.float16).view(np.uint8).reshape(4, 2)
    blocks[0, 2:] = np.arange(16) | np.arange(16) << 4
    blocks[1, 2:] = 0x88
    blocks[2, 2:] = 0x21
    blocks[3, 2:] = 0x55
    got = profile_of(blocks, "Q4_0")
    assert (got.groups, got.blocks, got.codes, got.levels, got.possible) == (4, 4, 16, 16, 16)
    assert (got.dead, got.degenerate, got.special, got.zero_scales, got.negative_scales) == (2, 2, 1, 1, 1)
    assert got.distinct.nonzero()[0].tolist() == [1, 2, 16]
    assert got.scale_range == (0.5, 1.0)
    assert (got.scale_exponent, got.typical) == (-0.5, 1)


@pytest.mark.parametrize(
    ("type", "stored", "expected"),
    [("MXFP4", 0, 2.0**-127), ("MXFP4", 130, 8.0), ("NVFP4", 1, 2.0**-9), ("NVFP4", 0x7E, 448.0), ("NVFP4", 0x3C, 1.5)],
)
def test_scales_that_are_not_fp16(type, stored, expected):
    block = np.zeros((1, LAYOUTS[type].nbytes), np.uint8)
    block[0, : 1 if type == "MXFP4" else 4] = stored
    assert profile_of(block, type).scale_range == (expected, expected)


def test_profile_without_blocks():
    got = BlockProfile.empty("Q8_0")
    assert (got.groups, got.typical, got.scale_range, got.scale_exponent) == (0, None, None, None)


# --- the whole scan


@pytest.fixture(scope="module")
def mixed_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "mixed.gguf"
    random = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.norm.weight", random.normal(1, 0.1, 64).astype(np.float32))
    for name in ("Q4_0", "Q8_0", "MXFP4", "Q5_1"):
        type = gguf.GGMLQuantizationType[name]
        for i in range(2):
            packed = gguf.quants.quantize(random.normal(0, 1, (8, 128)).astype(np.float32), type)
            writer.add_tensor(f"blk.{i}.{name.lower()}.weight", packed, raw_dtype=type)
    packed = random.integers(0, 256, (2, 144), np.uint8)
    writer.add_tensor("blk.0.wild.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    finish(writer)
    return path


def test_scan_reads_both_kinds(mixed_model):
    steps = []
    report = tb.scan(mixed_model, blocks=True, progress=lambda done, total: steps.append((done, total)))
    assert list(report) == ["blk.0.norm.weight"]
    assert len(report.blocks) == 9
    total = sum(tensor.nbytes for tensor in report.model.tensors)
    assert steps[-1] == (total, total)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    data = mixed_model.read_bytes()
    for name, got in report.blocks.items():
        raw = np.frombuffer(data, np.uint8, got.tensor.nbytes, got.tensor.offset)
        assert BlockProfile(got.type, got.facts, got.distinct, got.dead, got.used) == profile_of(raw, got.type), name


def test_scales_of_all_blocks_are_read_and_codes_of_a_sample(tmp_path):
    """One bad scale among 100,000 blocks is found wherever it is; what half of the groups do shows in the sample."""
    path, count = tmp_path / "model.gguf", 100_000
    blocks = np.random.default_rng(5).integers(0, 256, (count, 18), np.uint8)
    blocks[:, :2] = np.float16(0.5).tobytes()[0], np.float16(0.5).tobytes()[1]
    blocks[77_777, :2] = 0x00, 0x7E
    blocks[66_666, :2] = 0x00, 0x00
    blocks[::2, 2:] = 0x88
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", blocks.reshape(100, -1), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    finish(writer)
    got, whole = tb.scan(path, blocks=True).blocks["w"], code_counts(blocks.ravel(), "Q4_0")
    assert (got.blocks, got.groups, got.special, got.zero_scales) == (count, count, 1, 1)
    assert got.sampled_blocks == got.sampled_groups == 2_048
    for name, expected in (("dead", whole.dead), ("degenerate", whole.distinct[1])):
        assert getattr(got, name) / got.sampled_groups == pytest.approx(expected / count, abs=0.02)
    assert got.codes == whole.used.bit_count() == 16
    assert "Scales are those of all 100,000 blocks" in run("scan", path, "--blocks", "--wide").output
    assert "2,048 of them, at equal distances" in run("scan", path, "--blocks", "--wide").output


def test_scan_without_blocks_reads_none(mixed_model):
    report = tb.scan(mixed_model, blocks=False)
    assert (report.blocks, report.made_from) == ({}, {})


def test_tensors_go_through_several_batches(mixed_model, monkeypatch):
    model = tb.open(mixed_model)
    tensors = [tensor for tensor in model.tensors if tensor.type in LAYOUTS]
    expected = scale_facts(model, tensors)
    monkeypatch.setattr(sys.modules["truebits.precision.batches"], "BATCH_BYTES", 500)
    for got, facts in zip(scale_facts(model, tensors, threads=1), expected, strict=True):
        assert_same_bits(got, facts)


def test_a_selection_without_either_kind_is_an_error(tmp_path):
    path = tmp_path / "i8.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("whole", np.zeros(32, np.int8))
    finish(writer)
    with pytest.raises(tb.UsageError, match="only I8"):
        tb.scan(path, "whole", blocks=True)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command_prints_a_table_of_blocks(mixed_model):
    done = run("scan", mixed_model, "--blocks", "--wide", "-l", "q8_0|mxfp4")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    head = next(line for line in lines if "codes used" in line)
    assert head.split()[:4] == ["tensors", "type", "n", "blocks"]
    row = next(line for line in lines if line.startswith("blk.*.q8_0.weight"))
    assert row.split()[1:4] == ["Q8_0", "2", "64"]
    assert row.endswith("direct")


@pytest.mark.parametrize("style", ["md", "csv"])
def test_command_prints_other_styles(mixed_model, style):
    done = run("scan", mixed_model, "--blocks", "--by-tensor", "-o", style)
    assert done.exit_code == 0, done.output
    assert sum("blk.1.q5_1.weight" in line for line in done.output.splitlines()) == 1


def test_json_has_blocks(mixed_model):
    done = run("scan", mixed_model, "--blocks", "--json")
    document = json.loads(done.output)
    assert document["schema"] == "truebits.scan/1"
    one = next(block for block in document["blocks"] if block["name"] == "blk.1.q4_0.weight")
    assert (one["blocks"], one["groups"], one["levels"], one["special_scales"]) == (32, 32, 16, 0)
    assert sum(one["distinct"].values()) == one["sampled_groups"] == one["sampled_blocks"] == 32
    assert one["made_from"]["format"] == "direct"
    assert json.loads(run("scan", mixed_model, "--no-blocks", "--json").output)["blocks"] == []


def test_blocks_go_with_the_full_scan_only(mixed_model):
    done = run("scan", mixed_model, "--blocks", "--low-bits-only")
    assert isinstance(done.exception, tb.UsageError)
    assert "--blocks and --rows go with the full scan" in str(done.exception)


def test_a_sample_says_that_it_is_one(tmp_path):
    blocks = 1 << 16
    raw = np.zeros((blocks, 18), np.uint8)
    raw[:, :2] = np.float16(1).view(np.uint16).reshape(1).view(np.uint8)
    raw[:, 2:] = np.random.default_rng(0).integers(0, 256, (blocks, 16), np.uint8)
    writer = gguf.GGUFWriter(path := tmp_path / "large.gguf", "llama")
    writer.add_tensor("a.weight", raw.reshape(1 << 10, -1), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    finish(writer)
    sampled, whole = tb.scan(path), tb.scan(path, blocks=True)
    got = sampled.blocks["a.weight"]
    assert (got.blocks, whole.blocks["a.weight"].blocks) == (2_048, blocks)
    assert got.made_from == whole.blocks["a.weight"].made_from
    (left,) = sampled.coverage.not_read
    assert "--blocks" in left.why
    assert sampled.coverage.values_read == 2_048 * 32
    assert tb.scan(path, blocks=False).coverage.values_read == 0
