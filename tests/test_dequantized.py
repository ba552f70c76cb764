"""What was quantized before: chains through gguf's and ggml's own quantizers, against direct quantization."""

from __future__ import annotations

from functools import cache

import gguf
import ml_dtypes
import numpy as np
import pytest

import truebits as tb
from converter import write_safetensors
from extras import NEEDS_EVAL
from models import finish
from truebits.precision import dequantized as requantized
from truebits.precision.codebooks import NF4
from truebits.precision.dequantized import RUN_BLOCKS, RUNS, judge_blocks, judge_values, sample
from truebits.precision.levels import LATTICES, agreement

SEEDS = range(50)
SHAPE = (16, 128)
DIRECT = ("normal", "laplace", "uniform", "student", "sparse")
NARROW = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


@cache
def weights(kind, seed, shape=SHAPE):
    random = np.random.default_rng(seed)
    values = {
        "normal": lambda: random.normal(0, 0.02, shape),
        "laplace": lambda: random.laplace(0, 0.02, shape),
        "uniform": lambda: random.uniform(-1, 1, shape),
        "student": lambda: random.standard_t(2, shape),
        "sparse": lambda: np.where(random.random(shape) < 0.9, 0, random.normal(0, 1, shape)),
        "ternary": lambda: 0.1 * random.integers(-1, 2, shape),
        "constant": lambda: np.full(shape, 0.3),
    }[kind]()
    return values.astype(np.float32)


def packed(values, name):
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])


def through(values, name):
    """Return values after a round trip through a block type."""
    return gguf.quants.dequantize(packed(values, name), gguf.GGMLQuantizationType[name]).astype(np.float32)


def verdict(values, name):
    """Return the format that block-quantized (or cast) values are said to be made from."""
    if name in NARROW:
        stored = values.astype(NARROW[name]).astype(np.float32)
        return judge_values(stored.reshape(-1, 32), name, values.shape[1]).format
    return judge_blocks(packed(values, name).ravel(), name).format


@pytest.mark.parametrize("kind", DIRECT)
@pytest.mark.parametrize("name", ["Q8_0", "Q5_0", "Q4_0", "F32", "F16", "BF16"])
def test_direct_quantization_is_never_called_anything_else(kind, name):
    got = [verdict(weights(kind, seed), name) for seed in SEEDS]
    assert [format for format in got if format not in ("direct", "ambiguous")] == []


CHAINS = [
    ("Q4_0", "Q8_0", "q4_0"),
    ("Q4_0", "Q5_0", "q4_0"),
    ("Q5_0", "Q8_0", "q5_0"),
    ("MXFP4", "Q8_0", "mxfp4"),
    ("Q4_1", "Q8_0", "q4_1 or q4_k"),
    ("Q5_1", "Q8_0", "q5_1 or q5_k"),
    ("TQ2_0", "Q8_0", "ternary"),
    ("MXFP4", "BF16", "mxfp4"),
    ("Q4_0", "F16", "q4_0"),
    ("Q4_1", "F16", "q4_1 or q4_k"),
    ("Q5_0", "F32", "q5_0"),
    ("Q8_0", "F32", "q8_0"),
    ("Q8_0", "F16", "q8_0"),
    ("Q8_0", "BF16", "q8_0"),
]


@pytest.mark.parametrize(("first", "then", "expected"), CHAINS)
def test_chains_are_told_by_name(first, then, expected):
    shape = (16, 256) if first == "TQ2_0" else SHAPE
    got = [verdict(through(weights("normal", seed, shape), first), then) for seed in SEEDS]
    assert set(got) == {expected}


@pytest.mark.parametrize("kind", ["laplace", "uniform", "student"])
@pytest.mark.parametrize(("first", "then", "expected"), CHAINS[:1] + CHAINS[2:4] + CHAINS[7:9])
def test_chains_of_other_distributions(kind, first, then, expected):
    got = {verdict(through(weights(kind, seed), first), then) for seed in range(5)}
    assert got == {expected}


