"""Packed whole numbers with a scale and a zero point for each group: GPTQ, AWQ, compressed-tensors, MLX."""

import json

import numpy as np
import pytest

from quantized_files import RANDOM, assert_golden, cases, folder, no_peek, same_bits, stored, stream, tensor, values_of
from truebits.files.model import open_model
from truebits.quantizers.grouped import gptq, mlx, packed
from truebits.quantizers.method import Method
from truebits.quantizers.quantized import Unread
from truebits.quantizers.weights import meaning_of


def scales(*shape):
    return RANDOM.gamma(2, 1e-2, shape).astype(np.float16)


def drawn(bits, *shape):
    return RANDOM.integers(0, 1 << bits, shape, np.uint8)


def read(tmp_path, tensors, settings, name="a.weight", piece=1 << 20):
    of = meaning_of(folder(tmp_path, tensors, settings))
    assert of.not_read == {}
    return values_of(of, name, piece)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("convention", "plus"), [(None, 1), ("gptq", 1), ("gptq_v2", 0)])
@pytest.mark.parametrize("order", [False, True])
def test_gptq(tmp_path, bits, convention, plus, order):
    """(code - zero point) x scale; a zero point is stored minus one, modulo 2^bits."""
    columns, out, groups = 96, 64, 3
    codes, zeros, scale = drawn(bits, out, columns), drawn(bits, groups, out), scales(groups, out)
    of_column = RANDOM.permutation(columns) % groups if order else np.arange(columns) // 32
    meant = (zeros.astype(int) + plus) % (1 << bits)
    tensors = {
        "a.qweight": stored("I32", stream(codes, bits).T.astype(np.uint32)),
        "a.qzeros": stored("I32", stream(zeros, bits)),
        "a.scales": stored("F16", scale),
        "a.g_idx": stored("I32", of_column.astype(np.int32)),
    }
    settings = {"quant_method": "gptq", "bits": bits, "group_size": 32}
    settings |= {"checkpoint_format": convention} if convention else {}
    differences = codes.astype(np.float32) - meant.astype(np.float32)[of_column].T
    for piece in (1 << 20, 100):
        got = read(tmp_path, tensors, settings, piece=piece)
        same_bits(got, differences * scale.astype(np.float32)[of_column].T)


def test_awq(tmp_path):
    """Eight values of a word, in the order of AutoAWQ's ``packing_utils.py``."""
    columns, out, groups = 64, 32, 2
    codes, zeros, scale = drawn(4, columns, out), drawn(4, groups, out), scales(groups, out)

    def words(of):
        order = [0, 2, 4, 6, 1, 3, 5, 7]  # AWQ_PACK_ORDER: the value that each nibble holds
        return sum(
            of.reshape(len(of), -1, 8)[:, :, one].astype(np.uint32) << np.uint32(4 * at) for at, one in enumerate(order)
        )

    tensors = {
        "a.qweight": stored("I32", words(codes)),
        "a.qzeros": stored("I32", words(zeros)),
        "a.scales": stored("F16", scale),
    }
    groups_of = np.arange(columns) // 32
    expected = (codes.astype(np.float32) - zeros.astype(np.float32)[groups_of]) * scale.astype(np.float32)[groups_of]
    for piece in (1 << 20, 200):
        got = read(tmp_path, tensors, {"quant_method": "awq", "bits": 4, "group_size": 32}, piece=piece)
        same_bits(got, expected.T)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("with_zeros", [False, True])
