"""What formats make of values, in files written and read back, against other implementations of the same formats."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest

import truebits as tb
from extras import NEEDS_EVAL
from models import words_for, write, write_raw
from truebits.errors import MissingExtra, Refused
from truebits.files.tensor import Tensor
from truebits.numbers.formats import CATALOGUE, CLIPS
from truebits.numbers.rounding import MODES, Rounding
from truebits.numbers.spelling import find
from truebits.quantizers import libggml
from truebits.quantizers.quantize import quantizer
from truebits.rewriting import copy as rewrite
from truebits_native import dispatch
from words import (
    CUSTOM,
    DTYPE,
    FLOATS,
    TYPES,
    assert_same_bits,
    finite_words,
    is_nan,
    mixed,
    representable,
    values_of,
    words_in,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a folder whose files need not outlive the machine: waiting for the disk takes a third of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return tmp_path


def fakequantized(folder, tensors, to, **arguments):
    """Write a model of (type, words) by name, round it in a new file, and give back that file's words."""
    source, out = folder / "model.gguf", folder / "out.gguf"
    out.unlink(missing_ok=True)
    write(source, tensors)
    if not tb.fakequant(source, out, rules=[f".={to}"], **arguments).written:  # one dimension, too
        return {name: words for name, (_, words) in tensors.items()}
    return read(out, tensors)


def read(path, tensors):
    """Give back the words of a file that `write` wrote, as gguf-py reads it."""
    raw = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
    return {name: raw[name].view(DTYPE[type]).reshape(words.shape) for name, (type, words) in tensors.items()}


def rounded(folder, values, to, **arguments):
    """Round one F32 tensor of float32 values, and give back float32 values."""
    (got,) = fakequantized(folder, {"t": ("F32", values.view(np.uint32))}, to, **arguments).values()
    return got.view(np.float32)


# --- weights of many kinds


ROWS, ROW = 12, 256


@cache
def weights():
    """Return float32 rows: normal, heavy-tailed, constant, of one sign, with zeros of both signs, and all zero."""
    random = np.random.default_rng(0)
    values = random.normal(0, 0.02, (ROWS, ROW)).astype(np.float32)
    values[1::6] = random.standard_t(2, values[1::6].shape)
    values[2::6] = np.float32(-0.3)
    values[3::6] = np.abs(values[3::6])
    values[4::6, ::3] = 0
    values[4::6, 1::3] *= -0.0
    values[5::6, : ROW // 2] = 0
    values.flags.writeable = False
    return values


# --- floating-point formats


@cache
def values_in(name):
    """Return the finite values that are not negative of a format, ascending, and the one that would come next."""
    dtype = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}.get(name)
    if name.startswith(("fp8", "fp6", "fp4")):
        dtype = getattr(ml_dtypes, name.replace("fp", "float"))
    if dtype is None:
        exponent_bits, mantissa_bits = map(int, (name if name != "tf32" else "e8m10")[1:].split("m"))
        values = representable(exponent_bits, mantissa_bits)
    else:
        patterns = np.arange(1 << (ml_dtypes.finfo(dtype).bits - 1)).astype(f"u{np.dtype(dtype).itemsize}")
        with np.errstate(invalid="ignore"):
            values = patterns.view(dtype).astype(np.float64)
        values = values[np.isfinite(values)]
    step = values[-1] - values[-2] if find(name).mantissa_bits else values[-1]
    return np.append(values, values[-1] + step)


def neighbours(name, asked):
    """Return the values of a format below and above finite magnitudes, and the nearest.

    Of two that are as near it is the even one; without a mantissa the larger, but for half of the least, which is 0.
    """
    values = values_in(name)
    below = np.minimum(np.searchsorted(values, asked, "right") - 1, values.size - 2)
    low, high = values[below], values[below + 1]
    low = np.where(asked >= values[-1], values[-1], low)
    to_low, to_high = asked - low, high - asked
    is_odd = below % 2 == 1 if find(name).mantissa_bits else below > 0
    is_up = (to_high < to_low) | ((to_high == to_low) & is_odd)
    return low, np.where(asked == low, low, high), np.where(is_up & (asked < values[-1]), high, low)


def largest_common(name, type):
    """Return the largest finite value that both a format and a storage type hold."""
    values = values_in(name)[:-1]
    with np.errstate(over="ignore"):
        return values[values.astype(FLOATS[type]).astype(np.float64) == values][-1]


def specials_defined(words, type, name):
    """Return what a NaN becomes: of 16 bits and more a format keeps the leading ones of its payload; where none
    is left, and in narrower formats, it is the quiet one. Without NaN it becomes the largest value.
    """
    format, mantissa_bits = find(name), {"F32": 23, "F16": 10, "BF16": 7, "F64": 52}[type]
    word = DTYPE[type]
    sign = words & word(1 << (8 * words.itemsize - 1))
    if not format.has_nan:
        largest = np.full(words.size, largest_common(name, type))
        return sign | words_in(largest, type)
    infinity = words_in(np.array([np.inf]), type)[0]
    kept = min(format.mantissa_bits, mantissa_bits) if format.bits >= 16 else 0
    payload = words & word((1 << mantissa_bits) - (1 << (mantissa_bits - kept)))
    payload = np.where(payload == 0, word(1 << (mantissa_bits - 1)), payload)
    return sign | infinity | payload


