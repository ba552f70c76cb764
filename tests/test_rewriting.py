"""The commands that write a model."""

from __future__ import annotations

import json
import os
import stat

import click
import pytest

from truebits.cli.rewriting import _size


def test_truncate_where_nothing_changes_says_why_and_writes_nothing(truebits, exact, tmp_path):
    out = tmp_path / "out.gguf"
    done = truebits("truncate", exact, out, "--bits", 16)
    assert done.returncode == 0
    assert "all 65,536 values have their low 16 bits zero: they already are BF16" in " ".join(done.stdout.split())
    assert not out.exists()


def test_dry_run_equals_the_rewrite(truebits, full, tmp_path):
    out = tmp_path / "out.gguf"
    planned = json.loads(truebits("truncate", full, out, "--bits", 16, "--dry-run", "--json").stdout)
    assert planned["written"] is False
    assert not out.exists()
    done = json.loads(truebits("truncate", full, out, "--bits", 16, "--json").stdout)
    assert done["written"] is True
    assert planned["changed"] == done["changed"] > 0
    assert planned["tensors"] == done["tensors"]


def test_in_place_and_back(truebits, full, tmp_path):
    model, log = tmp_path / "model.gguf", tmp_path / "undo"
    model.write_bytes(full.read_bytes())
    assert truebits("truncate", model, "--bits", 16, "--in-place", "--undo-file", log).returncode == 0
    assert model.read_bytes() != full.read_bytes()
    assert truebits("undo", model, "--undo-file", log).returncode == 0
    assert model.read_bytes() == full.read_bytes()


def test_a_written_file_has_the_usual_mode(truebits, full, tmp_path):
    out = tmp_path / "out.gguf"
    assert truebits("truncate", full, out, "--bits", 16).returncode == 0
    before = os.umask(0)
    os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~before


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1000", 1000), ("64MiB", 64 << 20), ("2GB", 2 * 10**9), ("3k", 3000), ("1Ki", 1024), ("7B", 7), ("0", 0)],
)
def test_sizes(text, expected):
    assert _size(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5GB", "1TB", "1kk", "many", "1 MB"])
def test_what_is_no_size(text):
    with pytest.raises(click.BadParameter, match="is not a size like 64MiB or 2GB"):
        _size(text)


def test_a_sweep_is_measured_and_nothing_written(truebits, full, tmp_path):
    code, told, complaint = truebits("fakequant", full, "--sweep", "bf16,int8,int8:block999", "--json")
    assert (code, complaint) == (0, "")
    rows = json.loads(told)["formats"]
    assert [row["to"] for row in rows] == ["bf16", "int8:block32", "int8:block999"]
    assert [row["problem"] is None for row in rows] == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fakequant", "--to", "bf16"], "give either an output file or --in-place"),
        (["fakequant", "out.gguf", "--to", "nobodys"], "no format is called"),
        (["fakequant", "out.gguf", "--sweep", "bf16"], "--sweep"),
        (["fakequant", "out.gguf"], "format"),
    ],
)
def test_requests_that_make_no_sense(truebits, full, arguments, words):
    verb, *options = arguments
    code, _, complaint = truebits(verb, full, *options)
    assert code == 2
    assert words in complaint


def test_rules_of_a_file_come_after_those_given(truebits, full, tmp_path):
    rules = tmp_path / "rules"
    rules.write_text("norm|up=bf16\n")
    given = ["--rule", "norm=keep", "--rules", rules, "--dry-run", "--json"]
    code, told, _ = truebits("fakequant", full, *given)
    assert code == 0
    assert {(one["name"].split(".")[2], one["to"]) for one in json.loads(told)["tensors"]} == {("ffn_up", "bf16")}


def test_synth_tells_what_it_wrote(truebits, tmp_path):
    code, told, _ = truebits("synth", tmp_path / "m.gguf", "--size", "4KiB", "--precision", "bf16", "--seed", "3")
    assert code == 0
    assert told.endswith("values are exact in bf16, seed 3\n")
    assert truebits("synth", tmp_path / "m.gguf")[0] == 5