def test_f16_on_the_way_changes_nothing():
    halves = [through(weights("normal", seed), "Q4_0").astype(np.float16).astype(np.float32) for seed in SEEDS]
    assert {verdict(half, "Q8_0") for half in halves} == {"q4_0"}


def test_q8_0_again_cannot_be_told():
    first = weights("normal", 1)
    once, again = packed(first, "Q8_0"), packed(through(first, "Q8_0"), "Q8_0")
    assert np.array_equal(once[:, 2:], again[:, 2:])
    assert judge_blocks(again.ravel(), "Q8_0").format == "direct"


@NEEDS_EVAL
@pytest.mark.parametrize(("first", "expected"), [("Q2_K", "q2_k"), ("Q3_K", "q3_k"), ("Q6_K", "q6_k")])
@pytest.mark.parametrize("then", ["Q8_0", "F32"])
def test_k_types_are_told_by_name(first, expected, then):
    from truebits.quantizers import ggml

    type = gguf.GGMLQuantizationType[first]
    for seed in range(5):
        blocks = ggml.quantize(weights("normal", seed, (32, 256)), type)
        assert verdict(gguf.quants.dequantize(blocks, type).astype(np.float32), then) == expected


@NEEDS_EVAL
@pytest.mark.parametrize(("first", "expected"), [("Q4_K", "q4_1 or q4_k"), ("Q5_K", "q5_1 or q5_k")])
def test_k_types_with_offsets_are_told_from_direct(first, expected):
    from truebits.quantizers import ggml

    type = gguf.GGMLQuantizationType[first]
    for seed in range(5):
        blocks = ggml.quantize(weights("normal", seed, (32, 256)), type)
        assert verdict(gguf.quants.dequantize(blocks, type).astype(np.float32), "Q8_0") == expected


@pytest.mark.parametrize(("kind", "expected"), [("ternary", "ternary"), ("constant", "constant")])
@pytest.mark.parametrize("name", ["Q8_0", "Q5_0", "Q4_0", "F32", "F16", "BF16"])
def test_weights_of_few_levels(kind, expected, name):
    assert {verdict(weights(kind, seed), name) for seed in range(5)} == {expected}


@pytest.mark.parametrize("scale", [1.0, 1.5, 1.25])
def test_ternary_weights_of_a_coarse_scale_are_no_floats(scale):
    values = np.random.default_rng(0).integers(-1, 2, (64, 64)).astype(np.float32) * np.float32(scale)
    assert verdict(values, "BF16") == "ternary"


