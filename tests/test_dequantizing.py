"""Blocks to values and values to blocks: kernels against twins, and both against gguf.quants, bit for bit."""

import os

import gguf
import numpy as np
import pytest

import truebits_native as native
from truebits_native import dispatch, reference
from truebits_native.blocks import KERNELS
from truebits_native.packing import QUANTIZED
from truebits_native.types import LAYOUTS
from words import assert_same_bits

WITHOUT_COMPILER = os.environ.get("NUMBA_DISABLE_JIT") == "1"
COUNTS = (0, 1, 5) if WITHOUT_COMPILER else (0, 1, 2, 7, 255, 600)
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")


@pytest.fixture
def kernels(monkeypatch):
    """Let the Numba kernels do work of any size."""
    monkeypatch.setattr(dispatch, "uses_kernel", lambda *_: True)


@pytest.fixture
def cold(monkeypatch):
    """Have no kernel in memory or in the cache, and no work announced or done."""
    monkeypatch.setattr(dispatch, "loaded", set())
    monkeypatch.setattr(dispatch, "expected", set())
    monkeypatch.setattr(dispatch, "spent", {})
    monkeypatch.setattr(dispatch, "_is_kept", lambda _: False)


def dequantized(raw, type):
    """Return what gguf-py makes of blocks."""
    with np.errstate(invalid="ignore", over="ignore"):
        rows = raw.reshape(-1, LAYOUTS[type].nbytes)
        return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[type]).ravel().astype(np.float32)


def halves_at(type):
    layout = LAYOUTS[type]
    if layout.scale.nbytes != 2:
        return []
    return [at for at in (layout.scale_at, layout.offset_at) if at is not None]


def assert_gguf_s(got, raw, type):
    """Hold values to gguf-py's; of two NaN, NumPy's additions differ in which they keep, by version and CPU."""
    expected, layout = dequantized(raw, type), LAYOUTS[type]
    if layout.offset_at is not None:
        offsets = raw.reshape(-1, layout.nbytes)[:, layout.offset_at : layout.offset_at + 2].copy().view(np.float16)
        either = np.repeat(np.isnan(offsets).ravel(), layout.values)
        assert np.array_equal(np.isnan(got[either]), np.isnan(expected[either]))
        got, expected = got[~either], expected[~either]
    assert_same_bits(got.view(np.uint32), expected.view(np.uint32))