def test_compressed_tensors(tmp_path, bits, with_zeros):
    out, columns, groups = 32, 64, 2
    codes, zeros, scale = drawn(bits, out, columns), drawn(bits, out, groups), scales(out, groups)
    tensors = {
        "a.weight_packed": stored("I32", stream(codes, bits)),
        "a.weight_scale": stored("F16", scale),
        "a.weight_shape": stored("I64", np.array([out, columns])),
    }
    if with_zeros:
        tensors["a.weight_zero_point"] = stored("I32", np.ascontiguousarray(stream(zeros.T, bits).T))
    at = np.arange(columns) // 32
    zero = zeros.astype(np.float32)[:, at] if with_zeros else np.float32(1 << bits - 1)
    expected = (codes.astype(np.float32) - zero) * scale.astype(np.float32)[:, at]
    settings = {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": bits}}}}
    for piece in (1 << 20, 64):
        same_bits(read(tmp_path, tensors, settings, piece=piece), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_mlx(tmp_path, bits):
    out, columns, group = 6, 128, 64
    codes, scale, offset = drawn(bits, out, columns), scales(out, 2), scales(out, 2)
    tensors = {
        "a.weight": stored("U32", stream(codes, bits)),
        "a.scales": stored("F16", scale),
        "a.biases": stored("F16", offset),
    }
    folder(tmp_path, tensors)
    (tmp_path / "config.json").write_text(json.dumps({"quantization": {"bits": bits, "group_size": group}}))
    of = meaning_of(open_model(tmp_path))
    at = np.arange(columns) // group
    expected = codes.astype(np.float32) * scale.astype(np.float32)[:, at] + offset.astype(np.float32)[:, at]
    same_bits(values_of(of, "a.weight", 150), expected)


GPTQ = {"weight": tensor("I32", 8, 64), "zero": tensor("I32", 2, 8), "scale": tensor("F16", 2, 64)}
PACKED = {"weight": tensor("I32", 4, 8), "scale": tensor("F16", 4, 2), "shape": tensor("I64", 2)}
MLX = {"weight": tensor("U32", 4, 8), "scale": tensor("F16", 4, 1), "offset": tensor("F16", 4, 1)}
FOUR = {"bits": 4, "group_size": 32}


def shape(*sizes):
    return lambda _: np.array(sizes, "<i8").tobytes()


@pytest.mark.parametrize(
    ("build", "sources", "method", "peek", "words"),
    [
        (gptq, {"weight": GPTQ["weight"]}, Method("gptq"), no_peek, "its zero is absent"),
        (gptq, GPTQ | {"scale": tensor("F16", 128)}, Method("gptq"), no_peek, "its shapes are"),
        (gptq, GPTQ | {"scale": tensor("I32", 2, 64)}, Method("gptq"), no_peek, "its scales I32"),
        (gptq, GPTQ, Method("awq"), no_peek, "config.json says awq, the shapes are those of GPTQ"),
        (gptq, GPTQ, Method(), no_peek, "without a config.json it is not known"),
        (gptq, GPTQ, Method("gptq", {"bits": 8}), no_peek, "says 8 bits, the shapes say 4"),
        (gptq, GPTQ, Method("gptq", {"bits": 5}), no_peek, "no reader for 5 bits"),
        (gptq, GPTQ, Method("gptq", {"checkpoint_format": "v3"}), no_peek, "checkpoint_format v3 is not known"),
        (gptq, GPTQ, Method("gptq", {"checkpoint_format": 3}), no_peek, "checkpoint_format 3 is not known"),
        (gptq, GPTQ, Method("gptq", {"group_size": 16}), no_peek, "in 2 groups, config.json says groups of 16"),
        (gptq, GPTQ | {"g_idx": tensor("I32", 63)}, Method("gptq"), no_peek, "g_idx is I32 of 63"),
        (
            gptq,
            GPTQ | {"g_idx": tensor("I32", 64)},
            Method("gptq"),
            lambda _: b"\2\0\0\0" * 64,
            "g_idx goes from 2 to 2",
        ),
        (gptq, GPTQ | {"weight": tensor("I32", 64, 8)}, Method("gptq"), no_peek, "config.json says gptq, and scales"),
        (gptq, GPTQ | {"weight": tensor("I32", 64, 8)}, Method("awq", {"version": "gemv"}), no_peek, "version gemv"),
        (
            gptq,
            GPTQ | {"weight": tensor("I32", 64, 8), "zero": tensor("I32", 1, 8)},
            Method("awq"),
            no_peek,
            "expected 2 x 8",
        ),
        (packed, PACKED, Method(), shape(5, 64), "weight_shape says 5 x 64"),
        (packed, PACKED, Method(), shape(4, 0), "weight_shape says 4 x 0"),
        (packed, PACKED, Method("x", {"num_bits": 8}), shape(4, 64), "8 bits do not fit 8 words for 64 values"),
        (packed, PACKED | {"scale": tensor("F16", 3, 2)}, Method(), shape(4, 64), "its scales are 3 x 2"),
        (packed, PACKED | {"zero": tensor("I32", 4, 2)}, Method(), shape(4, 64), "its zero points are 4 x 2"),
        (packed, PACKED | {"shape": tensor("F32", 2)}, Method(), no_peek, "weight_shape is F32"),
        (mlx, MLX, Method("mlx"), no_peek, "does not say bits and group_size"),
        (mlx, MLX, Method("mlx", FOUR | {"bits": 7}), no_peek, "no reader for 7 bits"),
        (mlx, MLX, Method("mlx", FOUR | {"group_size": 0}), no_peek, "in groups of 0"),
        (mlx, MLX, Method("mlx", FOUR | {"mode": "mxfp4"}), no_peek, "mode mxfp4 with biases"),
        (mlx, MLX, Method("mlx", FOUR), no_peek, "do not fit shapes 4 x 8 and 4 x 1"),
        (
            mlx,
            MLX | {"offset": tensor("F16", 4)},
            Method("mlx", FOUR | {"group_size": 64}),
            no_peek,
            "do not fit shapes",
        ),
    ],
)
def test_what_does_not_fit_is_not_read(build, sources, method, peek, words):
    with pytest.raises(Unread, match=words):
        build("a.weight", sources, method, peek)


@pytest.mark.parametrize("case", cases("gptq", "awq", "ct-int", "mlx"))
@pytest.mark.parametrize("piece", [1 << 20, 300])
def test_values_are_those_of_the_formats_own_package(tmp_path, case, piece):
    assert_golden(tmp_path, case, piece)
