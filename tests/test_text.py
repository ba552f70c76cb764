"""The tables and sentences of scans and rewrites."""

import numpy as np
import pytest

import truebits as tb
from models import write
from traced_pair import a_gguf
from truebits.precision.samples import Samples
from truebits.report import text
from truebits.rewriting.operation import Rewrite, TensorChange
from words import words_in

VALUES = np.random.default_rng(0).normal(0, 0.02, (4, 256))


def report_of(tmp_path, **tensors):
    return tb.scan(write(tmp_path / "m.gguf", {name.replace("_", "."): one for name, one in tensors.items()}))


def bf16(values):
    return words_in(values, "F32") & np.uint32(0xFFFF0000)


@pytest.fixture
def report(tmp_path):
    return report_of(
        tmp_path,
        blk_0_a=("F32", bf16(VALUES)),
        blk_1_a=("F32", words_in(VALUES, "F32")),
        half=("F16", words_in(VALUES, "F16")),
    )


def test_a_row_for_each_tensor_or_group(report):
    rows = text.rows_of(report, by_tensor=True)
    assert [(row.name, row.type, row.tensors) for row in rows] == [
        ("blk.0.a", "F32", 1),
        ("blk.1.a", "F32", 1),
        ("half", "F16", 1),
    ]
    assert [row.bytes_saved for row in rows] == [2048, 0, 0]
    groups = text.rows_of(report, by_tensor=False)
    assert [(row.name, row.tensors) for row in groups] == [("blk.*.a", 2), ("half", 1), ("all F32", 2), ("all F16", 1)]


def test_every_table_has_a_cell_for_each_column(report):
    rows = text.rows_of(report, by_tensor=False)
    for table in (text.precision(rows, 16), text.counts(rows, 16), text.contents(rows)):
        assert len(table.rows) == len(rows)
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_low_bits_of_a_word_that_has_fewer(report):
    (half,) = [row for row in text.rows_of(report, by_tensor=True) if row.name == "half"]
    assert text.precision([half], 16).rows[0][4:7] == (None, None, None)
    assert text.precision([half], 3).rows[0][4] == half.profile.low_zero(3)


def test_conclusions(tmp_path, report):
    got = text.conclusion(report)
    assert "1 of 2 F32 tensors, 50.0 % of the values: bf16 (blk.0.a)" in got
    assert "1 of 2 F32 tensors, 50.0 % of the values: f32 (blk.1.a)" in got
    whole = text.conclusion(report_of(tmp_path, a=("F32", bf16(VALUES))))
    assert whole.startswith("All 1,024 F32 values are BF16 values already: stored as BF16 they would take 2.0 kB less")
    packed = text.conclusion(tb.scan(a_gguf(tmp_path / "q.gguf", a=("Q8_0", np.zeros(34, np.uint8)))))
    assert packed.startswith("No F32, F16, BF16 or F64 tensor, only Q8_0")


def test_exceptions_are_told_with_their_places(tmp_path):
    words = bf16(VALUES)
    words.flat[17] |= 1
    got = text.conclusion(report_of(tmp_path, a=("F32", words)))
    assert f"a is bf16 but for number 17 ({words.flat[17]:08x})." in got


def test_what_is_wrong_is_a_line_each(tmp_path):
    words = words_in(VALUES, "F32")
    words.flat[5] = 0x7FC00000
    report = report_of(tmp_path, a=("F32", words))
    assert text.findings(report).startswith("error: a: 1 NaN, the first at 5 (row 0).")
    assert "Wrong: NaN in 1 tensor; see above." in text.conclusion(report)


@pytest.mark.parametrize(
    ("type", "word", "cells"),
    [
        ("F32", 0x3F800001, ("0", "1.00000012", "3f800001", "0", "01111111", "0000000 0000000000000001")),
        ("BF16", 0xC000, ("0", "-2", "c000", "1", "10000000", " 0000000")),
        ("F16", 0x3C01, ("0", "1.00097656", "3c01", "0", "01111", " 0000000001")),
        ("F64", 0x3FF0000000000000, None),
    ],
)
def test_bits_one_by_one(type, word, cells):
    (row,) = text.bits_view(Samples("a", type, ((0, word),)), 16).rows
    assert cells is None or tuple(row) == cells
    assert int(row[3] + row[4] + row[5].replace(" ", ""), 2) == word


def test_low_bits_by_group_and_tensor(tmp_path):
    model = a_gguf(
        tmp_path / "m.gguf", **{name: ("F32", np.zeros(8, np.uint32)) for name in ("blk.0.a", "blk.1.a", "b")}
    )
    counts = {"blk.0.a": 8, "blk.1.a": 4, "b": 0}
    assert text.low_bits(model, 16, counts, by_tensor=False).rows == [
        ("blk.*.a", 2, 16, 12, "75.00 %", 4),
        ("b", 1, 8, 0, "0 %", 8),
        ("all F32", 3, 24, 12, "50.00 %", 12),
    ]
    assert len(text.low_bits(model, 16, counts, by_tensor=True).rows) == 4


CHANGES = (TensorChange("blk.0.a", 100, 10), TensorChange("blk.1.a", 100, 0), TensorChange("b\x1b", 50, 50))


def test_changes_by_group():
    assert text.changes(Rewrite(CHANGES, "x")).rows == [
        ("blk.*.a", 2, 200, 10, "5.00 %"),
        (r"b\x1b", 1, 50, 50, "100 %"),
    ]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Rewrite((), "nothing to cut"), "Nothing to cut.\nNothing was written."),
        (Rewrite(CHANGES, "cut"), "Cut.\nNothing was written: this is the plan."),
        (
            Rewrite(CHANGES, "cut", 16, True, file="in", output="out\x1b"),
            "Cut.\nWritten to out\\x1b; verified; all other bytes are equal.",
        ),
        (
            Rewrite(CHANGES, "cut", 16, True, file="in", output="in"),
            "Cut.\nWritten in place; verified; all other bytes are equal.",
        ),
    ],
)
def test_rewritten(result, expected):
    assert text.rewritten(result) == expected


def test_runs_of_rows(tmp_path):
    mixed = words_in(VALUES, "F32")
    mixed[1:3] = words_in(VALUES[1:3].astype(np.float16), "F32")
    path = write(tmp_path / "m.gguf", {"x.same.weight": ("F32", mixed), "y.same.weight": ("F32", mixed)})
    report = tb.scan(path, rows=True)
    got = text.row_runs(report).rows
    assert [row[:5] for row in got] == [(name, 2, 1, 2, "fp16") for name in ("x.same.weight", "y.same.weight")]
    assert [row[0] for row in text.row_runs(report, brief=True).rows] == ["x.same", "y.same"]
    assert text.row_runs(tb.scan(path)).rows == []
