"""Small floats and the scales that they share: by OCP's and the checkpoints' own definitions."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from quantized_files import (
    RANDOM,
    assert_golden,
    cases,
    folder,
    fp8,
    no_peek,
    positive,
    same_bits,
    stored,
    tensor,
    values_of,
)
from truebits.quantizers.method import Method
from truebits.quantizers.quantized import Unread
from truebits.quantizers.small_floats import Blocks, blocks_of, fp4_table, gpt_oss, packed_fp4, scaled, spread
from truebits.quantizers.weights import meaning_of


@pytest.mark.parametrize(
    ("shape", "scale", "block"),
    [
        ((200, 300), (2, 3), [128, 128]),
        ((200, 300), (4, 5), [64, 64]),
        ((200, 300), (2, 3), None),
        ((200, 300), (200, 1), None),
        ((200, 300), (200,), None),
        ((200, 300), (1,), None),
        ((200, 300), (), None),
        ((3, 200, 300), (3, 2, 3), [128, 128]),
        ((3, 200, 300), (3, 1, 1), None),
        ((3, 200, 300), (3, 1, 200), None),
    ],
)
@pytest.mark.parametrize("piece", [1 << 20, 7])
def test_fp8_times_scales(tmp_path, shape, scale, block, piece):
    codes, scales = fp8(*shape), positive(*scale)
    settings = {"quant_method": "fp8", "weight_block_size": block}
    tensors = {"a.weight": stored("F8_E4M3", codes), "a.weight_scale_inv": stored("F32", scales)}
    of = meaning_of(folder(tmp_path, tensors, settings))
    rows, columns = block or (128, 128)
    if scales.size == 1 or scale == (3, 1, 1):
        each = np.broadcast_to(scales, shape)
    elif scale[-1] == 200 or scale == (200, 1):
        each = np.broadcast_to(scales.reshape(*shape[:-1], 1), shape)
    else:
        each = scales.repeat(rows, -2).repeat(columns, -1)[..., : shape[-2], : shape[-1]]
    same_bits(values_of(of, "a.weight", piece), codes.astype(np.float32) * each)
    assert [(one.name, one.type) for one in of.model.tensors] == [("a.weight", "F8_E4M3 x scale")]


def mxfp4(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """OCP's definition: two codes for each byte, the low half first, times a power of two for each 32."""
    halves = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)
    values = halves.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return values * np.ldexp(np.float32(1), scales.astype(int) - 127)[..., np.newaxis]


@pytest.mark.parametrize("piece", [1 << 20, 1000])
def test_gpt_oss(tmp_path, piece):
    codes = RANDOM.integers(0, 256, (2, 24, 3, 16), dtype=np.uint8)
    scales = RANDOM.integers(100, 130, (2, 24, 3), dtype=np.uint8)
    tensors = {"e.down_proj_blocks": stored("U8", codes), "e.down_proj_scales": stored("U8", scales)}
    of = meaning_of(folder(tmp_path, tensors, {"quant_method": "mxfp4"}))
    expected = mxfp4(codes, scales).reshape(2, 24, 96)
    same_bits(values_of(of, "e.down_proj", piece), np.ascontiguousarray(expected.transpose(0, 2, 1)))
    same_bits(values_of(of, "e.down_proj", piece, as_stored=True), expected)


NVFP4_NAMES = {
    "modelopt": ("a.weight", "a.weight_scale_2", np.multiply),
    "compressed-tensors": ("a.weight_packed", "a.weight_global_scale", np.divide),
}


@pytest.mark.parametrize("method", NVFP4_NAMES)
def test_nvfp4(tmp_path, method):
    codes, scales = RANDOM.integers(0, 256, (6, 5, 8), dtype=np.uint8), fp8(6, 5)
    weight, whole, operation = NVFP4_NAMES[method]
    one = np.array([0.37], np.float32)
    tensors = {
        weight: stored("U8", codes, (6, 40)),
        "a.weight_scale": stored("F8_E4M3", scales),
        whole: stored("F32", one),
    }
    of = meaning_of(folder(tmp_path, tensors, {"quant_method": method}))
    halves = np.stack([codes & 15, codes >> 4], -1).reshape(6, 5, 16)
    values = halves.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    expected = values * operation(scales.astype(np.float32), one)[..., np.newaxis]
    same_bits(values_of(of, "a.weight"), expected.reshape(6, 80))


