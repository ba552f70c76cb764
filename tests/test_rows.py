"""Where in a tensor the precision changes: the runs that were put there, exactly, and none by chance."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFWriter

import truebits as tb
from converter import write_safetensors
from models import finish
from truebits.cli.app import app
from truebits.report import screen
from words import rounded

ROW = 96


def draws(rows, seed=0, row=ROW):
    return np.random.default_rng(seed).normal(0, 0.02, (rows, row)).astype(np.float32)


def mixed(runs, rows=100, seed=0, row=ROW):
    """Return F32 values of which some rows, first to last, were rounded to a format."""
    values = draws(rows, seed, row)
    for first, last, name in runs:
        values[first : last + 1] = rounded(values[first : last + 1], name)
    return values


def found(path, **options):
    report = tb.scan(path, rows=True, **options)
    return {name: [(run.first, run.last, run.format) for run in of.runs] for name, of in report.rows.items()}


RUNS = {
    "one": [(40, 40, "fp16")],
    "ends": [(0, 2, "bf16"), (98, 99, "fp16")],
    "neighbours": [(10, 19, "bf16"), (20, 29, "fp16"), (31, 31, "fp16")],
    "all but one": [(0, 60, "fp16"), (62, 99, "fp16")],
    "none": [],
    "all": [(0, 99, "fp16")],
}


@pytest.mark.parametrize("batch_bytes", [1 << 9, 1 << 12, 32 << 20])
def test_runs_are_found_exactly(tmp_path, monkeypatch, batch_bytes):
    """Also where a batch ends within a row."""
    monkeypatch.setattr("truebits.precision.batches.BATCH_BYTES", batch_bytes)
    write_safetensors(tmp_path / "m.safetensors", {name: mixed(runs, seed=3) for name, runs in RUNS.items()})
    expected = {name: runs for name, runs in RUNS.items() if name not in ("none", "all")}
    assert found(tmp_path / "m.safetensors") == expected


def test_rows_of_a_gguf_are_its_fastest_dimension(tmp_path):
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("token_embd.weight", mixed([(5, 6, "bf16")], row=64))
    writer.add_tensor("vector", mixed([(0, 0, "bf16")], rows=2)[0])
    finish(writer)
    assert found(tmp_path / "m.gguf") == {"token_embd.weight": [(5, 6, "bf16")]}


def test_bf16_rows_among_fp16_ones(tmp_path):
    values = np.abs(draws(50, 4)) + 0.01
    values[7:9] = rounded(values[7:9], "bf16")
    write_safetensors(tmp_path / "m.safetensors", {"a": values.astype(np.float16)})
    assert found(tmp_path / "m.safetensors") == {"a": [(7, 8, "bf16")]}


def test_the_odds_of_a_row_are_those_of_its_values(tmp_path):
    """13 bits for each value of more than one mantissa bit in FP16's normal range."""
    write_safetensors(tmp_path / "m.safetensors", {"a": mixed([(3, 3, "fp16")], row=384)})
    (run,) = tb.scan(tmp_path / "m.safetensors", rows=True).rows["a"].runs
    assert 0.97 * 13 * 384 < run.odds_bits <= 13 * 384


@pytest.mark.parametrize("seed", range(20))
def test_short_rows_are_not_found_by_chance(tmp_path, seed):
    """A row of 2 FP16 values is no proof among 10,000; zeros and halves are none at all."""
    values = draws(10_000, seed, 2)
    values[::7] = 0
    values[3::7] = 0.5
    write_safetensors(tmp_path / "m.safetensors", {"a": values})
    assert found(tmp_path / "m.safetensors") == {}


def test_many_narrow_values_in_no_whole_row_are_no_run(tmp_path):
    values = draws(100)
    values[:, ::2] = rounded(values[:, ::2].copy(), "fp16")
    write_safetensors(tmp_path / "m.safetensors", {"a": values})
    assert found(tmp_path / "m.safetensors") == {}


