"""The ways in which a value gets from one floating-point type into another."""

import ml_dtypes
import numpy as np
import pytest

from traced_pair import compared
from truebits.lineage.ways import BF16, CLIPPED, FP16, Cast, Verdict, near, same, ways
from words import mixed

SINGLES = np.concatenate([mixed(3_000, 0), np.array([1e38, -70_000, 65_519, 65_520, 1e-8], np.float32).view("<u4")])


def cast(words, dtype):
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return words.view("<f4").astype(dtype).astype(np.float32).view("<u4")


@pytest.mark.parametrize(("way", "dtype"), [(BF16, ml_dtypes.bfloat16), (FP16, np.float16)])
def test_a_cast_is_that_of_others(way, dtype):
    words = SINGLES.copy()
    changed = way.apply(words, 1)
    assert same(words, cast(SINGLES, dtype)).all()
    differs = ~same(words, SINGLES)
    assert changed >= np.count_nonzero(differs)


def test_truncation_cuts_low_bits():
    finite = SINGLES[np.isfinite(SINGLES.view("<f4"))].copy()
    expected = finite & np.uint32(0xFFFF0000)
    Cast("bf16", "truncate").apply(finite, 1)
    assert (finite == expected).all()


def test_clipped_values_are_no_infinities():
    words = np.array([1e6, -1e6, 65504, 3], np.float32).view("<u4")
    CLIPPED.apply(words, 1)
    assert words.view("<f4").tolist() == [65504, -65504, 65504, 3]


NAN, OTHER_NAN, ONE = (np.array([word], "<u4") for word in (0x7FC00000, 0xFFC00001, 0x3F800000))


@pytest.mark.parametrize(
    ("ours", "theirs", "is_same", "is_near"),
    [
        (ONE, ONE, True, True),
        (ONE, ONE + 1, False, True),
        (ONE, ONE - 1, False, True),
        (ONE, ONE + 2, False, False),
        (NAN, OTHER_NAN, True, True),
        (NAN, ONE, False, False),
        (np.array([0], "<u4"), np.array([1 << 31], "<u4"), False, False),
        (np.array([], "<u4"), np.array([], "<u4"), True, True),
    ],
)
def test_same_and_near(ours, theirs, is_same, is_near):
    assert (same(ours, theirs).all(), near(ours, theirs).all()) == (is_same, is_near)


@pytest.mark.parametrize("source", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("stored", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("is_computed", [False, True])
def test_the_converters_own_way_comes_first(source, stored, is_computed):
    first, *others = ways(source, stored, is_computed)
    if source == stored and not is_computed:
        assert (first.verdict, first.before, first.after) == (Verdict.IDENTICAL, (), ())
    elif stored == "F32" and source != "F64":
        assert first.verdict in (Verdict.IDENTICAL, Verdict.UPCAST)
    else:
        assert first.verdict is Verdict.ROUNDED
    assert is_computed or len({(way.before, way.after) for way in (first, *others)}) == 1 + len(others)
    assert {way.verdict for way in others} >= {Verdict.THROUGH_BF16 if stored == "F16" else Verdict.THROUGH_FP16}


VALUES = np.random.default_rng(0).normal(0, 1, 64).astype(np.float32)


@pytest.mark.parametrize(
    ("stored", "number", "expected"),
    [
        ("BF16", 0, lambda of: cast(of, ml_dtypes.bfloat16)),
        ("BF16", 1, lambda of: of & np.uint32(0xFFFF0000)),
        ("F16", 0, lambda of: cast(of, np.float16)),
        ("F32", 0, lambda of: of),
        ("F32", 1, lambda of: cast(of, ml_dtypes.bfloat16)),
        ("F32", 3, lambda of: cast(of, np.float16)),
    ],
)
def test_values_on_a_way(tmp_path, stored, number, expected):
    with compared(tmp_path, ("F32", VALUES.view("<u4")), VALUES) as of:
        way = list(ways("F32", stored, False))[number]
        ((first, count),) = of.expected.spans(1)
        words, changed = way.values(of.expected, of.expected.words(first, count))
    assert (words == expected(VALUES.view("<u4"))).all()
    assert changed == np.count_nonzero(words != VALUES.view("<u4"))


def test_faults_and_exact_verdicts():
    assert {one for one in Verdict if one.is_fault} == {Verdict.ALTERED, Verdict.MISSING, Verdict.EXTRA}
    assert {one for one in Verdict if one.is_exact} == {Verdict.IDENTICAL, Verdict.UPCAST, Verdict.NARROWED}
