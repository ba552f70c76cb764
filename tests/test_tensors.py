"""Results as one table with a row for each tensor."""

from math import inf, nan

import pytest

import truebits as tb
from models import write
from truebits.report.table import Table
from truebits.report.tensors import Tensors, is_logarithmic, tensors
from words import finite_words


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ([], False),
        ([0, 0], False),
        ([1, 100], False),
        ([1, 101], True),
        ([0, 1, 101], True),
        ([-1, 1, 1000], False),
        ([5], False),
    ],
)
def test_figures_that_are_far_apart(figures, expected):
    assert is_logarithmic(figures) == expected


def test_a_column_has_finite_figures_only():
    table = Table(("name", "a"), [("x", 1), ("y", None), ("z", inf), ("v", nan), ("w", "text")])
    assert Tensors(table).column("a") == {"x": 1.0, "y": None, "z": None, "v": None, "w": None}


@pytest.fixture
def paths(tmp_path):
    return [
        write(
            tmp_path / f"{seed}.gguf",
            {"a\x1b": ("F32", finite_words("F32", (4, 256), seed)), "n": ("F16", finite_words("F16", 256))},
        )
        for seed in (0, 1)
    ]


def test_of_every_kind_of_result(paths):
    found = {
        "scan": tb.scan(paths[0], blocks=True),
        "diff": tb.diff(*paths),
        "siblings": tb.siblings(paths),
        "rank": tb.rank([paths[1]], paths[0]),
    }
    for verb, result in found.items():
        got = tensors(result)
        assert [row[0] for row in got.table.rows] == [r"a\x1b", "n"], verb
        assert {len(row) for row in got.table.rows} == {len(got.table.columns)}
        assert set(got.figures) <= set(got.table.columns)
        assert all(any(row[at] is not None for row in got.table.rows) for at in range(1, len(got.table.columns)))


def test_figures_of_a_scan(paths):
    got = tensors(tb.scan(paths[0]))
    assert got.column("bits in use") == {r"a\x1b": 32.0, "n": 16.0}
    assert got.column("FP16 %")["n"] == 100


def test_figures_of_a_comparison(paths):
    got = tensors(tb.diff(*paths))
    assert got.column("differ %") == {r"a\x1b": 100.0, "n": 0.0}
    assert got.column("max abs")["n"] is None


def test_what_does_not_speak_of_tensors_is_the_rows_of_its_document(paths):
    got = tensors(tb.fingerprint(paths[0]))
    assert got.figures == ()
    assert "hash" in got.table.columns
    assert len(got.table.rows) == 2