def expected_words(words, type, name, magnitudes, overflow=None, flush=False):
    """Return the words of magnitudes that come out of rounding, with the signs and the specials of the old words."""
    format, old = find(name), values_of(words, type)
    beyond = {None: np.inf if format.has_inf else None, "inf": np.inf if format.has_inf else np.nan}.get(overflow)
    beyond = largest_common(name, type) if beyond is None else beyond
    magnitudes = np.where(magnitudes > largest_common(name, type), beyond, magnitudes)
    if flush:
        magnitudes = np.where(magnitudes < 2.0**format.smallest_normal_exponent, 0, magnitudes)
    magnitudes = np.where(np.isinf(old), np.inf if format.has_inf else beyond, magnitudes)
    signed = np.copysign(magnitudes, old)
    if not format.has_negative_zero:
        signed = np.where(signed == 0, 0, signed)
    with np.errstate(invalid="ignore"):
        return np.where(is_nan(words, type), specials_defined(words, type, name), words_in(signed, type))


def words_around(name, type, size=None):
    """Return words of every kind of a storage type, and those next to a format's values and halfway between them.

    The first are `size` random ones; if not given, 4,000 of F32 and F64, and all that F16 and BF16 have.
    """
    values = values_in(name)
    if values.size > 200:
        chosen = np.random.default_rng(1).integers(0, values.size - 1, 100)[:, np.newaxis] + [0, 1]
        values = np.append(values[chosen].ravel(), values[[0, 1, -3, -2, -1]])
    near = words_in(np.concatenate([values, (values[1:] + values[:-1]) / 2, [448, 464, 480, 65519, 65520]]), type)
    near = np.concatenate([near, near + DTYPE[type](1), near - DTYPE[type](1)])
    near[::2] |= DTYPE[type](1 << (8 * near.itemsize - 1))
    is_short = DTYPE[type] == np.uint16 and size is None
    others = np.arange(1 << 16, dtype=np.uint16) if is_short else words_for(type, size or 4_000, 1)
    return np.concatenate([near, others])


ENUMERATED = [name for name in CATALOGUE if name not in ("f32", "f64")] + list(CUSTOM)
"""Formats with few enough values to list them."""


@pytest.mark.parametrize("name", ENUMERATED)
def test_nearest_is_nearest_of_a_list_of_all_values(folder, name):
    tensors = {type: (type, words_around(name, type)) for type in TYPES}
    got = fakequantized(folder, tensors, name)
    for type, (_, words) in tensors.items():
        values = np.abs(values_of(words, type))
        _, _, nearest = neighbours(name, np.where(np.isfinite(values), values, 0))
        assert_same_bits(got[type], expected_words(words, type, name, nearest))


OVERFLOWS = [
    (name, overflow)
    for name in ENUMERATED
    for overflow in (None, "saturate", "inf")
    if overflow != "inf" or find(name).has_inf or find(name).has_nan
]


def rounded_words(words, type, name, rounding, overflow, flush):
    changed = words.copy()
    tensor = Tensor("t", type, words.shape, 0, words.nbytes, words.size)
    quantizer(find(name), tensor, words.size, Rounding(rounding, 0, overflow, flush)).round(changed, 0, None)
    return changed


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize(("name", "overflow"), OVERFLOWS)
def test_every_manner_against_the_list_of_all_values(name, overflow, flush):
    """Truncation gives the value below, the largest if nothing else is asked for; stochastic rounding the one below or
    the one above, and both of them.
    """
    for type in TYPES:
        words = words_around(name, type, 1_000)
        values = np.abs(values_of(words, type))
        found = neighbours(name, np.where(np.isfinite(values), values, 0))
        below, above, near = (expected_words(words, type, name, one, overflow, flush) for one in found)
        nearest, truncated, drawn = (rounded_words(words, type, name, rounding, overflow, flush) for rounding in MODES)
        assert_same_bits(nearest, near)
        assert_same_bits(truncated, expected_words(words, type, name, found[0], overflow or "saturate", flush))
        is_below, is_above = drawn == below, drawn == above
        assert (is_below | is_above).all()
        between = (below != above) & ~is_nan(words, type)
        assert is_below[between].any() == is_above[between].any() == between.any()


@pytest.mark.parametrize("name", ["f32", "f64"])
def test_wide_formats_change_f64_alone(folder, name):
    tensors = {type: (type, words_for(type, 4_000, 3)) for type in TYPES}
    got = fakequantized(folder, tensors, name)
    for type, (_, words) in tensors.items():
        if type != "F64" or name == "f64":
            assert_same_bits(got[type], words)
    numbers = ~is_nan(tensors["F64"][1], "F64")
    words = tensors["F64"][1][numbers]
    with np.errstate(over="ignore", under="ignore"):
        expected = values_of(words, "F64").astype(np.float32 if name == "f32" else np.float64).astype(np.float64)
    assert_same_bits(got["F64"][numbers], expected.view(np.uint64))


