"""The command scan."""

from __future__ import annotations

import json

import numpy as np
import pytest

import truebits as tb
from running import run


def test_scan_json_is_the_contract(full):
    document = json.loads(run("scan", full, "--json").stdout)
    assert document["schema"] == "truebits.scan/1"
    report = tb.scan(full)
    for one in document["tensors"]:
        profile = report[one["name"]]
        assert one["values"] == profile.values
        assert one["low_zero"] == {str(k): profile.low_zero(k) for k in range(1, 32)}
        assert one["fits"]["bf16"] == profile.fits("bf16")
        assert {"nan", "inf", "zero", "subnormal", "origin", "shape", "type"} <= set(one)
        assert one["origin"]["format"] == "f32"
    assert document["total"]["low_zero"]["16"] == sum(report[name].low_zero(16) for name in report)
    assert [group["name"] for group in document["groups"]] == ["blk.*.attn_norm.weight", "blk.*.ffn_up.weight"]


def test_scan_low_bits_only_agrees_with_scan(full):
    fast = json.loads(run("scan", full, "--low-bits-only", "--bits", 12, "--json").stdout)
    whole = json.loads(run("scan", full, "--json").stdout)
    assert [one["low_zero"]["12"] for one in fast["tensors"]] == [one["low_zero"]["12"] for one in whole["tensors"]]
    assert fast["total"]["low_zero"]["12"] == whole["total"]["low_zero"]["12"]


def test_scan_csv_has_counts(exact):
    header, *rows = run("scan", exact, "-o", "csv", "--by-tensor").stdout.splitlines()
    assert len(rows) == 2
    first = dict(zip(header.split(","), rows[0].split(","), strict=True))
    assert first["low_16_zero"] == first["values"] == first["exact_bf16"]


def test_bits_view_shows_the_words_of_the_file(full):
    name = "blk.0.attn_norm.weight"
    tensor = next(tensor for tensor in tb.open(full).tensors if tensor.name == name)
    words = np.frombuffer(full.read_bytes(), "<u4", tensor.values, tensor.offset)
    lines = run("scan", full, "--bits-view", name).stdout.splitlines()[1:]
    assert len(lines) == 8
    for line in lines:
        index, value, digits, sign, exponent, high, low = line.split()
        word = int(words[int(index)])
        assert int(digits, 16) == word
        assert int(sign + exponent + high + low, 2) == word
        assert len(low) == 16
        assert float(value) == pytest.approx(float(words[int(index) : int(index) + 1].view(np.float32)[0]), rel=1e-8)