def test_runs_longer_than_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("truebits.precision.rows.BYTES_AT_ONCE", 4 * ROW * 7)
    runs = [(3, 40, "fp16"), (48, 49, "bf16"), (90, 99, "fp16")]
    write_safetensors(tmp_path / "m.safetensors", {"a": mixed(runs)})
    assert found(tmp_path / "m.safetensors") == {"a": runs}


def test_the_document_and_the_table(tmp_path):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"a": mixed([(40, 49, "fp16")]), "b": draws(9)})
    a, b = json.loads(CliRunner().invoke(app, ["scan", "--rows", "--json", str(path)]).stdout)["tensors"]
    (run,) = a["rows"].pop("runs")
    assert (a["rows"], b["rows"]) == ({"axis": 0, "rows": 100, "values_per_row": ROW, "tokens": {}}, None)
    assert (run["from"], run["to"], run["format"]) == (40, 49, "fp16")
    out = CliRunner().invoke(app, ["scan", "--rows", str(path)]).stdout
    assert f"a          40    49  fp16      2^{run['odds_bits']:,}" in out
    assert "tokens" not in out


def test_the_finding_says_what_the_bits_say(tmp_path):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"a": mixed([(40, 49, "fp16"), (60, 60, "bf16")]), "b": draws(100)})
    (asked,) = tb.scan(path, rows=True).findings
    assert (asked.kind, asked.level, asked.tensors) == ("mixed_rows", "note", ("a",))
    told = "10 of 100 rows are exact in FP16, 1 of 100 rows is exact in BF16, first rows 40 to 49"
    assert asked.message == f"a: {told}; which may mean that nobody has updated them since they were stored so"
    (hint,) = tb.scan(path).findings
    assert (hint.kind, hint.tensors) == ("mixed_rows", ("a",))
    assert "--rows tells which rows" in hint.message


def test_where_there_are_none_it_says_so(tmp_path):
    write_safetensors(tmp_path / "m.safetensors", {"a": draws(9)})
    out = CliRunner().invoke(app, ["scan", "--rows", str(tmp_path / "m.safetensors")]).stdout
    assert out.endswith("\n\nNo rows of a tensor are exact in a narrower format than its others.\n")


@pytest.mark.parametrize("width", [20, 40, 80, 100])
def test_no_line_is_wider_than_the_terminal(tmp_path, width):
    write_safetensors(tmp_path / "m.safetensors", {"a" * 50: mixed([(3 * i, 3 * i, "fp16") for i in range(33)])})
    (tmp_path / "vocab.txt").write_text("\n".join(str(1000 * i) for i in range(100)))
    lines = [line for _, line in screen.runs(tb.scan(tmp_path / "m.safetensors", rows=True), width)]
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines[32:]).split()) == "and 3 more runs of rows; --wide lists all"


def vocabulary(rows=100):
    return ["[PAD]", *(f"[unused{number}]" for number in range(rows - 30)), *(f"##{chr(97 + i)}" for i in range(29))]


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_rows_of_an_embedding_are_named_from_the_vocabulary(tmp_path, kind):
    path = tmp_path / f"m.{kind}"
    values = {"token_embd.weight": mixed([(0, 9, "fp16"), (90, 99, "fp16")]), "other": mixed([(0, 0, "fp16")])}
    if kind == "gguf":
        writer = GGUFWriter(path, "llama")
        writer.add_token_list(vocabulary())
        for name, array in values.items():
            writer.add_tensor(name, array)
        finish(writer)
    else:
        write_safetensors(path, values)
        (tmp_path / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
    report = tb.scan(path, rows=True)
    embedding, other = report.rows["token_embd.weight"], report.rows["other"]
    assert [run.tokens for run in embedding.runs] == ["`[PAD]`, `[unused0]` to `[unused8]`", "10 `##` pieces"]
    assert embedding.tokens == {"fp16": "`[PAD]`, `[unused0]` to `[unused8]`, 10 `##` pieces"}
    assert (other.tokens, other.runs[0].tokens) == ({}, None)
    assert embedding.tokens["fp16"] in next(one.message for one in report.findings if "token_embd" in one.message)
    out = CliRunner().invoke(app, ["scan", "--rows", str(path)]).stdout
    assert "10 `##` pieces" in out.splitlines()[-2]