def test_wide_formats_flush_what_is_subnormal_in_them(folder):
    """No value of F32, F16 or BF16 is subnormal in F64; those of F32 and BF16 that are in F32 become zero."""
    tensors = {type: (type, words_for(type, 4_000, 3)) for type in TYPES}
    assert not tb.fakequant(
        write(folder / "m.gguf", tensors),
        to="f64",
        rounding=Rounding(flush_subnormals=True),
        exclude="F64",
        dry_run=True,
    ).changed
    for type in ("F32", "BF16"):
        words = tensors[type][1]
        got = fakequantized(folder, {type: (type, words)}, "f32", rounding=Rounding(flush_subnormals=True))[type]
        values = values_of(words, type)
        is_small = (values != 0) & (np.abs(values) < 2.0**-126)
        sign = words & DTYPE[type](1 << (8 * words.itemsize - 1))
        assert is_small.any()
        assert_same_bits(got, np.where(is_small, sign, words))


@pytest.mark.parametrize(
    ("type", "to", "value", "overflow", "expected"),
    [
        ("BF16", "fp16", 1e30, "saturate", 65280),
        ("BF16", "fp16", 65536, None, np.inf),
        ("BF16", "fp16", 65280, "saturate", 65280),
        ("F32", "fp16", 65519, "saturate", 65504),
        ("F32", "fp16", 65520, "saturate", 65504),
        ("F32", "fp16", 65520, None, np.inf),
        ("F16", "bf16", 65504, None, np.inf),
        ("F16", "bf16", 65504, "saturate", 65280),
        ("F16", "bf16", -65504, "saturate", -65280),
        ("F16", "e8m2", 65504, "saturate", 57344),
        ("F32", "bf16", 3.4e38, "saturate", float.fromhex("0x1.fep127")),
        ("F64", "f32", 1e39, "saturate", float(np.finfo(np.float32).max)),
        ("F64", "f32", 1e39, None, np.inf),
        ("F64", "bf16", -1e300, None, -np.inf),
        ("F32", "fp8_e4m3fn", 465, None, 448),
        ("F32", "fp8_e4m3fn", 464, "inf", 448),
        ("F32", "fp8_e4m3fn", 465, "inf", np.nan),
        ("F32", "fp8_e4m3fn", np.inf, None, 448),
        ("F32", "fp8_e4m3fn", -np.inf, "inf", np.nan),
        ("F32", "fp8_e5m2", np.inf, "saturate", np.inf),
        ("F16", "fp4_e2m1fn", np.inf, None, 6),
        ("F32", "fp4_e2m1fn", np.nan, None, 6),
        ("BF16", "e4m0", np.nan, None, 128),
        ("F32", "fp8_e5m2fnuz", -0.0, None, 0.0),
    ],
)
def test_what_is_beyond(folder, type, to, value, overflow, expected):
    words = words_in(np.array([value, 1]), type)
    got = fakequantized(folder, {"t": (type, words)}, to, rounding=Rounding(overflow=overflow))["t"]
    np.testing.assert_array_equal(values_of(got, type), np.array([expected, 1]))
    assert np.isnan(expected) or np.signbit(values_of(got, type)[0]) == np.signbit(expected)


# --- whole numbers


def scale_of(low, high, steps):
    return ((high.astype(np.float64) - low) / steps).astype(np.float32)


def inverse_of(scale):
    with np.errstate(divide="ignore"):
        return np.where(scale > 0, 1 / scale, np.float32(0))


def integers_defined(units, low, high, bits, affine):
    """Round each row of float32 values to whole numbers of a scale that is made for values from `low` to `high`.

    The scale is settled: that of the range which the whole numbers of a first scale have.

    Returns
    -------
    rounded : ndarray of float32
    scale : ndarray of float32, one for each row
    """
    if affine:
        low, high, steps = np.minimum(low, 0), np.maximum(high, 0), np.float32((1 << bits) - 1)
    else:
        high, steps = np.maximum(-low, high), np.float32((1 << bits) - 2)
        low = -high
    first = scale_of(low, high, steps)
    least = np.rint(low * inverse_of(first))
    scale = scale_of(least * first, (least + steps) * first, steps)[:, np.newaxis]
    whole = np.rint(units * inverse_of(scale))
    rounded = np.clip(whole, least[:, np.newaxis], (least + steps)[:, np.newaxis]) * scale
    rounded[rounded == 0] = 0  # no zero has a sign
    return rounded, scale


def assert_quantized(values, got, unit, bits, affine):
    """Check each unit of float32 values: what it is by definition, and what it cannot be by any."""
    values, got = values.reshape(-1, unit), got.reshape(-1, unit)
    expected, scale = integers_defined(values, values.min(1), values.max(1), bits, affine)
    assert_same_bits(got.view(np.uint32), expected.view(np.uint32))
    error, single = np.abs(got.astype(np.float64) - values), 2.0**-22
    greatest = np.abs(values).max(1, keepdims=True)
    assert (error <= 0.5 * scale + single * greatest).all()
    whole = np.rint(got * inverse_of(scale))
    assert (whole.max(1) - whole.min(1)).max() < 1 << bits
    assert not np.signbit(got[got == 0]).any()
    assert (got[values == 0] == 0).all()
    if not affine:
        np.testing.assert_allclose(np.abs(got).max(1, keepdims=True), greatest, rtol=single)


UNITS = {"block8": 8, "block32": 32, "block128": 128, "row": ROW, "tensor": ROWS * ROW}


@pytest.mark.parametrize("per", UNITS)
@pytest.mark.parametrize("bits", range(2, 17))
def test_integers(folder, bits, per):
    for affine in (False, True):
        got = rounded(folder, weights(), f"int{bits}:{per}" + ":affine" * affine)
        assert_quantized(weights(), got, UNITS[per], bits, affine)


