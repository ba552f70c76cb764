"""The experiment: real models, real inference, and a conclusion that follows from the counts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

import truebits as tb
from extras import NEEDS_EVAL
from truebits import data
from truebits.errors import MissingExtra, UsageError
from truebits.precision import counting
from truebits.quantizers import libggml
from truebits.report import experiment as story
from truebits.report.json import experiment as document
from truebits.report.sections import render

QUICK = {"chunks": 4, "rounds": 0, "answer_tokens": 8}


@pytest.fixture(scope="module")
def measured():
    return tb.experiment(data.MODEL, to="fp8_e4m3fn", text=data.HELDOUT, **QUICK)


def run(*arguments):
    command = [sys.executable, "-m", "truebits", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def told(done):
    return render(story.story(done), "text")


def test_where_nothing_can_change_it_stops_with_the_proof():
    done = tb.experiment(data.MODEL_Q8_0, bits=16, text=data.HELDOUT)
    assert (done.is_proved, done.diff, done.evaluation, done.plan.changed) == (True, None, None, 0)
    text = " ".join(told(done).split())
    assert "Nothing changes: all 640 values have their low 16 bits zero: they already are BF16" in text
    assert "Not one bit of the model can change, so nothing can be measured" in text
    assert "WHAT WAS MEASURED" not in text
    assert "The operation is the identity on every value here" in text


@pytest.mark.parametrize("asked", [{"bits": 16}, {"to": "bf16"}])
def test_the_model_is_counted_once(monkeypatch, asked):
    read, count = [], counting.count_batch

    def spy(batch):
        read.append(int((batch.stops - batch.starts).sum()))
        return count(batch)

    monkeypatch.setattr(counting, "count_batch", spy)
    done = tb.experiment(data.MODEL_Q8_0, **asked)
    assert done.is_proved
    assert sum(read) == done.report.coverage.values_read == 640


def test_a_report_opens_no_file_and_says_what_was_read(tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(data.MODEL_Q8_0.read_bytes())
    done = tb.experiment(model, bits=16)
    model.unlink()
    text = told(done)
    assert "index  value" in text
    assert "Read: 5 of 21 tensors" in text
    assert json.loads(document(done))["coverage"]["tensors_read"] == 5


def test_without_a_text_values_are_compared_and_the_rest_is_not_claimed():
    done = tb.experiment(data.MODEL, bits=16)
    assert done.evaluation is None
    assert done.diff.changed == done.plan.changed == 361_850
    assert done.again == 0
    assert "was not measured: give a text" in " ".join(told(done).split())
    unchanged = 100 * (1 - done.plan.changed / done.plan.values)
    assert f"Range: 0 of 21 tensors do not change at all; of all values {unchanged:.3f} % do not." in told(done)


def test_the_candidate_is_kept_only_where_asked(tmp_path):
    out = tmp_path / "candidate.gguf"
    done = tb.experiment(data.MODEL, to="int8", out=out)
    assert done.candidate == str(out)
    assert tb.diff(data.MODEL, out).changed == done.plan.changed
    assert [path.name for path in tmp_path.iterdir()] == ["candidate.gguf"]


def test_shapes_of_requests_that_are_refused(tmp_path):
    for request in ({}, {"bits": 16, "to": "bf16"}, {"bits": 0}, {"to": "bf17"}, {"rules": ["nowhere=bf16"]}):
        with pytest.raises(UsageError):
            tb.experiment(data.MODEL, **request)


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(libggml, "find_spec", lambda name: None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(MissingExtra, match=r"pip install 'truebits\[eval\]'"):
        tb.experiment(data.MODEL, bits=16, text=data.HELDOUT)
    assert not list(tmp_path.iterdir())


@NEEDS_EVAL
def test_an_effect_is_measured_and_explained(measured):
    assert measured.plan.changed == measured.diff.changed == 361_856
    assert measured.evaluation.has_effect
    assert measured.evaluation.divergence.mean > 10 * measured.evaluation.divergence.error
    assert measured.evaluation.floor.max == 0
    text = told(measured)
    assert re.search(r"mean KL divergence of \d\.\d\de-03", text)
    text = " ".join(text.split())
    assert "100 % of the values change" in text
    assert "Done again to its own result, the operation changes 0 values." in text


@NEEDS_EVAL
def test_markdown_has_the_same_sections(measured):
    sections = story.story(measured)
    page = render(sections, "md")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == [section.heading for section in sections]
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len({"numeric difference", "perplexity", "dialogue"} & {row.split("|")[1].strip() for row in rows}) == 3


@NEEDS_EVAL
def test_anyway_finds_zero_zero_identical():
    done = tb.experiment(data.MODEL_Q8_0, bits=16, text=data.HELDOUT, anyway=True, **QUICK)
    assert done.is_proved
    assert done.diff.is_same
    seen = done.evaluation.divergence
    assert (seen.mean, seen.max, seen.changed, seen.top1, seen.log_ratio) == (0, 0, 0, 1, 0)
    assert all(answer.first_difference is None for answer in done.evaluation.answers)
    assert not done.evaluation.has_effect
    assert "nothing can be measured, and nothing was" in " ".join(told(done).split())


@NEEDS_EVAL
def test_the_commands_print_strict_json():
    text = data.HELDOUT
    options = ("--chunks", 2, "--rounds", 0, "--answer-tokens", 4, "--json")
    for verb, arguments in (
        ("eval", (data.MODEL, data.MODEL_Q8_0)),
        ("experiment", (data.MODEL, "--bits", 16)),
    ):
        done = run(verb, *arguments, "--text", text, *options)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout, parse_constant=pytest.fail)
        assert document["schema"] == f"truebits.{verb}/1"
    assert document["difference"]["changed"] == document["plan"]["changed"]
    assert document["evaluation"]["has_effect"] is True


def test_an_experiment_on_a_quantized_model_is_one_on_its_values(tmp_path):
    """As on any download: without it only the norms are rounded."""
    tb.dequantize(data.MODEL_Q8_0, tmp_path / "f32.gguf")
    got = tb.experiment(data.MODEL_Q8_0, to="int4", dequantize=True)
    expected = tb.experiment(tmp_path / "f32.gguf", to="int4")
    assert (got.plan, got.report.tensors.keys()) == (expected.plan, expected.report.tensors.keys())
    assert got.diff.changed == expected.diff.changed == got.plan.changed
    assert (got.model, got.operation) == (str(data.MODEL_Q8_0), "fakequant --dequantize --to int4")
    assert got.types == tb.open(data.MODEL_Q8_0).types
    assert len(got.plan.tensors) > len(tb.experiment(data.MODEL_Q8_0, to="bf16").plan.tensors)


@NEEDS_EVAL
def test_a_sweep_of_a_quantized_model_rounds_its_matrices():
    got = tb.sweep_experiment(
        *(data.MODEL_Q8_0, ["int8", "int3"]),
        **{"dequantize": True, "text": data.HELDOUT, "chunks": 1, "rounds": 0, "answer_tokens": 4},
    )
    int8, int3 = (one.evaluation.divergence.mean for one in got.candidates)
    assert 0 < int8 < int3
    assert got.candidates[1].bits == pytest.approx(4, abs=0.01)


@NEEDS_EVAL
def test_a_sweep_orders_formats_by_what_they_lose(tmp_path):
    plot = tmp_path / "sweep.png"
    options = ["--chunks", 4, "--rounds", 0, "--answer-tokens", 4, "--json"]
    draws = find_spec("matplotlib") is not None or os.environ.get("CI") == "true"
    if draws:
        options += ["--plot", plot]
    done = run("experiment", data.MODEL, "--sweep", "bf16,int8,int4,int3", "--text", data.HELDOUT, *options)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout, parse_constant=pytest.fail)["formats"]
    means = [row["evaluation"]["divergence"]["mean"] for row in rows]
    assert means == sorted(means)
    assert [row["bits_per_weight"] for row in rows] == [16, 9, 5, 4]
    if draws:
        assert plot.read_bytes().startswith(b"\x89PNG")


@NEEDS_EVAL
def test_a_sweep_goes_on_where_a_format_does_not_apply():
    options = ["--chunks", 2, "--rounds", 0, "--answer-tokens", 4, "--include", "ffn_(up|down)"]
    done = run("experiment", data.MODEL, "--sweep", "int4:block256,bf16", "--text", data.HELDOUT, *options)
    assert done.returncode == 0, done.stderr
    heading, verdict, said, problem, table = done.stdout.split("\n\n")
    assert heading == "WHAT EACH FORMAT DOES"
    assert verdict.startswith("Least moved by bf16, 26.2")
    assert " ".join(said.split()) == "4 of 21 tensors are rounded, 36.22 % of the weights; bits are of the whole model."
    assert " ".join(problem.split()).startswith("int4:block256: n/a: blk.0.ffn_up.weight has rows of 128 values")
    rows = table.splitlines()
    assert rows[1].split()[0] == "int4:block256"
    assert rows[1].split()[-1] == "n/a"
    assert rows[2].split()[:2] == ["bf16", f"{32 - 16 * 131_072 / 361_856:.2f}"]
    none = run("experiment", data.MODEL, "--sweep", "int4:block256", "--text", data.HELDOUT)
    assert none.returncode == 2
    assert "none of the formats can take the tensors" in none.stderr


def test_what_commands_refuse():
    for arguments in (
        ("--sweep", "bf16"),
        ("--sweep", "bf16", "--to", "int8", "--text", data.HELDOUT),
        ("--to", "bf16", "--rule", "nowhere=int8"),
        (),
    ):
        done = run("experiment", data.MODEL, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert done.stderr.startswith("truebits: ")
