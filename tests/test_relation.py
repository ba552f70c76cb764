"""One tensor against its namesake in another GGUF."""

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from traced_pair import a_gguf
from truebits.comparing.sides import Side
from truebits.lineage.kin import Kin
from truebits.lineage.relation import relation
from words import words_in

VALUES = np.random.default_rng(0).normal(0, 1, (8, 256)).astype(np.float32)
OTHER = np.random.default_rng(1).normal(0, 1, (8, 256)).astype(np.float32)


def bf16(values):
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def fp16(values):
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def of(values, type="F32"):
    return type, words_in(np.asarray(values), type)


def packed(values, type):
    return type, quants.quantize(values, GGMLQuantizationType[type])


def found(tmp_path, first, other):
    models = [a_gguf(tmp_path / f"{name}.gguf", a=stored) for name, stored in (("one", first), ("two", other))]
    with models[0].map() as left, models[1].map() as right:
        return relation(Side(models[0].tensors[0], left), Side(models[1].tensors[0], right), None, 1)


def changed(values, *places):
    some = np.array(values)
    for at, value in places:
        some.flat[at] = value
    return some


@pytest.mark.parametrize(
    ("first", "other", "kin", "detail"),
    [
        (of(VALUES), of(VALUES), Kin.SAME, ""),
        (of(bf16(VALUES)), of(VALUES, "BF16"), Kin.SAME, ""),
        (of(VALUES, "F64"), of(VALUES, "F64"), Kin.SAME, ""),
        (of(VALUES.astype(np.float64), "F64"), of(VALUES), Kin.SAME, ""),
        (of(VALUES), of(VALUES, "F16"), Kin.ROUNDED, "FP16"),
        (of(VALUES), of(VALUES, "BF16"), Kin.ROUNDED, "BF16"),
        (of(VALUES, "BF16"), of(VALUES), Kin.FINER, "BF16"),
        (of(VALUES), of((VALUES.view("<u4") & 0xFFFF0000).astype("<u4").view("<f4")), Kin.ROUNDED, "BF16, truncated"),
        (of(VALUES), of(OTHER), Kin.OTHER_VALUES, ""),
        (of(VALUES), of(OTHER, "BF16"), Kin.OTHER_VALUES, ""),
        (of(VALUES), of(changed(VALUES, (7, 9.5))), Kin.OTHER_VALUES, ""),
        (of(bf16(VALUES)), of(changed(bf16(VALUES), (7, 1.001))), Kin.OTHER_VALUES, ""),
        (of(changed(VALUES, (7, np.nan))), of(changed(VALUES, (7, np.nan))), Kin.SAME, ""),
        (packed(VALUES, "Q8_0"), packed(VALUES, "Q8_0"), Kin.SAME, ""),
        (packed(VALUES, "Q8_0"), packed(VALUES, "Q4_0"), Kin.REQUANTIZED, ""),
        (of(VALUES), packed(VALUES, "Q4_0"), Kin.REQUANTIZED, ""),
        (of(VALUES), packed(OTHER, "Q4_0"), Kin.OTHER_VALUES, None),
    ],
)
def test_relations(tmp_path, first, other, kin, detail):
    got = found(tmp_path, first, other)
    assert got.kin is kin
    assert detail in (None, got.detail) or (kin is Kin.OTHER_VALUES and " differ" in got.detail)


def test_what_was_dequantized_is_the_same(tmp_path):
    type, blocks = packed(VALUES, "Q8_0")
    values = quants.dequantize(blocks, GGMLQuantizationType.Q8_0).astype(np.float32)
    assert found(tmp_path, (type, blocks), of(values)).kin is Kin.SAME


@pytest.mark.parametrize("type", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("through", ["Q8_0", "Q4_0", "Q5_1", "MXFP4"])
def test_what_went_through_blocks_is_rounded(tmp_path, through, type):
    blocks = GGMLQuantizationType[through]
    values = quants.dequantize(quants.quantize(VALUES, blocks), blocks)
    assert found(tmp_path, of(VALUES), of(values, type)) == (Kin.ROUNDED, through)
    assert found(tmp_path, of(values, type), of(VALUES)) == (Kin.FINER, through)
    other = values * np.float32(0.5) if type == "F32" else OTHER
    for spoiled in (changed(values, (2000, 9.0)), other):
        assert found(tmp_path, of(VALUES), of(spoiled, type)).kin is Kin.OTHER_VALUES


def test_what_no_quantizer_is_known_for_is_not_judged(tmp_path):
    blocks = np.random.default_rng(2).integers(0, 100, (8, 66), np.uint8)
    got = found(tmp_path, of(VALUES), ("IQ2_XXS", blocks))
    assert got.kin is Kin.UNCOMPARED
    assert "IQ2_XXS is not known" in got.detail


def test_few_values_tell_nothing_of_rounding(tmp_path):
    got = found(tmp_path, of(np.float32([1.001, 2, 3])), of(np.float32([1, 2, 3])))
    assert got.kin is Kin.ROUNDED