@pytest.mark.parametrize("rounding", ["truncate", "stochastic"])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(("bits", "per"), [(2, "row"), (4, "block32"), (8, "tensor"), (16, "block128")])
def test_integers_rounded_in_other_ways(folder, bits, per, affine, rounding):
    """Toward zero, by less than a whole number; or to one of the two that a value is between."""
    unit = UNITS[per]
    values = weights().reshape(-1, unit)
    _, scale = integers_defined(values, values.min(1), values.max(1), bits, affine)
    got = rounded(folder, weights(), f"int{bits}:{per}" + ":affine" * affine, rounding=rounding).reshape(-1, unit)
    whole, exact = (np.abs(of).astype(np.float64) * inverse_of(scale) for of in (got, values))
    inexact = 2.0**-21 * np.maximum(1, exact)
    assert (np.abs(whole - np.rint(whole)) <= inexact).all()
    half = 0.5 * affine  # the ends of a range are half a step off at most, because zero is a whole number
    assert (whole > exact - 1 - half - inexact).all()
    assert (whole < exact + (0 if rounding == "truncate" else 1) + inexact).all()
    assert ((got == 0) | (np.signbit(got) == np.signbit(values))).all()
    if rounding == "stochastic" and bits > 2:
        assert (whole > exact + inexact).any()
        assert (whole < exact - inexact).any()


@pytest.mark.parametrize("row", [1, 7, 33, 1000])
def test_integers_by_rows_of_any_length(folder, row):
    values = np.random.default_rng(row).normal(size=(50, row)).astype(np.float32)
    assert_quantized(values, rounded(folder, values, "int4:row"), row, 4, False)
    assert_quantized(values, rounded(folder, values, "int5:row:affine"), row, 5, True)
    assert_quantized(values.ravel(), rounded(folder, values.ravel(), "int6:row"), values.size, 6, False)


@pytest.mark.parametrize("block", [2, 3, 48, 65536])
def test_integers_by_blocks_of_any_size(folder, block):
    values = np.random.default_rng(block).normal(size=(2, block)).astype(np.float32)
    assert_quantized(values, rounded(folder, values, f"int4:block{block}"), block, 4, False)


@pytest.mark.parametrize("exponent", [-100, -60, 60, 126])
@pytest.mark.parametrize("to", ["int8", "int4:affine", "int16:row", "int2:tensor"])
def test_integers_of_any_magnitude(folder, to, exponent):
    """A power of two scales everything, and changes nothing else."""
    values = weights()[[0, 3, 4]] + np.float32(0)
    values /= 2 * np.abs(values).max()
    got = rounded(folder, np.ldexp(values, exponent), to)
    assert_same_bits(got.view(np.uint32), np.ldexp(rounded(folder, values, to), exponent).view(np.uint32))


@pytest.mark.parametrize("mse", ["", ":mse"])
@pytest.mark.parametrize("affine", ["", ":affine"])
@pytest.mark.parametrize("bits", [2, 3, 6, 8, 11, 16])
def test_integers_up_to_the_largest_f32(folder, bits, affine, mse):
    """What is written is finite, or nothing is."""
    largest = np.finfo(np.float32).max
    values = np.random.default_rng(0).uniform(-largest, largest, 64).astype(np.float32)
    values[[3, 40]] = largest, -largest
    try:
        got = rounded(folder, values, f"int{bits}{affine}{mse}")
    except Refused:
        assert not (folder / "out.gguf").exists()
    else:
        assert np.isfinite(got).all()


def squared_errors(values, got, unit):
    return ((got.astype(np.float64) - values).reshape(-1, unit) ** 2).sum(1)


@pytest.mark.parametrize("affine", ["", ":affine"])
@pytest.mark.parametrize(("bits", "per"), [(2, "block32"), (3, "row"), (4, "block32"), (4, "tensor"), (8, "block128")])
def test_mse_scale_is_the_best_of_those_tried(folder, bits, per, affine):
    values, unit = weights(), UNITS[per]
    errors = squared_errors(values, rounded(folder, values, f"int{bits}:{per}{affine}:mse"), unit)
    units = values.reshape(-1, unit)
    ends = units.min(1), units.max(1)
    if not affine:
        ends = -np.maximum(-ends[0], ends[1]), np.maximum(-ends[0], ends[1])
    tried = [
        squared_errors(units, integers_defined(units, *(np.float32(clip) * end for end in ends), bits, affine)[0], unit)
        for clip in CLIPS
    ]
    best = np.min(tried, axis=0)
    np.testing.assert_allclose(errors, best, rtol=1e-5)
    of_largest = squared_errors(values, rounded(folder, values, f"int{bits}:{per}{affine}"), unit)
    assert (errors <= of_largest * 1.00001).all()


@pytest.mark.parametrize("per", ["block32", "row"])
def test_mse_is_better_where_tails_are_heavy(folder, per):
    values = np.random.default_rng(2).standard_t(2, (64, ROW)).astype(np.float32)
    by_mse, by_largest = (
        squared_errors(values, rounded(folder, values, f"int4:{per}{mse}"), UNITS[per]) for mse in (":mse", "")
    )
    assert (by_mse < by_largest).mean() > 0.8
    assert (by_mse / by_largest).mean() < 0.95


