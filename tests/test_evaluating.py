"""The commands eval and experiment: what they refuse before any model runs, and what they hand on."""

import json

import pytest

from extras import NEEDS_EVAL
from truebits import data
from truebits.experiments import experiment as experiments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", data.MODEL, data.MODEL], "Missing option '--text'"),
        (["eval", data.MODEL, data.MODEL, "--text", "x", "--prompts", "absent"], "absent"),
        (["experiment", data.MODEL, "--sweep", "bf16"], "--sweep takes formats and --text, and keeps no model"),
        (["experiment", data.MODEL, "--sweep", "bf16", "--text", "x", "--to", "bf16"], "--sweep takes formats"),
        (["experiment", data.MODEL, "--sweep", "bf16", "--text", "x", "--out", "y"], "--sweep takes formats"),
        (["experiment", data.MODEL], "bits"),
        (["experiment", data.MODEL, "--to", "nobodys"], "no format is called"),
    ],
)
def test_what_makes_no_sense(truebits, arguments, words):
    code, _, complaint = truebits(*arguments)
    assert code == (4 if "absent" in arguments else 2)
    assert words in complaint


@pytest.mark.parametrize("style", ["text", "md", "json"])
def test_an_experiment_that_changes_nothing(truebits, exact, style):
    code, told, _ = truebits("experiment", exact, "--bits", 16, "-o", style)
    assert code == 0
    if style == "json":
        assert json.loads(told)["schema"] == "truebits.experiment/1"
    else:
        assert "already are BF16" in told
        assert ("## " in told) == (style == "md")


def test_formats_of_a_sweep_are_handed_on(truebits, monkeypatch, tmp_path):
    asked = {}

    def sweep_experiment(model, names, **options):
        asked.update(options, names=names)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "sweep_experiment", sweep_experiment)
    prompts = tmp_path / "prompts"
    prompts.write_text("why?\n")
    options = ["--text", data.HELDOUT, "--prompts", prompts, "--chunks", 3, "-l", "ffn", "--threads", 1]
    assert truebits("experiment", data.MODEL, "--sweep", "bf16, int8", *options)[0] == 130
    assert asked["names"] == ["bf16", "int8"]
    assert (asked["prompts"], asked["chunks"], asked["select"], asked["threads"]) == (["why?"], 3, ("ffn",), 1)


@NEEDS_EVAL
def test_eval_of_a_model_and_itself(truebits, tmp_path):
    prompts = tmp_path / "prompts"
    prompts.write_text("why?\n")
    options = ["--text", data.HELDOUT, "--chunks", 1, "--context", 64, "--rounds", 0, "--prompts", prompts, "--json"]
    code, told, _ = truebits("eval", data.MODEL, data.MODEL, *options, "--answer-tokens", 2)
    document = json.loads(told)
    assert (code, document["schema"]) == (0, "truebits.eval/1")
    assert document["divergence"]["mean"] == 0