def scaled_fp8(seed, tile, kind="normal"):
    """Return what a checkpoint with FP8 values and a scale for each tile says, in BF16."""
    values = weights(kind, seed, (256, 256))
    scales = np.repeat(
        np.repeat(np.abs(values).reshape(256 // tile, tile, 256 // tile, tile).max((1, 3)), tile, 0), tile, 1
    )
    scales = (scales / 448).astype(np.float32)
    narrow = np.clip(values / scales, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    return (narrow * scales).astype(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "laplace", "student"])
@pytest.mark.parametrize("tile", [128, 256])
def test_fp8_under_a_scale(kind, tile):
    got = {judge_values(scaled_fp8(seed, tile, kind).reshape(-1, 32), "BF16", 256).format for seed in SEEDS[:10]}
    assert got == {"scaled fp8_e4m3fn"}


def test_fp8_needs_rows_of_128():
    assert judge_values(scaled_fp8(1, 128).reshape(-1, 32), "BF16", 96).format == "direct"


def bf16(values):
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def by_grid(grid, size):
    """Return a quantizer: the nearest level of a grid times each run's largest magnitude."""

    def quantized(values):
        runs = values.reshape(-1, size)
        largest = np.abs(runs).max(axis=1, keepdims=True)
        nearest = np.abs((runs / largest)[..., None] - np.float32(grid)).argmin(axis=-1)
        return (np.float32(grid)[nearest] * largest).reshape(values.shape)

    return quantized


def integers(bits, size, has_whole_zero):
    """Return a quantizer with a scale and a zero point for each run: GPTQ and AWQ round the zero point."""

    def quantized(values):
        runs = values.reshape(-1, size)
        least, largest = runs.min(axis=1, keepdims=True), runs.max(axis=1, keepdims=True)
        scale = ((largest - least) / (2**bits - 1)).astype(np.float16).astype(np.float32)
        zero = np.rint(-least / scale) if has_whole_zero else -least / scale
        codes = np.clip(np.rint(runs / scale + zero), 0, 2**bits - 1)
        return ((codes - zero) * scale).reshape(values.shape)

    return quantized


def mlx(bits, size):
    """Return MLX's affine quantization, which computes in BF16."""

    def quantized(values):
        runs = values.reshape(-1, size)
        least, largest = runs.min(axis=1, keepdims=True), runs.max(axis=1, keepdims=True)
        scale = (largest - least) / (2**bits - 1)
        codes = np.clip(np.rint((runs - least) / scale), 0, 2**bits - 1)
        return bf16(bf16(codes * bf16(scale)) + bf16(least)).reshape(values.shape)

    return quantized


def int8_rows(values):
    scale = bf16(np.abs(values).max(axis=1, keepdims=True) / 127)
    return np.rint(values / scale) * scale


FP4_LEVELS = [sign * level for sign in (-1, 1) for level in (0, 1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)]

OTHERS = {
    "nf4": (by_grid(NF4, 64), "nf4"),
    "fp4": (by_grid(FP4_LEVELS, 64), "fp4"),
    "gptq 128": (integers(4, 128, True), "int4 (gptq or awq)"),
    "gptq 64": (integers(4, 64, True), "int4 (gptq or awq)"),
    "gptq 3 bits": (integers(3, 128, True), "int3 (gptq or awq)"),
    "hqq": (integers(4, 64, False), "affine int4 (mlx or hqq)"),
    "hqq 2 bits": (integers(2, 64, False), "affine int2 (mlx or hqq)"),
    "mlx": (mlx(4, 64), "affine int4 (mlx or hqq)"),
    "a list of nobody's": (
        by_grid(np.sort(np.random.default_rng(3).uniform(-1, 1, 16)), 64),
        "codebook of 16 in blocks of 64",
    ),
    "int8 of rows": (int8_rows, "int8"),
}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("type", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", OTHERS)
def test_upcasts_of_what_ggml_does_not_have(tmp_path, name, type, axis):
    quantized, expected = OTHERS[name]
    values = bf16(weights("normal", 5, (256, 512)))
    values = quantized(values) if axis == 0 else quantized(np.ascontiguousarray(values.T)).T
    assert written(tmp_path, values, type) == (expected, axis == 1)


@pytest.mark.parametrize("type", ["BF16", "F32"])
@pytest.mark.parametrize("name", ["MXFP4", "Q4_0", "Q8_0"])
def test_blocks_along_columns(tmp_path, name, type):
    """As gpt-oss's experts, once dequantized: what lies along the columns is no other format along the rows."""
    columns = through(weights("normal", 6, (256, 512)), name)
    assert written(tmp_path, columns.T, type) == (name.lower(), True)


@pytest.mark.parametrize("type", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("kind", DIRECT)
def test_direct_matrices_show_no_sign(tmp_path, kind, type):
    for seed in range(3):
        got, _ = written(tmp_path, bf16(weights(kind, seed, (256, 512))), type)
        assert got in ("direct", "ambiguous")


POSITIONS = np.arange(131072, dtype=np.float32).reshape(256, 512)
TABLES = {
    "positions": POSITIONS,
    "a ramp": np.linspace(-1, 1, 131072, dtype=np.float32).reshape(256, 512),
    "positions along columns": np.ascontiguousarray(POSITIONS.reshape(512, 256).T),
    "a mask": np.tril(np.ones((256, 512), np.float32)),
    "slopes": np.outer(np.ldexp(1.0, -np.minimum(np.arange(256), 20)), np.arange(512)).astype(np.float32),
}


@pytest.mark.parametrize("type", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_on_all_levels_and_prove_none(tmp_path, name, type):
    got, _ = written(tmp_path, np.minimum(TABLES[name], 65504), type)
    assert got in ("direct", "ambiguous", "constant")


def written(folder, values, type):
    """Store a matrix in a checkpoint; return what it is said to be made from, and whether along its columns."""
    stored = np.ascontiguousarray(values).astype(NARROW[type])
    write_safetensors(folder / "m.safetensors", {"a": stored})
    origin = tb.scan(folder / "m.safetensors", blocks=True).made_from["a"]
    return origin.format, origin.reason.startswith("along dimension 1")


GRIDDED = [
    ("IQ4_NL", "iq4_nl or iq4_xs"),
    ("IQ4_XS", "iq4_nl or iq4_xs"),
    ("IQ3_S", "iq3_s"),
    ("IQ3_XXS", "iq3_xxs"),
    ("IQ2_XXS", "iq2"),
    ("IQ1_S", "iq1"),
]


@pytest.mark.parametrize(("first", "expected"), GRIDDED)
@pytest.mark.parametrize("then", ["Q8_0", "F16", "BF16"])
def test_types_with_grids_are_told_by_name(first, expected, then):
    """Any codes, under scales of their own: gguf-py has the grids."""
    type = gguf.GGMLQuantizationType[first]
    values_of, bytes_of = gguf.GGML_QUANT_SIZES[type]
    blocks = np.random.default_rng(7).integers(0, 256, (128 * 512 // values_of, bytes_of), np.uint8)
    scales = np.random.default_rng(8).uniform(0.01, 0.02, len(blocks))
    blocks[:, :2] = scales.astype(np.float16).view(np.uint8).reshape(-1, 2)
    values = gguf.quants.dequantize(blocks, type).astype(np.float32).reshape(128, 512)
    assert verdict(values, then) == expected


@pytest.mark.parametrize("first", ["Q4_0", "MXFP4"])
def test_bf16_on_the_way_to_q8_0(first):
    got = {verdict(bf16(through(weights("normal", seed), first)), "Q8_0") for seed in range(20)}
    assert got == {first.lower()}


def test_fp8_under_a_scale_in_f16():
    """Many of the values are subnormal in F16."""
    codes = (weights("normal", 1, (256, 256)) * 4_000).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    stored = (codes * np.float32(3.3e-6)).astype(np.float16).astype(np.float32)
    assert np.count_nonzero(np.abs(stored) < 2.0**-14) > stored.size // 8
    assert judge_values(stored.reshape(-1, 32), "F16", 256).format == "scaled fp8_e4m3fn"


@pytest.mark.parametrize("type", ["Q4_1", "Q4_K", "MXFP4"])
def test_types_without_room_between_levels_are_ambiguous(type):
    got = judge_blocks(np.zeros(0, np.uint8), type)
    assert got.format == "ambiguous"
    assert type in got.reason


def test_few_codes_are_ambiguous():
    """All zero, or one value in each block: no distribution is excluded."""
    assert judge_blocks(np.zeros(34 * 50, np.uint8), "Q8_0").format == "ambiguous"
    lonely = np.zeros((50, 32), np.float32)
    lonely[:, 3] = 1
    assert judge_blocks(packed(lonely, "Q8_0").ravel(), "Q8_0").format == "ambiguous"
    assert judge_blocks(packed(through(weights("normal", 0)[:1, :32], "Q4_0"), "Q8_0").ravel(), "Q8_0").format == "q4_0"


def test_few_exceptions_are_allowed_and_counted():
    odd = weights("normal", 3, (64, 1024)).copy()
    changed = through(odd, "Q4_0")
    changed[5, :32] = odd[5, :32]
    got = judge_blocks(packed(changed, "Q8_0").ravel(), "Q8_0")
    assert got.format == "q4_0"
    assert got.reason.startswith("2,047 of 2,048 blocks")
    changed[9:11] = odd[9:11]
    assert judge_blocks(packed(changed, "Q8_0").ravel(), "Q8_0").format == "direct"


def test_blocks_with_special_scales_are_left_out():
    blocks = packed(through(weights("normal", 4), "Q4_0"), "Q8_0").reshape(-1, 34).copy()
    blocks[::3, :2] = np.array([np.nan], np.float16).view(np.uint8)
    blocks[::3, 2:] = np.arange(32)
    assert judge_blocks(blocks.ravel(), "Q8_0").format == "q4_0"


def test_values_that_are_not_finite_are_left_out():
    values = through(weights("normal", 5), "MXFP4").reshape(-1, 32).copy()
    values[7, 0], values[8, 1] = np.nan, np.inf
    values.view(np.uint32)[9, 3] = 0x7F800001  # a signalling NaN: to convert it is an invalid operation
    assert judge_values(values, "F32", 128).format == "mxfp4"


@pytest.mark.parametrize("levels", LATTICES, ids=lambda levels: levels.name)
@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform"])
def test_evidence_is_no_more_than_the_null_model_allows(levels, kind):
    """Of direct blocks, at most a share of 2^-B may agree with B bits or more."""
    codes = packed(np.vstack([weights(kind, seed) for seed in range(20)]), "Q8_0").reshape(-1, 34)[:, 2:]
    values = codes.view(np.int8).astype(np.float64).reshape(-1, max(32, levels.size))
    found = agreement(values, np.ones_like(values), 0.5 + requantized.CODE_SLACK, levels)
    worth = 2.0 ** found.bits[found.agrees]
    assert worth.sum() <= 1.2 * len(values)


def test_a_sample_is_all_or_runs_at_equal_distances():
    assert sample(0).size == 0
    assert sample(RUNS * RUN_BLOCKS).tolist() == list(range(RUNS * RUN_BLOCKS))
    got = sample(10**9).reshape(RUNS, RUN_BLOCKS)
    assert (np.diff(got, axis=1) == 1).all()
    assert (got[0, 0], got[:, 0].max() + RUN_BLOCKS) == (0, 10**9)
    assert (got[:, 0] % 4 == 0).all()


def test_scan_tells_what_a_model_was_made_from(tmp_path):
    path, random = tmp_path / "again.gguf", np.random.default_rng(2)
    writer = gguf.GGUFWriter(path, "llama")
    values = random.normal(0, 1, (64, 128)).astype(np.float32)
    q8, bf16 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.BF16
    writer.add_tensor("again", packed(through(values, "Q4_0"), "Q8_0"), raw_dtype=q8)
    writer.add_tensor("straight", packed(values, "Q8_0"), raw_dtype=q8)
    unpacked = through(values, "MXFP4").astype(ml_dtypes.bfloat16)
    writer.add_tensor("unpacked", unpacked.view(np.uint8).reshape(64, 256), raw_dtype=bf16)
    writer.add_tensor("vector", values[0])
    finish(writer)
    report = tb.scan(path, blocks=True)
    assert {name: one.made_from.format for name, one in report.blocks.items()} == {
        "again": "q4_0",
        "straight": "direct",
    }
    assert {name: origin.format for name, origin in report.made_from.items()} == {"unpacked": "mxfp4"}


def test_rows_of_a_checkpoint_lie_the_other_way(tmp_path):
    """Safetensors has the fastest dimension last: `a` has rows of 64 values, `b` of 33."""
    values = weights("normal", 0, (99, 64))
    chained = gguf.quants.dequantize(packed(values, "Q4_0"), gguf.GGMLQuantizationType.Q4_0)
    write_safetensors(tmp_path / "m.safetensors", {"a": chained, "b": values.reshape(-1, 33)})
    report = tb.scan(tmp_path / "m.safetensors", blocks=True)
    assert {name: origin.format for name, origin in report.made_from.items()} == {"a": "q4_0"}