@pytest.mark.parametrize("to", ["int8", "int4:row:mse", "int8:tensor:affine", "mxfp4", "nvfp4", "q8_0"])
def test_a_tensor_of_zeros_stays_and_loses_signs_only_where_the_format_has_none(folder, to):
    values = np.zeros((4, 64), np.float32)
    values[1] = -0.0
    got = rounded(folder, values, to)
    assert (got == 0).all()
    assert_same_bits(np.signbit(got), np.signbit(values) & to.endswith("fp4"))


# --- ggml's types

BY_GGUF = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "tq1_0", "tq2_0", "ggml_mxfp4")
BY_GGML = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")


def ggml_type(name):
    return gguf.GGMLQuantizationType[name.removeprefix("ggml_").upper()]


@cache
def blocks():
    """Return float32 rows: usual ones, ties in each type, and all zero, tiny and large blocks."""
    random = np.random.default_rng(3)
    ends = np.array([127, -127, 8, -8, 16, -16, 7.5, -7.5, 15.5, -15.5, 1, -1], np.float32)[:, np.newaxis]
    halves = np.clip(random.integers(-254, 255, (ends.size, ROW)).astype(np.float32) / 2, -np.abs(ends), np.abs(ends))
    halves[:, ::32], halves[:, 1::32] = ends, -ends  # so that scales are 1, or -1
    constant = np.repeat(np.array([[0], [-0.0], [1], [-1], [1e-7], [-3e-8], [6e4], [-6e4]], np.float32), ROW, axis=1)
    noise = random.normal(size=(12, ROW)).astype(np.float32)
    sized = noise * 10.0 ** np.array([-12, -9, -7, -6, -5, -4, -2, 0, 2, 3, 4, 4])[:, np.newaxis]
    one = np.zeros((2, ROW), np.float32)
    one[0, 5::32], one[1, 7::256] = 1, -2
    found = np.concatenate([weights(), halves, constant, sized, one]).astype(np.float32)
    found.flags.writeable = False
    return found


@pytest.mark.parametrize("name", BY_GGUF)
def test_block_types_are_those_of_gguf_py_bit_for_bit(folder, name):
    type = ggml_type(name)
    expected = gguf.quants.dequantize(gguf.quants.quantize(blocks(), type), type)
    assert_same_bits(rounded(folder, blocks(), name).view(np.uint32), expected.view(np.uint32))


def test_q8_0_of_random_bits(folder):
    """F32 of any exponent whose block's scale F16 can hold, one block for each greatest exponent."""
    values = mixed(400 * 32, 5).view(np.float32)
    values = np.where(np.isfinite(values), values, 0).reshape(400, 32)
    exponents = np.linspace(-40, 22, 400).astype(int)[:, np.newaxis]
    mantissa = np.frexp(values)[0]
    values = np.ldexp(mantissa, exponents - np.random.default_rng(6).integers(0, 12, values.shape)).astype(np.float32)
    values = values.reshape(8, -1)
    expected = gguf.quants.dequantize(gguf.quants.quantize(values, ggml_type("q8_0")), ggml_type("q8_0"))
    assert_same_bits(rounded(folder, values, "q8_0").view(np.uint32), expected.view(np.uint32))


def test_q8_0_up_to_the_largest_scale(folder):
    values = np.full((1, 32), 65504 * 127, np.float32)
    values[0, 1:20] = np.linspace(-65504 * 127, 65504, 19)
    expected = gguf.quants.dequantize(gguf.quants.quantize(values, ggml_type("q8_0")), ggml_type("q8_0"))
    got = rounded(folder, values, "q8_0")
    assert_same_bits(got.view(np.uint32), expected.view(np.uint32))
    assert np.isfinite(got).all()


@pytest.mark.parametrize("name", [name for name in BY_GGUF if name != "ggml_mxfp4"])
def test_a_scale_beyond_f16_is_refused(folder, name):
    """Not written as Inf and NaN."""
    values = np.random.default_rng(7).normal(0, 1e8, (2, 256)).astype(np.float32)
    with pytest.raises(Refused, match="F16") as caught:
        rounded(folder, values, name)
    assert caught.value.exit_code == 5
    assert not (folder / "out.gguf").exists()


@pytest.mark.parametrize("name", BY_GGUF)
def test_block_types_up_to_the_largest_f32(folder, name):
    """What is written is finite, or nothing is."""
    values = np.full((1, 256), np.finfo(np.float32).max, np.float32)
    values[0, ::2] *= -1
    try:
        got = rounded(folder, values, name)
    except Refused:
        assert not (folder / "out.gguf").exists()
    else:
        assert np.isfinite(got).all()