@pytest.mark.parametrize(
    ("type", "dtype"),
    [("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2), ("F8_E8M0", ml_dtypes.float8_e8m0fnu)],
)
def test_plain_floats_of_a_byte(tmp_path, type, dtype):
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    got = values_of(meaning_of(folder(tmp_path, {"a": stored(type, codes)})), "a", 40)
    expected = codes.view(dtype).astype(np.float32)
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    same_bits(np.nan_to_num(got, nan=0), np.nan_to_num(expected, nan=0))


def test_plain_fp4(tmp_path):
    codes = RANDOM.integers(0, 256, 15, dtype=np.uint8)
    got = values_of(meaning_of(folder(tmp_path, {"a": stored("F4", codes, (6, 5))})), "a", 5)
    halves = np.stack([codes & 15, codes >> 4], -1).reshape(6, 5).astype(np.uint8)
    same_bits(got, halves.view(ml_dtypes.float4_e2m1fn).astype(np.float32))


SCALE = tensor("F32", 2, 3)


@pytest.mark.parametrize(
    ("shape", "scale", "asked", "group", "expected"),
    [
        ((200, 300), tensor("F32"), None, None, (200, 300, 200, 1, 1)),
        ((200, 300), tensor("F32", 1, 1), [64, 64], None, (200, 300, 200, 1, 1)),
        ((200, 300), SCALE, (128, 128), None, (128, 128, 200, 2, 3)),
        ((200, 300), SCALE, None, None, (128, 128, 200, 2, 3)),
        ((200, 300), tensor("F32", 200), None, None, (1, 300, 200, 200, 1)),
        ((200, 320), tensor("F32", 200, 10), None, 32, (1, 32, 200, 200, 10)),
        ((5, 200, 300), tensor("F32", 5), None, None, (200, 300, 200, 1, 1)),
    ],
)
def test_what_a_scale_belongs_to(shape, scale, asked, group, expected):
    assert blocks_of(shape, scale, asked, group) == expected


@pytest.mark.parametrize(
    ("shape", "scale", "asked", "group", "words"),
    [
        ((200, 300), SCALE, (64, 64), None, "blocks of 64 x 64 would have 4 x 5"),
        ((200, 300), tensor("F32", 300), None, None, "a weight of 200 x 300 needs others"),
        ((200, 300), tensor("F32", 200, 10), None, 32, "groups of 32 of 300 values need others"),
        ((200, 300), tensor("F32", 200, 7), None, None, "needs others"),
        ((200,), tensor("F32", 7), None, None, "needs others"),
    ],
)
def test_scales_that_do_not_fit(shape, scale, asked, group, words):
    with pytest.raises(Unread, match=words):
        blocks_of(shape, scale, asked, group)


def test_spread_is_repeat():
    scales = RANDOM.normal(0, 1, (2 * 3, 5)).astype(np.float32)
    blocks = Blocks(4, 8, 10, 3, 5)  # two experts of 10 rows in blocks of 4 x 8
    whole = np.concatenate([half.repeat(4, 0)[:10].repeat(8, 1)[:, :37] for half in (scales[:3], scales[3:])])
    for start, stop in ((0, 20), (0, 1), (3, 12), (19, 20)):
        assert (spread(scales, blocks, 37, start, stop) == whole[start:stop]).all()


FP4 = {"weight": tensor("U8", 4, 32), "scale": tensor("F8_E4M3", 4, 4), "global": tensor("F32", 1)}


@pytest.mark.parametrize(
    ("build", "sources", "words"),
    [
        (packed_fp4, {"weight": tensor("U8", 4, 32)}, "its scale is absent"),
        (packed_fp4, FP4 | {"weight": tensor("U8")}, "packed in a single value"),
        (packed_fp4, FP4 | {"scale": tensor("F32", 4, 4)}, "its scales are F32"),
        (packed_fp4, FP4 | {"scale": tensor("F8_E4M3", 4, 2)}, "blocks of 16 of 4 x 64 need others"),
        (packed_fp4, FP4 | {"global": tensor("F32", 2)}, "has 2 values"),
        (packed_fp4, FP4 | {"divisor": tensor("F32", 1)}, "it has two scales of the whole tensor"),
        (packed_fp4, {"weight": FP4["weight"], "scale": FP4["scale"]}, "of the whole tensor is absent"),
        (gpt_oss, {"weight": tensor("U8", 2, 4, 3, 16), "scale": tensor("U8", 2, 4)}, "its blocks are 2 x 4 x 3 x 16"),
        (gpt_oss, {"weight": tensor("U8", 4, 3, 16), "scale": tensor("U8", 4, 3)}, "its blocks are 4 x 3 x 16"),
        (
            scaled,
            {"weight": tensor("I8", 4, 4), "scale": tensor("F32", 4), "zero": tensor("I8", 1)},
            "its zero points are 1",
        ),
    ],
)
def test_what_does_not_fit_is_not_read(build, sources, words):
    with pytest.raises(Unread, match=words):
        build("a.weight", sources, Method(), no_peek)


def test_int8_with_zero_points(tmp_path):
    codes = RANDOM.integers(-128, 128, (8, 64)).astype(np.int8)
    zero, scale = RANDOM.integers(-9, 9, (8, 2)).astype(np.int8), positive(8, 2)
    tensors = {
        "a.weight": stored("I8", codes),
        "a.weight_scale": stored("F32", scale),
        "a.weight_zero_point": stored("I8", zero),
    }
    of = meaning_of(folder(tmp_path, tensors, {"quant_method": "compressed-tensors"}))
    expected = (codes.astype(np.float32) - zero.repeat(32, 1).astype(np.float32)) * scale.repeat(32, 1)
    for piece in (1 << 20, 64):
        same_bits(values_of(of, "a.weight", piece), expected)


def test_fp4_codes_are_those_of_ml_dtypes():
    codes = np.arange(16, dtype=np.uint8)
    same_bits(fp4_table(), codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32))


@pytest.mark.parametrize("case", cases("fp8", "ct-fp8", "ct-nvfp4", "modelopt", "gpt-oss", "torchao"))
@pytest.mark.parametrize("piece", [1 << 20, 300])
def test_values_are_those_of_the_formats_own_package(tmp_path, case, piece):
    assert_golden(tmp_path, case, piece)
