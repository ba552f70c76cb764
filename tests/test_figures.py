"""Error figures: by their names in documents, and in tables."""

import math
from dataclasses import replace

import pytest

from truebits.comparing.diff import Diff, KeyDiff, TensorDiff
from truebits.comparing.measure import Place
from truebits.numbers.figures import error_figures
from truebits.report import figures
from truebits.rewriting.operation import Rewrite, TensorChange
from truebits.rewriting.trials import Trial
from truebits_native.reference import Difference

SOME = Difference(values=100, changed=10, max_abs=0.5, max_rel=0.25, max_ulp=7, squared_error=1.0, squares=100.0)


def test_figures_have_the_same_names_whether_or_not_there_are_any():
    got = error_figures(SOME)
    assert (got["max_abs"], got["max_ulp"], got["mse"], got["rms"]) == (0.5, 7, 0.01, 0.1)
    assert got["snr_db"] == pytest.approx(20)
    assert error_figures(None) == dict.fromkeys(got)


def test_what_is_not_finite_is_none():
    got = error_figures(SOME._replace(max_abs=math.inf, squared_error=math.inf, squares=math.nan))
    assert (got["max_abs"], got["squared_error"], got["squares"], got["mse"]) == (None, None, None, None)
    assert (got["flushed"], got["max_ulp"]) == (0, 7)


def change(name, changed=10, to="bf16", difference=SOME):
    return TensorChange(name, 100, changed, to, difference)


def test_rounded_by_group_and_by_tensor():
    result = Rewrite((change("blk.0.a"), change("blk.1.a"), change("b\x1b", to="fp16")), "because")
    table = figures.rounded(result, by_tensor=False)
    assert [row[:6] for row in table.rows] == [
        ("blk.*.a", 2, "bf16", 200, 20, "10.00 %"),
        (r"b\x1b", 1, "fp16", 100, 10, "10.00 %"),
        ("all", 3, None, 300, 30, "10.00 %"),
    ]
    assert len(figures.rounded(result, by_tensor=True).rows) == 4
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_a_screen_has_the_figures_that_say_something():
    brief = figures.brief(figures.rounded(Rewrite((change("a"), change("b")), "because"), by_tensor=True))
    several = figures.brief(figures.rounded(Rewrite((change("a"), change("b", to="fp16")), ""), by_tensor=True))
    assert list(brief.columns) == ["tensors", "n", "values", "share", "max abs", "SNR dB"]
    assert list(several.columns) == ["tensors", "n", "to", "values", "share", "max abs", "SNR dB"]
    assert list(figures.brief(figures.rounded(Rewrite((), ""), by_tensor=True)).columns[:2]) == ["tensors", "n"]


def test_a_plan_made_of_counts_has_no_figures():
    table = figures.rounded(Rewrite((change("a", difference=None),), "because"), by_tensor=False)
    assert table.columns[-1] == "share"
    assert table.rows == [("a", 1, "bf16", 100, 10, "10.00 %")]


def test_trials_side_by_side():
    trial = Trial("bf16", 16.0, SOME)
    failed = Trial("q4_k", None, None, "needs an optional part")
    rows = figures.trials([trial, failed]).rows
    assert rows[0][:4] == ("bf16", 16.0, 10, "10.00 %")
    assert rows[1][2:] == (None,) * (len(rows[0]) - 2)


def tensor(name, difference=None, types=("F32", "F32"), **more):
    return TensorDiff(name, types, ((10, 10), (10, 10)), 100, difference, **more)


PLACE = Place(7, 1.5, -0.25, "3fc00000", "be800000")
NOTHING = SOME._replace(changed=0)
OTHER = tensor("blk.0.b", SOME, first=PLACE, worst=PLACE)
UNKNOWN = tensor("u", types=("Q4_0", "IQ1_S"), problem="IQ1_S cannot be read")


