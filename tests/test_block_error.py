"""The stated error bounds, measured again on ggml's own quantizers, and what breaks them."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from extras import NEEDS_EVAL
from truebits.lineage.block_error import BOUNDS, BlockErrors, is_deterministic, reference

ROWS, ROW = 8, 1024
SLOW = {"IQ1_S", "IQ1_M", "IQ2_S", "IQ2_XS"}
"""ggml takes seconds to make their tables."""

MEASURED = [pytest.param(type, marks=pytest.mark.slow) if type in SLOW else type for type in BOUNDS]
FOR_WEIGHTS = [type for type, bound in BOUNDS.items() if not np.isfinite(bound.share)]


def quantized(values: np.ndarray, type: str, importance: np.ndarray | None) -> np.ndarray:
    """Quantize with ggml, under an importance matrix if there is one."""
    from truebits.quantizers.libggml import ggml_base

    number = gguf.GGMLQuantizationType[type]
    block, nbytes = gguf.GGML_QUANT_SIZES[number]
    packed = np.empty((values.size // block, nbytes), np.uint8)
    pointer = None if importance is None else importance.ctypes.data
    ggml_base().ggml_quantize_chunk(number.value, values.ctypes.data, packed.ctypes.data, 0, ROWS, ROW, pointer)
    return packed


def distributions(random):
    """Values of many kinds; the first two are what weights look like."""
    shape = ROWS, ROW
    yield "normal", random.standard_normal(shape) * 0.02
    yield "Laplace", random.laplace(0, 0.02, shape)
    yield "Student", random.standard_t(2, shape) * 0.02
    yield "Cauchy", np.clip(random.standard_cauchy(shape) * 0.02, -50, 50)
    yield "uniform", random.uniform(-1, 1, shape)
    yield "positive", random.uniform(0, 1, shape)
    yield "shifted", random.standard_normal(shape) * 0.01 - 0.5
    yield "sparse", random.standard_normal(shape) * (random.random(shape) < 0.05)
    outliers = random.standard_normal(shape) * 1e-3
    outliers[:, 17::64] = -1
    yield "outliers", outliers
    yield "mixed", random.standard_normal(shape) * np.exp(random.normal(0, 3, (ROWS, ROW // 32)).repeat(32, 1))
    yield "tiny", random.standard_normal(shape) * 1e-6
    yield "zero", np.zeros(shape)


def errors_of(type, values, packed):
    number = gguf.GGMLQuantizationType[type]
    stored = gguf.quants.dequantize(packed, number).reshape(-1)
    errors = BlockErrors(type, gguf.GGML_QUANT_SIZES[number][0])
    errors.add(stored, values.reshape(-1), 0)
    return errors


@NEEDS_EVAL
@pytest.mark.parametrize("type", MEASURED)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_quantizer_is_beyond_its_bounds(type, seed):
    random = np.random.default_rng(seed)
    importance = (random.random(ROW) ** 4 + 1e-3).astype(np.float32)
    for name, drawn in distributions(random):
        if type in FOR_WEIGHTS and name not in ("normal", "Laplace"):
            continue
        values = drawn.astype(np.float32)
        for matrix in [importance] if type in FOR_WEIGHTS else [None, importance]:
            got = errors_of(type, values, quantized(values, type, matrix))
            told = f"{name}, {'no ' if matrix is None else ''}importance: {got.beyond} beyond, rms {got.rms}"
            assert got.is_consistent, told


@NEEDS_EVAL
@pytest.mark.parametrize("type", MEASURED)
def test_other_weights_are_beyond_them(type):
    """Weights that have nothing to do with the blocks, and the same in another order."""
    random = np.random.default_rng(7)
    importance = np.ones(ROW, np.float32)
    values = (random.standard_normal((ROWS, ROW)) * 0.02).astype(np.float32)
    packed = quantized(values, type, importance)
    assert errors_of(type, values, packed).is_consistent
    for other in (values[::-1], np.roll(values, 1, axis=1), values * np.float32(-1)):
        assert not errors_of(type, np.ascontiguousarray(other), packed).is_consistent


def test_what_is_not_finite():
    values = np.ones(64, np.float32)
    for wrong in (np.nan, np.inf):
        stored = values.copy()
        stored[40] = wrong
        errors = BlockErrors("Q8_0", 32)
        errors.add(stored, values, 128)
        assert (errors.beyond, errors.first_beyond, errors.is_consistent) == (1, 168, False)
        errors = BlockErrors("Q8_0", 32)
        errors.add(stored, stored, 0)
        assert errors.beyond == 0


def test_reference_quantizers():
    values = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    for type in ("Q8_0", "Q4_0", "MXFP4"):
        quantize = reference(type)
        assert quantize is not None
        expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[type])
        assert np.array_equal(quantize(values), expected)
        assert is_deterministic(type)
    assert reference("IQ2_XXS") is None
    assert not is_deterministic("Q4_K")


def test_k_quants_have_no_reference_without_ggml(monkeypatch):
    from truebits.errors import MissingExtra
    from truebits.quantizers import ggml

    def missing():
        raise MissingExtra("quantizing", "eval")

    monkeypatch.setattr(ggml, "ggml_base", missing)
    assert reference("Q4_K") is None
    assert reference("Q8_0") is not None
