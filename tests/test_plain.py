"""A tensor of floating-point words against its source."""

import ml_dtypes
import numpy as np
import pytest

from traced_pair import compared
from truebits.lineage import layout
from truebits.lineage.plain import judge_plain
from truebits.lineage.ways import Verdict
from words import words_in

VALUES = np.random.default_rng(0).normal(0, 1, (16, 32)).astype(np.float32)
LARGE = VALUES.copy()
LARGE[3, 4] = 1e6


def bf16(values):
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def fp16(values):
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def cut(values):
    return (values.view("<u4") & np.uint32(0xFFFF0000)).view("<f4")


def judged(tmp_path, values, type, source, **more):
    with compared(tmp_path, (type, words_in(values, type).ravel()), source, **more) as of:
        return judge_plain(of)


@pytest.mark.parametrize(
    ("values", "type", "source", "verdict", "detail"),
    [
        (VALUES, "F32", VALUES, Verdict.IDENTICAL, ""),
        (VALUES, "BF16", VALUES, Verdict.ROUNDED, "BF16"),
        (VALUES, "F16", VALUES, Verdict.ROUNDED, "FP16"),
        (cut(VALUES), "BF16", VALUES, Verdict.TRUNCATED, "BF16"),
        (bf16(VALUES), "F32", VALUES.astype(ml_dtypes.bfloat16), Verdict.UPCAST, ""),
        (bf16(VALUES), "BF16", bf16(VALUES), Verdict.NARROWED, ""),
        (bf16(VALUES), "F32", VALUES, Verdict.ROUNDED, "BF16"),
        (fp16(VALUES), "F32", VALUES, Verdict.THROUGH_FP16, ""),
        (bf16(fp16(VALUES)), "BF16", VALUES, Verdict.THROUGH_FP16, ""),
        (fp16(bf16(VALUES)), "F16", VALUES, Verdict.THROUGH_BF16, ""),
        (LARGE, "F16", LARGE, Verdict.ROUNDED, "FP16, 1 became Inf"),
        (np.clip(LARGE, -65504, 65504), "F16", LARGE, Verdict.ROUNDED, "FP16, clipped at 65504"),
    ],
)
@pytest.mark.parametrize("piece", [32, 1 << 20])
def test_ways(tmp_path, monkeypatch, values, type, source, verdict, detail, piece):
    monkeypatch.setattr(layout, "PIECE_VALUES", piece)
    got = judged(tmp_path, values, type, source)
    assert (got.verdict, got.detail, got.differing) == (verdict, detail, 0)


def test_one_value_is_told_with_its_place(tmp_path):
    changed = VALUES.copy()
    changed[5, 6] += 1
    got = judged(tmp_path, changed, "F32", VALUES)
    assert (got.verdict, got.differing, got.first.at) == (Verdict.ALTERED, 1, 5 * 32 + 6)
    assert (got.first.a, got.first.b) == (changed[5, 6], VALUES[5, 6])


def test_born_nans_are_counted(tmp_path):
    changed = VALUES.copy()
    changed[5, 6], changed[9, 1] = np.nan, np.inf
    got = judged(tmp_path, changed, "F32", VALUES)
    assert got.detail == "2 NaN or Inf that the source has not, the first at 166"


def test_nan_is_nan(tmp_path):
    special = VALUES.copy()
    special[0, :3] = np.nan, np.inf, -0.0
    assert judged(tmp_path, special, "F32", special).verdict is Verdict.IDENTICAL
    assert judged(tmp_path, special, "BF16", special).verdict is Verdict.ROUNDED


def test_what_was_not_transposed(tmp_path):
    square = VALUES[:, :16].copy()
    right = judged(tmp_path, square.T.copy(), "F32", square, arrange=lambda of: [of.T])
    assert right.verdict is Verdict.IDENTICAL
    wrong = judged(tmp_path, square, "F32", square, arrange=lambda of: [of.T])
    assert wrong.verdict is Verdict.ALTERED
    assert wrong.detail.startswith("the source's values as they are, without")


def test_swapped_bytes_and_other_types(tmp_path):
    words = words_in(VALUES, "F32").ravel().byteswap()
    with compared(tmp_path, ("F32", words), VALUES) as of:
        assert judge_plain(of).detail == "its bytes are swapped"
    doubles = VALUES.astype(np.float64).view("<u8").ravel()
    with compared(tmp_path, ("F64", doubles), VALUES) as of:
        assert judge_plain(of).verdict is Verdict.UNCOMPARED


def test_what_was_quantized_on_the_way(tmp_path):
    import gguf

    type = gguf.GGMLQuantizationType.Q8_0
    through = gguf.quants.dequantize(gguf.quants.quantize(VALUES, type), type).astype(np.float32)
    got = judged(tmp_path, through, "F32", VALUES)
    assert (got.verdict, got.detail) == (Verdict.ALTERED, "requantized from Q8_0 of this checkpoint")
