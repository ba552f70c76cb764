"""The command scan."""

from __future__ import annotations

import json

import numpy as np
import pytest

import truebits as tb


def test_scan_json_is_the_contract(truebits, full):
    document = json.loads(truebits("scan", full, "--json").stdout)
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


def test_scan_low_bits_only_agrees_with_scan(truebits, full):
    fast = json.loads(truebits("scan", full, "--low-bits-only", "--bits", 12, "--json").stdout)
    whole = json.loads(truebits("scan", full, "--json").stdout)
    assert [one["low_zero"]["12"] for one in fast["tensors"]] == [one["low_zero"]["12"] for one in whole["tensors"]]
    assert fast["total"]["low_zero"]["12"] == whole["total"]["low_zero"]["12"]


def test_scan_csv_has_counts(truebits, exact):
    header, *rows = truebits("scan", exact, "-o", "csv", "--by-tensor").stdout.splitlines()
    assert len(rows) == 2
    first = dict(zip(header.split(","), rows[0].split(","), strict=True))
    assert first["low_16_zero"] == first["values"] == first["exact_bf16"]


def test_bits_view_shows_the_words_of_the_file(truebits, full):
    name = "blk.0.attn_norm.weight"
    tensor = next(tensor for tensor in tb.open(full).tensors if tensor.name == name)
    words = np.frombuffer(full.read_bytes(), "<u4", tensor.values, tensor.offset)
    lines = truebits("scan", full, "--bits-view", name).stdout.splitlines()[1:]
    assert len(lines) == 8
    for line in lines:
        index, value, digits, sign, exponent, high, low = line.split()
        word = int(words[int(index)])
        assert int(digits, 16) == word
        assert int(sign + exponent + high + low, 2) == word
        assert len(low) == 16
        assert float(value) == pytest.approx(float(words[int(index) : int(index) + 1].view(np.float32)[0]), rel=1e-8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--blocks", "--low-bits-only"], "--blocks and --rows go with the full scan"),
        (["--rows", "--bits-view", "x"], "--blocks and --rows go with the full scan"),
        (["--bits-view", "absent"], "no tensor is called absent"),
        (["-l", "absent"], "absent"),
    ],
)
def test_options_that_do_not_go_together(truebits, full, options, words):
    code, _, complaint = truebits("scan", full, *options)
    assert code == 2
    assert words in complaint


@pytest.mark.parametrize("option", ["--low-bits-only", "--fingerprint", "--explain", "--wide", "--bits-view=x"])
def test_what_speaks_of_one_model(truebits, full, exact, option):
    code, _, complaint = truebits("scan", full, exact, option)
    assert code == 2
    assert f"{option.split('=')[0]} is for one model, and these are 2" in complaint


def test_several_models_are_a_line_each_and_end_with_the_worst(truebits, full, exact, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    code, told, _ = truebits("scan", full, broken, exact)
    assert code == 3
    assert all(name in told for name in ("full.gguf", "exact.gguf"))
    code, told, _ = truebits("scan", full, exact, "--json")
    assert code == 0
    assert [json.loads(line)["schema"] for line in told.splitlines()] == ["truebits.scan/1"] * 2


@pytest.mark.parametrize("style", ["text", "md", "csv"])
@pytest.mark.parametrize("options", [[], ["--by-tensor"], ["--wide"], ["--low-bits-only"], ["--rows"], ["--blocks"]])
def test_every_table_in_every_style(truebits, full, style, options):
    code, told, complaint = truebits("scan", full, "-o", style, *options)
    assert (code, complaint) == (0, "")
    assert told.strip()


def test_words_are_explained(truebits, full):
    assert (
        "origin: " in truebits("scan", full, "--explain")[1] or "came from: " in truebits("scan", full, "--explain")[1]
    )


def test_a_fingerprint_is_one_line(truebits, full):
    told = truebits("scan", full, "--fingerprint")[1]
    assert told.split()[0] == tb.fingerprint(full).value