def any_blocks(type, count, seed=0):
    """Return blocks of any bytes, of which a third have special scales: zeros, subnormals, Inf, NaN of either sign."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (count, LAYOUTS[type].nbytes), np.uint8)
    for at in halves_at(type):
        special = random.choice([0, 0x8000, 1, 0x83FF, 0x7C00, 0xFC00, 0x7C01, 0xFE01], (count + 2) // 3)
        blocks[::3, at : at + 2] = special.astype("<u2").view(np.uint8).reshape(-1, 2)
    return blocks.ravel()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("type", LAYOUTS)
def test_values_are_gguf_s(kernels, type, count):
    raw = any_blocks(type, count, seed=count)
    got, twin = native.dequantized(raw, type), reference.dequantized(raw, type)
    assert_same_bits(got.view(np.uint32), twin.view(np.uint32))
    if count:
        assert_gguf_s(got, raw, type)


@pytest.mark.parametrize("type", ["Q8_0", "Q4_K"] if WITHOUT_COMPILER else KERNELS)
def test_values_of_every_scale(kernels, type):
    """All 65,536 patterns of F16, or all 256 of E8M0; as an offset, too, beside another scale each."""
    places = halves_at(type) or [0]
    some = np.arange(0, 1 << 16, 331 if WITHOUT_COMPILER else 1, "<u2")
    blocks = any_blocks(type, some.size, seed=9).reshape(some.size, -1)
    for at in places:
        width = 2 if halves_at(type) else 1
        blocks[:, at : at + width] = some.view(np.uint8).reshape(-1, 2)[:, :width]
        raw = blocks.ravel()
        assert_gguf_s(native.dequantized(raw, type), raw, type)
        some = some[::-1].copy()


@pytest.mark.parametrize("type", ["Q5_1", "Q3_K"])
def test_values_are_the_same_wherever_bytes_start_and_on_any_threads(kernels, monkeypatch, type):
    monkeypatch.setattr(native.blocks, "CHUNK_VALUES", 3 * LAYOUTS[type].values)
    raw = any_blocks(type, 40, seed=3)
    expected = reference.dequantized(raw, type)
    for start in range(4):
        moved = np.concatenate([np.zeros(start, np.uint8), raw])[start:]
        for threads in (1, 2, None):
            assert_same_bits(native.dequantized(moved, type, threads).view(np.uint32), expected.view(np.uint32))


def test_bytes_that_are_not_whole_blocks_are_refused():
    with pytest.raises(ValueError, match="19 bytes are not whole blocks of 18, as Q4_0 has"):
        native.dequantized(np.zeros(19, np.uint8), "Q4_0")


FEW = np.array([0, -0.0, 1, -1, 2.5, 1e-40, -3e38, 65519, 65520, np.nan, -np.nan, np.inf, -np.inf], np.float32)
VALUES = {
    "normal": lambda random, size: random.standard_normal(size),
    "negative": lambda random, size: -np.abs(random.standard_normal(size)),
    "subnormal": lambda random, size: np.ldexp(random.standard_normal(size), -140),
    "ties": lambda random, size: random.integers(-40, 40, size) / 8,
    "any bits": lambda random, size: random.integers(0, 1 << 32, size, np.uint32).view(np.float32),
    "extremes": lambda random, size: random.choice(FEW[:9], size),
    "zeros of both signs": lambda random, size: random.choice(FEW[:2], size),
    "zeros and specials": lambda random, size: random.choice(FEW[[0, 1, 9, 10, 11, 12]], size),
}
"""Values as quantizers meet them, and as they do not."""


def any_values(kind, count):
    return VALUES[kind](np.random.default_rng(7), 32 * count).astype(np.float32)


@pytest.mark.parametrize("type", QUANTIZED)
@pytest.mark.parametrize("kind", VALUES)
def test_blocks_are_gguf_s(kernels, type, kind):
    values = any_values(kind, 20 if WITHOUT_COMPILER else 5_000)
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(values.reshape(-1, 32), gguf.GGMLQuantizationType[type]).ravel()
    assert_same_bits(reference.quantized(values, type), expected)
    assert_same_bits(native.quantized(values, type), expected)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_blocks_are_the_same_on_any_threads(kernels, monkeypatch, threads):
    monkeypatch.setattr(native.blocks, "CHUNK_VALUES", 96)
    values = any_values("normal", 50)
    assert_same_bits(native.quantized(values, "Q5_0", threads), reference.quantized(values, "Q5_0"))
    assert native.quantized(values[:0], "Q5_0").size == 0


def test_values_that_are_not_whole_blocks_are_refused():
    with pytest.raises(ValueError, match="33 values are not whole blocks of 32, as Q8_0 has"):
        native.quantized(np.zeros(33, np.float32), "Q8_0")


def test_small_work_goes_to_the_twin_and_much_of_it_to_the_kernel(cold):
    name, piece = KERNELS["Q4_K"], 1 << 20
    answers = [dispatch.uses_kernel_by_now(name, piece) for _ in range(1000)]
    first = answers.index(True)
    seconds = first * piece / (1e6 * dispatch.COSTS[name].twin)
    assert not any(answers[:first])
    assert dispatch.COSTS[name].compile / 2 < seconds < 2 * (dispatch.COSTS[name].compile + dispatch.IMPORT_SECONDS)
    assert all(answers[first:])
    assert not dispatch.uses_kernel_by_now(name, dispatch.LOADED_WORDS - 1)
