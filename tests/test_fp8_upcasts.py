"""Values that are FP8 codes times a scale: the scale is found, and the codes are those that they were."""

import numpy as np
import pytest

from quantized_files import rounded
from truebits.files.tensor import Tensor
from truebits.quantizers.fp8_upcasts import Scaled, codes_of, odd_one, proved, scale_shape, scales_of
from upcast_fp8 import FP8, made


def units(size=4096, number=60, seed=0):
    """Return codes, scales and values of units, the largest code of each 448."""
    random = np.random.default_rng(seed)
    weights = random.normal(0, 1, (number, size)).astype(np.float32) * np.exp(random.normal(-4, 2, (number, 1)))
    weights = weights.astype(np.float32)
    scales = (np.abs(weights).max(axis=1) / np.float32(448)).astype(np.float32)
    codes = (weights / scales[:, None]).astype(FP8)
    return codes.view(np.uint8), scales, codes.astype(np.float32) * scales[:, None]


@pytest.mark.parametrize("size", [16, 64, 1000, 16384])
def test_codes_and_scales_come_back_from_f32_bit_for_bit(size):
    codes, scales, values = units(size)
    got = scales_of(values, "F32")
    assert got.held.all()
    assert not got.finer.any()
    expected = scales.view(np.uint32) if size > 16 else got.values.view(np.uint32)  # of few values two may be right
    assert np.array_equal(got.values.view(np.uint32), expected)
    assert np.array_equal(codes_of(values, got.values[:, None]), codes)


@pytest.mark.parametrize("type", ["F16", "BF16"])
def test_values_that_were_rounded_once_more_are_held_by_codes_that_round_to_them(type):
    codes, _, values = units()
    values *= np.float32(0.5) if type == "BF16" else np.float32(1)
    values = rounded(values, type)
    got = scales_of(values, type)
    assert got.held.all()
    made = codes_of(values, got.values[:, None]).view(FP8).astype(np.float32) * got.values[:, None]
    assert np.array_equal(rounded(made, type), values)
    assert got.finer.tolist() == np.count_nonzero(made != values, axis=1).tolist()
    if type == "BF16":
        assert np.array_equal(codes_of(values, got.values[:, None]), codes)


@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_scales_that_are_powers_of_two_are_exact_in_bf16(type):
    random = np.random.default_rng(3)
    codes = random.integers(0, 256, (20, 512)).astype(np.uint8)
    codes[(codes & 127) == 127] = 126
    scales = np.ldexp(np.float32(1), random.integers(-20, 3, 20))
    got = scales_of(codes.view(FP8).astype(np.float32) * scales[:, None], type)
    assert got.held.all()
    assert not got.finer.any()
    assert np.array_equal(got.values, scales)


def test_every_code_and_its_sign():
    every = np.arange(256, dtype=np.uint8)
    every = every[(every & 127) != 127]
    for scale in (np.float32(1), np.float32(0.00123), np.float32(3e-39), np.float32(1e35)):
        values = every.view(FP8).astype(np.float32) * scale
        if scale > 1e-38:
            assert np.array_equal(codes_of(values, scale), every)
        got = scales_of(values[None], "F32")
        assert got.held.all()
        assert np.array_equal(
            codes_of(values[None], got.values[:, None]).view(FP8).astype(np.float32) * got.values, values[None]
        )


@pytest.mark.parametrize("odd", [np.nan, np.inf, 0.3])
def test_what_is_no_code_is_not_held(odd):
    _, _, values = units(256, 8)
    values[3, 100] = odd
    got = scales_of(values, "F32")
    assert got.held.tolist() == [at != 3 for at in range(8)]


@pytest.mark.parametrize("type", ["F32", "F16", "BF16"])
def test_weights_that_were_never_quantized_are_not_held(type):
    values = rounded(np.random.default_rng(0).normal(0, 1, (200, 64)).astype(np.float32), type)
    assert not scales_of(values, type).held.any()


def test_values_at_the_ends_of_f32_warn_of_nothing():
    for values in ([1e-45, 3e-45, 1e-44], [3e38, 1e-45, 1e38], [3.4e38, 3.4e38, 0]):
        scales_of(np.array([values], np.float32), "F32")
        odd_one(np.array(values, np.float32), "F32")


def test_zeros_are_held_without_a_scale():
    values = np.zeros((2, 64), np.float32)
    values[1] = -0.0
    got = scales_of(values, "F32")
    assert (got.values.tolist(), got.held.all()) == ([0, 0], True)
    assert codes_of(values, np.ones((2, 1), np.float32))[:, 0].tolist() == [0, 128]


@pytest.mark.parametrize(("at", "factor"), [(17, 1.001), (0, 0.97), ("largest", 1.02), (5, 1e6), (5, 1e36), (5, 1e-30)])
def test_the_one_value_that_is_no_code_is_named(at, factor):
    _, _, values = units(1000, 1)
    at = int(np.abs(values).argmax()) if at == "largest" else at
    values[0, at] *= np.float32(factor)
    assert odd_one(values[0], "F32") == at
    values[0, [3, 8]] *= np.float32(1.01)
    assert odd_one(values[0], "F32") is None


def test_a_scale_that_is_not_right_is_not_proved():
    _, scales, values = units(256, 4)
    held, _ = proved(np.abs(values), scales[:, None], "F32")
    off, _ = proved(np.abs(values), np.nextafter(scales, np.float32(1))[:, None], "F32")
    assert (held.all(), off.any()) == (True, False)


@pytest.mark.parametrize("per", ["block", "row", "tensor"])
def test_a_matrix_with_its_scales(per):
    codes, scales, values = made(per)
    tensor = Tensor("a", "F32", values.shape, 0, values.nbytes, values.size)
    assert scale_shape(tensor, per) == scales.shape
    scaled = Scaled(per, scales, values.size)
    for start in (0, 100, 256):
        got, _ = scaled.codes(values[start : start + 44].view(np.uint32), values.shape, start)
        assert np.array_equal(got, codes[start : start + 44].view(np.uint8))
    assert scaled.nbytes == codes.nbytes + scales.nbytes
