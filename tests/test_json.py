"""One document per command."""

import json
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest

from traced_pair import a_gguf
from truebits.report import json as documents
from truebits.report.table import Table
from truebits.rewriting.operation import Rewrite, TensorChange
from truebits.rewriting.trials import Sweep, Trial
from truebits_native.reference import Difference

SOME = Difference(values=100, changed=10, max_abs=0.5)
DONE = Rewrite((TensorChange("a\x1b", 100, 10, "bf16", SOME),), "because", None, True)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"a": 1.5}, {"a": 1.5}),
        ({"a": [inf, nan, -inf, {"b": nan}]}, {"a": [None, None, None, {"b": None}]}),
        ({"a": "\udcff\x1b\u202e"}, {"a": "\udcff\x1b\u202e"}),
    ],
)
def test_a_document_is_json_in_ascii(content, expected):
    got = documents.document("verb", content)
    assert got.isascii()
    assert got.isprintable()
    assert json.loads(got, parse_constant=pytest.fail) == {"schema": "truebits.verb/1", **expected}


def test_rewrites():
    got = json.loads(documents.result(replace(DONE, bits=16)))
    assert (got["schema"], got["output"], got["changed"], got["written"]) == ("truebits.truncate/1", None, 10, True)
    assert got["tensors"] == [{"name": r"a\x1b", "values": 100, "changed": 10}]
    got = json.loads(documents.result(replace(DONE, file="in", output="out", bits_per_weight=16.0)))
    assert (got["schema"], got["file"], got["output"]) == ("truebits.fakequant/1", "in", "out")
    assert got["total"]["bits_per_weight"] == 16.0
    assert got["total"]["max_abs"] == got["tensors"][0]["max_abs"] == 0.5


def test_a_sweep():
    got = json.loads(documents.result(Sweep("in", (Trial("bf16", 16.0, SOME), Trial("q4_k", None, None, "why")))))
    assert [one["problem"] for one in got["formats"]] == [None, "why"]
    assert [one["changed"] for one in got["formats"]] == [10, None]
    assert set(got["formats"][0]) == set(got["formats"][1])


def test_counts_of_low_bits(tmp_path):
    model = a_gguf(tmp_path / "m.gguf", a=("F32", np.zeros(8, np.uint32)), b=("F16", np.zeros(8, np.uint16)))
    got = json.loads(documents.low_bits(model, 16, {"a": 3}))
    assert got["total"] == {"values": 8, "low_zero": {"16": 3}}
    assert [(one["name"], one["low_zero"]) for one in got["tensors"]] == [("a", {"16": 3})]


def test_bits_one_by_one(tmp_path):
    model = a_gguf(tmp_path / "m.gguf", a=("F32", np.zeros(8, np.uint32)))
    table = Table(("index", "value", "hex", "sign", "exponent", "mantissa"), [("0", "1", "3f80", "0", "01", "11")])
    got = json.loads(documents.bits_view(model, "a", 16, table))
    assert got["samples"] == [
        {"index": "0", "value": "1", "hex": "3f80", "sign": "0", "exponent": "01", "mantissa": "11"}
    ]