@pytest.fixture(scope="module")
def quantize_chunk():
    """Return ``ggml_quantize_chunk`` of ggml's own package, another build than ours."""
    folder = Path(find_spec("libggml").submodule_search_locations[0])
    library = ctypes.CDLL(str(next(folder.glob("lib*/libggml-base.so"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    return library.ggml_quantize_chunk


@NEEDS_EVAL
@pytest.mark.parametrize("name", BY_GGML)
def test_block_types_are_those_of_ggml_bit_for_bit(folder, quantize_chunk, name):
    type = ggml_type(name)
    values = blocks().copy()
    packed = np.zeros(gguf.quant_shape_to_byte_shape(values.shape, type), np.uint8)
    written = quantize_chunk(type.value, values.ctypes.data, packed.ctypes.data, 0, *values.shape, None)
    assert written == packed.nbytes
    expected = gguf.quants.dequantize(packed, type)
    assert_same_bits(rounded(folder, values, name).view(np.uint32), expected.view(np.uint32))


@pytest.fixture
def without_llama_cpp(monkeypatch):
    monkeypatch.setattr(libggml, "find_spec", lambda name: None)
    libggml.ggml_base.cache_clear()
    yield
    libggml.ggml_base.cache_clear()


@pytest.mark.parametrize("name", BY_GGML)
@pytest.mark.parametrize("arguments", [{"out": "out.gguf"}, {"in_place": True, "undo_file": "undo"}, {"dry_run": True}])
def test_without_llama_cpp_the_extra_is_named_and_nothing_written(
    folder, monkeypatch, without_llama_cpp, name, arguments
):
    monkeypatch.chdir(folder)
    path = write(folder / "model.gguf", {"t": ("F32", weights().view(np.uint32))})
    before = path.read_bytes()
    with pytest.raises(MissingExtra, match=r"pip install 'truebits\[eval\]'") as caught:
        tb.fakequant(path, to=name, **arguments)
    assert caught.value.exit_code == 2
    assert [entry.name for entry in folder.iterdir()] == ["model.gguf"]
    assert path.read_bytes() == before


def test_without_llama_cpp_a_sweep_goes_on(folder, without_llama_cpp):
    path = write(folder / "model.gguf", {"t": ("F32", weights().view(np.uint32))})
    first, second = tb.sweep(path, ["q4_k", "q4_0"])
    assert (first.to, first.difference) == ("q4_k", None)
    assert "pip install 'truebits[eval]'" in first.problem
    assert second.problem is None


# --- shared scales

ELEMENTS = {
    "mxfp8": ("fp8_e4m3fn", ml_dtypes.float8_e4m3fn, 8),
    "mxfp8_e5m2": ("fp8_e5m2", ml_dtypes.float8_e5m2, 15),
    "mxfp6": ("fp6_e2m3fn", ml_dtypes.float6_e2m3fn, 2),
    "mxfp6_e3m2": ("fp6_e3m2fn", ml_dtypes.float6_e3m2fn, 4),
    "mxfp4": ("fp4_e2m1fn", ml_dtypes.float4_e2m1fn, 2),
}
"""Elements of the OCP Microscaling Formats 1.0, and the exponent of the largest power of two in each."""


@cache
def wide_range():
    """Return float32 rows with blocks of every exponent: subnormal to the largest."""
    random = np.random.default_rng(8)
    fractions = random.normal(size=(279, 32)) * 2.0 ** -random.integers(0, 9, (279, 32))
    values = np.ldexp(fractions / np.abs(fractions).max(1, keepdims=True), np.arange(-150, 129)[:, np.newaxis] - 1)
    values[-1, :2] = np.finfo(np.float32).max, -np.finfo(np.float32).max
    found = np.concatenate([weights().reshape(-1, 32), blocks().reshape(-1, 32), values]).astype(np.float32)
    found.flags.writeable = False
    return found


def shared_exponents(values, greatest):
    """floor(log2(the largest magnitude)) less the element's greatest exponent, as far as an E8M0 reaches."""
    magnitude = np.abs(values).max(-1, keepdims=True).astype(np.float64)
    with np.errstate(divide="ignore"):
        exponent = np.where(magnitude > 0, np.floor(np.log2(magnitude)) - greatest, 0)
    return np.clip(exponent, -127, 127).astype(int)


def saturated(scaled, dtype):
    """Round float32 values to a small float, those beyond it to its largest."""
    largest = np.float32(ml_dtypes.finfo(dtype).max)
    return np.clip(scaled, -largest, largest).astype(dtype).astype(np.float32)


@pytest.mark.parametrize("name", ELEMENTS)
def test_mx_formats_are_those_of_the_specification(folder, name):
    _, dtype, greatest = ELEMENTS[name]
    shared = shared_exponents(wide_range(), greatest)
    expected = np.ldexp(saturated(np.ldexp(wide_range(), -shared), dtype), shared)
    assert_same_bits(rounded(folder, wide_range(), name).view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", ELEMENTS)
def test_mx_formats_rounded_toward_zero(folder, name):
    element, _, greatest = ELEMENTS[name]
    shared = shared_exponents(wide_range(), greatest)
    values, scaled = values_in(element)[:-1], np.ldexp(wide_range().astype(np.float64), -shared)
    below = values[np.searchsorted(values, np.abs(scaled), "right") - 1]
    expected = np.ldexp(np.copysign(below, scaled), shared).astype(np.float32)
    got = rounded(folder, wide_range(), name, rounding="truncate")
    assert_same_bits(got.view(np.uint32), expected.view(np.uint32))


def nvfp4_defined(values):
    """Return what NVFP4 makes of float32 values: E2M1 times, for 16 of them, an E4M3 times the tensor's F32.

    The tensor's scale is its largest magnitude over 6 * 448, settled: that of the largest value which comes out.
    """
    six, most = np.float32(6), np.float32(6 * 448)
    units = values.reshape(-1, 16)
    greatest = np.abs(units).max(1, keepdims=True)
    of_tensor = greatest.max() / most
    settled = six * (np.float32(448) * of_tensor) / most
    assert abs(int(settled.view(np.uint32)) - int(of_tensor.view(np.uint32))) <= 1
    scale = saturated(greatest / six / settled, ml_dtypes.float8_e4m3fn) * settled
    return (saturated(units * inverse_of(scale), ml_dtypes.float4_e2m1fn) * scale).reshape(values.shape)


@pytest.mark.parametrize("exponent", [0, 100, -90])
def test_nvfp4_is_that_of_its_definition(folder, exponent):
    """Blocks down to those so much smaller than the largest that their scales are subnormal or zero."""
    random = np.random.default_rng(10)
    small = random.normal(0, 0.02, (64, ROW)) * 2.0 ** random.integers(-24, 1, (64, ROW // 16)).repeat(16, axis=1)
    values = np.ldexp(np.concatenate([weights(), small]).astype(np.float32), exponent)
    values[5, :32] = -0.0
    expected = nvfp4_defined(values)
    got = rounded(folder, values, "nvfp4")
    assert_same_bits(got.view(np.uint32), expected.view(np.uint32))
    assert (expected.reshape(-1, 16) == 0).all(1).any()


# --- other storage types

SCALED = ("int8", "int4:affine", "int6:row", "int5:tensor:mse", "mxfp8", "mxfp4", "nvfp4", "q8_0", "q4_0", "q5_1")


@pytest.mark.parametrize("to", SCALED)
def test_scaled_formats_are_rounded_once_more_to_the_storage_type(folder, to):
    tensors = {type: (type, words_in(weights(), type)) for type in TYPES}
    got = fakequantized(folder, tensors, to)
    for type, (_, words) in tensors.items():
        singles = values_of(words, type).astype(np.float32)
        assert_same_bits(got[type], words_in(rounded(folder, singles, to), type))
    assert not np.array_equal(got["F16"], tensors["F16"][1])


@pytest.mark.parametrize("to", ["int8", "int8:affine", "int3:affine", "int16:row", "nvfp4", "q8_0", "q4_0", "mxfp8"])
def test_scaled_formats_do_not_leave_the_range_of_f16(folder, to):
    values = np.random.default_rng(9).uniform(-65504, 65504, (8, 256))
    values[:, 0], values[:, 1] = 65504, np.linspace(-65504, 0, 8)
    got = fakequantized(folder, {"t": ("F16", words_in(values, "F16"))}, to)["t"]
    assert np.isfinite(values_of(got, "F16")).all()


def test_f64_that_is_beyond_f32_has_no_scale(folder):
    path = write(folder / "m.gguf", {"t": ("F64", np.array([1e300, 1] * 16).view(np.uint64))})
    with pytest.raises(Refused, match="t has"):
        tb.fakequant(path, folder / "out.gguf", to="int8")


# --- the same, however the file is cut

EVERY_KIND = (
    *("bf16", "fp8_e4m3fn", "fp8_e5m2fnuz", "e5m7"),
    *("int4", "int4:block1024:affine", "int8:row", "int5:row:mse", "int8:tensor", "int3:tensor:affine:mse"),
    *("mxfp8", "mxfp4", "nvfp4", "q8_0", "q4_0", "ggml_mxfp4", "tq2_0"),
)


ROUNDED = [(to, "nearest") for to in EVERY_KIND] + [(to, "stochastic") for to in EVERY_KIND if to not in BY_GGUF]


@pytest.mark.parametrize(("to", "rounding"), ROUNDED)
def test_result_does_not_depend_on_where_the_file_is_cut(folder, monkeypatch, to, rounding):
    path = write(folder / "model.gguf", {type: (type, finite_words(type, (2, 2048))) for type in TYPES})
    results = []
    for block_bytes, check_bytes in ((4 << 20, 32 << 20), (4096, 5000)):
        monkeypatch.setattr(rewrite, "BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(rewrite, "CHECK_BYTES", check_bytes)
        out = folder / f"{block_bytes}.gguf"
        got = tb.fakequant(path, out, to=to, rounding=rounding)
        results.append((out.read_bytes(), [(one.name, one.changed, one.difference[:7]) for one in got.tensors]))
    assert_same_bits(*(np.frombuffer(content, np.uint8) for content, _ in results))
    assert results[0] == results[1]
    assert results[0][0] != path.read_bytes()


@pytest.mark.parametrize(
    "to", ["fp8_e4m3fn", "int4:block1024:affine", "int8:row", "int3:tensor:mse", "mxfp8", "nvfp4", "q8_0", "tq2_0"]
)
def test_result_does_not_depend_on_where_tensors_lie(folder, monkeypatch, to):
    """At any byte, in pieces whose ends are inside of values."""
    monkeypatch.setattr(rewrite, "BLOCK_BYTES", 4096)
    tensors = {type: (type, finite_words(type, 3 * 1024)) for type in TYPES}
    expected = fakequantized(folder, tensors, to)
    offsets = set()
    for shift in range(2):
        source, out = folder / "raw.gguf", folder / f"raw-{shift}.gguf"
        write_raw(source, {"n" * (1 + shift): ("F16", finite_words("F16", 256)), **tensors}, 1)
        offsets |= {tensor.offset % 4 for tensor in tb.open(source).tensors}
        tb.fakequant(source, out, rules=[f".={to}"], select="F")
        got = read_raw(out, tensors)
        for type in TYPES:
            assert_same_bits(got[type], expected[type])
    assert len(offsets) > 1


def read_raw(path, tensors):
    data = path.read_bytes()
    found = {tensor.name: tensor for tensor in tb.open(path).tensors}
    return {
        name: np.frombuffer(data, DTYPE[type], words.size, found[name].offset)
        for name, (type, words) in tensors.items()
    }


# --- twice is once


def assert_settled(folder, tensors, to, **arguments):
    """Round a model, then what came out: nothing changes and nothing is written."""
    source, once, twice = (folder / f"{name}.gguf" for name in ("model", "once", "twice"))
    write(source, tensors)
    first = tb.fakequant(source, once, to=to, force=True, **arguments)
    assert first.changed
    again = tb.fakequant(once, twice, to=to, **arguments)
    assert (again.changed, again.written) == (0, False), f"{again.changed} of {again.values} values change again"
    assert not twice.exists()


@pytest.mark.parametrize("rounding", ["nearest", "truncate"])
@pytest.mark.parametrize("name", ENUMERATED)
def test_a_second_rounding_to_a_float_format_changes_nothing(folder, name, rounding):
    tensors = {type: (type, words_for(type, 2_000, 1)) for type in TYPES}
    assert_settled(folder, tensors, name, rounding=rounding)
    assert_settled(folder, tensors, name, rounding=Rounding(rounding, 0, "saturate", True))


@pytest.mark.parametrize("rounding", ["nearest", "truncate"])
@pytest.mark.parametrize("bits", range(2, 17))
def test_a_second_rounding_to_integers_changes_nothing(folder, bits, rounding):
    for per in ("block32", "row", "tensor"):
        assert_settled(folder, {"t": ("F32", weights().view(np.uint32))}, f"int{bits}:{per}", rounding=rounding)


@pytest.mark.parametrize("mse", ["", ":mse"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_a_second_rounding_to_affine_integers_changes_nothing_of_usual_weights(folder, bits, mse):
    values = np.random.default_rng(bits).normal(0, 0.02, (ROWS, ROW)).astype(np.float32)
    for per in ("block32", "row", "tensor"):
        assert_settled(folder, {"t": ("F32", values.view(np.uint32))}, f"int{bits}:{per}:affine{mse}")


@pytest.mark.parametrize("rounding", ["nearest", "truncate"])
@pytest.mark.parametrize("to", ELEMENTS)
def test_a_second_rounding_to_mx_changes_nothing(folder, to, rounding):
    assert_settled(folder, {"t": ("F32", wide_range().view(np.uint32))}, to, rounding=rounding)


@pytest.mark.parametrize("to", ["q8_0", "nvfp4"])
def test_a_second_rounding_changes_nothing(folder, to):
    values = np.random.default_rng(4).normal(0, 0.02, (64, ROW)).astype(np.float32)
    assert_settled(folder, {"t": ("F32", values.view(np.uint32))}, to)


# --- by chance

STOCHASTIC = ("fp8_e4m3fn", "int4:tensor:affine", "mxfp4", "nvfp4")


@pytest.mark.parametrize("to", STOCHASTIC)
def test_chance_depends_on_seed_name_and_index_only(folder, monkeypatch, to):
    """Not on threads, nor on other tensors, nor on how the file is read. The kernels do it: they are not too few."""
    tensors = {"a": ("F32", finite_words("F32", (40, 512), 1)), "b": ("BF16", finite_words("BF16", (3, 512), 2))}
    monkeypatch.setattr(dispatch, "uses_kernel", lambda _, words: words >= dispatch.LOADED_WORDS)
    assert dispatch.uses_kernel("", tensors["a"][1].size)

    def drawn(order="ab", seed=0, **arguments):
        chance = Rounding("stochastic", seed)
        return fakequantized(folder, {name: tensors[name] for name in order}, to, rounding=chance, **arguments)

    expected = drawn()
    results = [drawn(threads=1), drawn("ba", threads=2), {"b": drawn(select="b")["b"]}]
    monkeypatch.setattr(rewrite, "BLOCK_BYTES", 4096)
    results += [drawn("ba", threads=1)]
    for result in results:
        for name, words in result.items():
            assert_same_bits(words, expected[name])
    assert not np.array_equal(drawn(seed=1)["a"], expected["a"])
    named = fakequantized(folder, {"c": tensors["a"]}, to, rounding="stochastic")
    assert not np.array_equal(named["c"], expected["a"])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("to", ["bf16", "int8:tensor", "mxfp8"])
def test_a_value_is_rounded_up_as_often_as_it_is_near(folder, to, share):
    """One value, between two neighbours, 40,000 times; the largest one sets the scale."""
    step = {"bf16": 2.0**-7, "int8:tensor": 1.0, "mxfp8": 8.0}[to]
    values = np.full(40_032, 64 if to != "bf16" else 1, np.float32) + np.float32(share * step)
    values[::32] = 127 if to != "bf16" else 1
    got = rounded(folder, values, to, rounding=Rounding("stochastic", 5))
    between = np.arange(values.size) % 32 != 0
    low, high = np.unique(got[between])
    assert low < values[1] < high
    assert (got[between] == high).mean() == pytest.approx((values[1] - low) / (high - low), abs=0.01)