def test_differences_by_group_and_by_tensor():
    found = Diff("a", "b", (tensor("same"), OTHER, replace(OTHER, name="blk.1.b"), UNKNOWN))
    table = figures.diff(found, by_tensor=False)
    assert [row[:5] for row in table.rows] == [
        ("blk.*.b", 2, "F32", 200, 20),
        ("u", 1, "Q4_0 IQ1_S", 100, None),
        ("all", 3, None, 400, 20),
    ]
    assert table.rows[1][4:] == (None,) * (2 + len(figures.FIGURES))
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert [row[0] for row in figures.diff(found, by_tensor=True).rows] == ["blk.0.b", "blk.1.b", "u", "all"]
    assert figures.diff(Diff("a", "b", (tensor("same"),)), by_tensor=False).rows == []


def test_places():
    found = Diff("a", "b", (OTHER, replace(OTHER, name="c", worst=None)))
    start = 7, "1.5", "-0.25", "3fc00000", "be800000"
    assert figures.places(found).rows == [
        ("blk.0.b", "first", *start),
        ("blk.0.b", "worst", *start),
        ("c", "first", *start),
    ]
    assert len(figures.places(found, most=1).rows) == 2


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ([tensor("a")], "The same: 1 tensor with 100 values, byte for byte, and all metadata."),
        ([OTHER, tensor("a")], "Different: 1 of 2 tensors, 10 of 200 values."),
        (
            [OTHER, tensor("a", NOTHING, ("F32", "F64")), tensor("b")],
            "Different: 1 of 3 tensors, 10 of 300 values. 1 more: the same values, stored otherwise.",
        ),
        ([tensor("a", NOTHING, ("F32", "F64"))], "The same values, stored otherwise: 1 tensor F32 here, F64 there."),
        ([tensor("a", NOTHING)], "The same values, stored otherwise: 1 tensor F32 from other bytes."),
    ],
)
def test_verdict(tensors, expected):
    assert figures.verdict(Diff("a", "b", tuple(tensors))) == expected


RESHAPED = [replace(tensor(f"blk.{i}.x"), shapes=((1,), (2,)), problem="its shapes differ: 1 and 2") for i in (0, 1)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            Diff("a", "b", (), ("x", "y"), ("z",)),
            "Nothing in common: 2 tensors here, 1 there, and no name is in both.",
        ),
        (Diff("a", "b", tuple(RESHAPED)), "Different: 2 of 2 tensors have another shape."),
        (
            Diff("a", "b", (*RESHAPED[:1], tensor("u")), ("x",)),
            "Different: 1 of 2 tensors has another shape, 1 tensor is in one of the two only.",
        ),
        (
            Diff("a", "b", (tensor("u"),), (), (), (KeyDiff("k", "1", "2"),)),
            "Different: only the metadata, and the values of 1 tensor do not.",
        ),
    ],
)
def test_where_no_value_differs_the_verdict_says_what_does(found, expected):
    assert figures.verdict(found) == expected


def test_what_differs_only_in_numbers_is_one_line():
    found = Diff("a", "b", tuple(RESHAPED), tuple(f"blk.{i}.only" for i in range(300)))
    assert figures.differences(found)[:2] == [
        "300 x blk.*.only are only in a",
        "2 x blk.*.x: its shapes differ: 1 and 2",
    ]


def test_of_nothing_in_common_the_next_step_is_told():
    found = Diff("a", "b", (), ("x",), (), tuple(KeyDiff(f"k{i}", "1", None) for i in range(28)))
    got = figures.differences(found)
    assert "`truebits trace`" in got[0]
    assert got[1:3] == ["x is only in a", "28 keys of the metadata differ"]


def test_all_that_tables_do_not_say():
    found = Diff(
        "a\x1b",
        "b",
        (UNKNOWN, tensor("c", NOTHING, ("F32", "F64")), tensor("d", NOTHING)),
        tuple(f"only{number}" for number in range(3)),
        (),
        (KeyDiff("general.name", "x", None),),
    )
    assert figures.differences(found, most=2) == [
        r"only0 is only in a\x1b",
        r"only1 is only in a\x1b",
        "and 1 more such",
        "u: IQ1_S cannot be read",
        "1 tensor F32 here, F64 there: compared as the values they mean",
        "d: the same values from other bytes",
        "general.name: x and not there",
    ]
