"""Aligned tables, as text, Markdown and CSV."""

import csv
import io
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truebits.report.table import (
    Amount,
    Bytes,
    Scientific,
    Table,
    amount,
    cut,
    nbytes,
    percent,
    terminal_width,
    wrapped,
)

TABLE = Table(("name", "n", "share"), [("a", 1234, "50 %"), ("long name", None, "-"), ("c", 5, "100 %")])


def test_text_is_aligned():
    assert TABLE.render() == (
        "name           n  share\na          1,234  50 %\nlong name      -  -\nc              5  100 %"
    )


def test_shares_and_numbers_stand_to_the_right():
    table = Table(("a", "b", "c"), [("x", 1, "50 %"), ("y", None, "7 %")])
    assert table.to_right() == [False, True, True]
    assert table.render() == "a    b     c\nx    1  50 %\ny    -   7 %"
    assert Table(("name",), []).render() == "name"


def test_a_long_last_column_goes_on_below_itself():
    table = Table(("name", "n", "why"), [("a", 1, "one two three four five six"), ("b", 22, "short")])
    assert table.folded(30) == ("name   n  why\na      1  one two three four\n          five six\nb     22  short")
    assert max(map(len, table.folded(5).splitlines())) <= 30
    assert Table(("a", "b"), []).folded(80).split() == ["a", "b"]


def test_names_are_cut_where_a_table_is_too_wide_and_numbers_never():
    table = Table(("a long heading", "values"), [("a name that is much too long", 123456789012)])
    heading, row = table.render(width=30).splitlines()
    assert heading == "a long…eading           values"
    assert row == "a name…o long  123,456,789,012"
    heading, row = table.render(width=5).splitlines()
    assert heading == "a lo…ing           values"
    assert row == "a na…ong  123,456,789,012"


def test_sentences_are_wrapped():
    assert wrapped("one two three four", 10) == ["one two", "  three", "  four"]
    assert wrapped("", 10) == [""]
    assert wrapped("in a/very/long/path", 10) == ["in a/very/", "  long/pat", "  h"]
    assert wrapped("in a/very/long/path", 10, whole=True) == ["in", "  a/very/long/path"]


def test_columns_are_left_out():
    assert TABLE.without(["n"]).render() == "name       share\na          50 %\nlong name  -\nc          100 %"


def test_markdown():
    assert TABLE.render("md").splitlines()[:3] == [
        "| name      |     n | share |",
        "| --------- | ----: | ----- |",
        "| a         | 1,234 | 50 %  |",
    ]


def test_csv_is_read_back():
    table = Table(("a", "b"), [('say "x", y', 1.5), ("two\nlines", None)])
    assert list(csv.reader(io.StringIO(table.render("csv")))) == [
        ["a", "b"],
        ['say "x", y', "1.5"],
        ["two\nlines", ""],
    ]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (None, "-"),
        (0, "0"),
        (1_234_567, "1,234,567"),
        (1.005, "1.00"),
        (Scientific(0.0000305), "3.05e-05"),
        (Amount(268_100_000), "268.1 M"),
        (Bytes(638_200_000), "638.2 MB"),
        (float("inf"), "inf"),
        ("x" * 500, "x" * 80 + "…" + "x" * 79),
    ],
)
def test_cells(cell, expected):
    assert Table(("a",), [(cell,)]).texts() == [[expected]]


@given(
    rows=st.lists(st.tuples(st.text("ab ", max_size=60), st.integers(), st.text("xy", max_size=60)), max_size=5),
    width=st.integers(1, 150),
)
def test_lines_fit_where_columns_can_be_narrowed(rows, width):
    table = Table(("first", "second", "third"), rows)
    lines = table.render("text", width).splitlines()
    assert len(lines) == 1 + len(rows)
    numbers = max(len("second"), *(len(f"{number:,}") for _, number, _ in rows), 0)
    assert max(map(len, lines)) <= max(width, 2 * 8 + 4 + numbers)


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "a…d"), ("abcdef", 4, "ab…f"), ("abcdef", 1, "…"), ("abcdef", 2, "a…")],
)
def test_cut_takes_from_the_middle(text, most, expected):
    assert cut(text, most) == expected


@given(part=st.integers(0, 10**12), rest=st.integers(0, 10**12))
def test_a_share_says_all_or_nothing_only_where_it_is_so(part, rest):
    whole = part + rest
    got = percent(part, whole)
    if whole == 0:
        assert got == "-"
        return
    assert (got == "100 %") == (rest == 0)
    assert (got == "0 %") == (part == 0)
    shown = Fraction(got.removesuffix(" %"))
    assert abs(shown - Fraction(100 * part, whole)) <= max(Fraction(1, 200), Fraction(50 * part, whole))


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (1, 2, "50.00 %"),
        (999_999, 1_000_000, "99.9999 %"),
        (1, 1_000_000, "0.0001 %"),
        (1, 10**9, "1e-07 %"),
        (1, 10**4, "0.01 %"),
    ],
)
def test_percent(part, whole, expected):
    assert percent(part, whole) == expected


@pytest.mark.parametrize(
    ("count", "in_bytes", "things"),
    [
        (0, "0 B", "0"),
        (999, "999 B", "999"),
        (1000, "1.0 kB", "1.0 k"),
        (10**9, "1.0 GB", "1.0 G"),
        (10**16, "10000.0 TB", "10000.0 T"),
    ],
)
def test_units(count, in_bytes, things):
    assert (nbytes(count), amount(count)) == (in_bytes, things)


@pytest.mark.parametrize(("columns", "expected"), [("40", 40), ("80", 80), ("200", 100)])
def test_a_table_is_as_wide_as_the_terminal(monkeypatch, columns, expected):
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal_width() == expected
