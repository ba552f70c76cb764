"""Every result is a document, a frame, an Arrow table, a table in a notebook, and one short line."""

from __future__ import annotations

import json
import sys
from dataclasses import is_dataclass

import pytest

import truebits as tb
from truebits import data
from truebits.result import Result

RESULTS = {
    "scan": lambda folder: tb.scan(data.MODEL),
    "diff": lambda folder: tb.diff(data.MODEL, data.MODEL_Q8_0),
    "check": lambda folder: tb.check(data.MODEL),
    "fingerprint": lambda folder: tb.fingerprint(data.MODEL),
    "truncate": lambda folder: tb.truncate(data.MODEL, folder / "out.gguf", bits=16),
    "dequantize": lambda folder: tb.dequantize(data.MODEL_Q8_0, folder / "out.gguf"),
    "trace-siblings": lambda folder: tb.siblings([data.MODEL, data.MODEL_Q8_0]),
}


@pytest.mark.parametrize("verb", RESULTS)
def test_each_result_in_each_form(verb, tmp_path):
    got = RESULTS[verb](tmp_path)
    assert isinstance(got, Result)
    assert is_dataclass(got)
    assert got.__dataclass_params__.frozen
    assert repr(got).startswith(f"<{type(got).__name__}: ")
    assert "\n" not in repr(got)
    assert len(repr(got)) < 200
    document = got.to_dict()
    assert document["schema"] == f"truebits.{verb}/1"
    assert json.loads(json.dumps(document, allow_nan=False)).keys() == document.keys()
    assert len(got.to_records()) == len(document[got.rows_of_document])
    assert got._repr_html_().startswith("<pre ")


def test_every_exported_result_is_one():
    dataclasses = {
        name for name in tb.__all__ if isinstance(getattr(tb, name), type) and is_dataclass(getattr(tb, name))
    }
    parts = {"Model", "Tensor", "PrecisionProfile", "BlockProfile", "BlockPrecision", "TensorPrecision", "Coverage"}
    parts |= {"NotRead", "Finding", "Origin", "TensorDiff", "TensorTrace", "Effect"}
    assert {name for name in dataclasses - parts if not issubclass(getattr(tb, name), Result)} == set()


def test_frames(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = tb.scan(data.MODEL).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["name"]) == [tensor.name for tensor in tb.open(data.MODEL).tensors]
    assert frame["low_zero.16"].sum() == sum(one.low_zero(16) for one in tb.scan(data.MODEL).values())


@pytest.mark.parametrize(
    ("module", "way", "extra"), [("pandas", "to_pandas", "pandas"), ("pyarrow", "to_arrow", "arrow")]
)
def test_what_is_missing_says_how_to_install_it(monkeypatch, module, way, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(tb.MissingExtra, match=rf"truebits\[{extra}\]"):
        getattr(tb.scan(data.MODEL), way)()


def test_names_are_escaped_in_notebooks():
    class Hostile(Result):
        verb = "hostile"
        summary = "<script>alert(1)</script>"

        def content(self):
            return {"tensors": [{"name": "<img onerror=alert(1)>"}]}

    got = Hostile()._repr_html_()
    assert "<script" not in got
    assert "<img" not in got


def test_a_notebook_shows_the_verdict_and_the_first_rows():
    got = tb.diff(data.MODEL, data.MODEL_Q8_0)._repr_html_()
    assert got.startswith(
        '<pre style="white-space: pre-wrap">Different: 21 of 21 tensors, 361,856 of 361,856 values.</pre><table>'
    )
    assert got.count("<tr>") == 1 + 20
    assert got.endswith("<p>and 1 more: <code>to_pandas()</code> has all</p>")
