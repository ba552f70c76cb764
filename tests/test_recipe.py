"""Recipes: the choice against brute force, the files against who reads them, the whole against uniform formats."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import product

import pytest

import llama_quantize
import truebits as tb
from extras import NEEDS_EVAL
from truebits import data
from truebits.errors import UsageError
from truebits.experiments.recipe import _cheapest, _hull, _steps, recipe
from truebits.experiments.sensitivity import Effect, sensitivity
from truebits.files.model import open_gguf
from truebits.rewriting.rules import read_rules

FORMATS = ["int3", "int4", "int5", "int6", "int8"]
QUICK = {"text": data.HELDOUT, "chunks": 4, "n_ctx": 256}


def effect(group, saved, kl):
    return Effect(group, f"to{saved}", (group,), 10, 10, saved, kl, 0.0, 1.0)


def test_the_hull_leaves_out_what_a_mixture_beats():
    options = [
        effect("a", 10, 1.0),
        effect("a", 20, 3.5),
        effect("a", 30, 4.0),
        effect("a", 30, 5.0),
        effect("a", 40, 8.0),
    ]
    assert [(step.effect.saved, step.saved, step.kl) for step in _hull(options)] == [
        (10, 10, 1.0),
        (30, 20, 3.0),
        (40, 10, 4.0),
    ]
    assert [step.effect.saved for step in _hull([effect("a", 10, 1.0), effect("a", 20, 0.5)])] == [20]


@pytest.mark.parametrize("seed", range(5))
def test_no_choice_of_as_many_bits_costs_less(seed):
    """Greedy by price is the best there is at the bits that it comes to."""
    draw = random.Random(seed)
    groups = [[effect(name, draw.randint(1, 40), draw.random()) for _ in range(3)] for name in "abcde"]
    steps = sorted((step for one in groups for step in _hull(one)), key=lambda step: step.price)
    saved, kl = 0, 0.0
    for step in steps:
        saved, kl = saved + step.saved, kl + step.kl
        others = product(*([None, *one] for one in groups))
        sums = [[sum(one.saved for one in some if one), sum(one.kl for one in some if one)] for some in others]
        assert kl <= min(cost for bits, cost in sums if bits >= saved) + 1e-12


def test_a_budget_is_kept_and_what_it_does_not_need_is_given_back():
    model = open_gguf(data.MODEL)
    names = [tensor.name for tensor in model.tensors if len(tensor.shape) > 1]
    kinds = {tensor.name: tensor for tensor in model.tensors}
    effects = [effect(name, 24 * kinds[name].values, index + 1.0) for index, name in enumerate(names)]
    norm = effect("output_norm.weight", 10**9, 0.0)
    steps = _steps(model, [*effects, norm])
    for bits in (31.0, 20.0, 9.0):
        chosen = _cheapest(model, steps, bits)
        left = sum(8 * one.nbytes for one in model.tensors) - sum(one.saved for one in chosen.values())
        assert left <= bits * model.values
        assert "output_norm.weight" not in chosen
        assert all(left + one.saved > bits * model.values for one in chosen.values())
    with pytest.raises(UsageError, match=r"7 bits per weight: with these formats the model takes 8\.04 at least"):
        _cheapest(model, steps, 7.0)


def test_budgets_that_are_none():
    for budget in ({}, {"bits": 4.0, "max_kl": 0.1}):
        with pytest.raises(UsageError, match="give a budget: --bits, of the whole model, or --max-kl"):
            recipe(None, **budget)


@NEEDS_EVAL
def test_only_sensitivities_by_tensor_will_do():
    found = sensitivity(data.MODEL, "ffn_up", to="int4", by="group", **QUICK)
    with pytest.raises(UsageError, match="by tensor, not by group"):
        recipe(found, bits=8)


@NEEDS_EVAL
def test_a_choice_is_not_judged_on_the_text_that_it_was_found_on(tmp_path):
    text = tmp_path / "text"
    text.write_text(data.HELDOUT.read_text()[:1200])
    options = {"to": "int4", "text": text, "n_ctx": 128}
    found = sensitivity(data.MODEL, "output", held_out=True, **options)
    got = recipe(found, bits=31)
    used, judged = got.settings["chunks"], got.settings["judged_chunks"]
    assert 1 <= judged <= used
    found = sensitivity(data.MODEL, "output", chunks=100, **options)
    assert found.settings["chunks"] > used
    with pytest.raises(UsageError, match="all of them were used to find what is to be judged"):
        recipe(found, bits=31)


@NEEDS_EVAL
def test_a_recipe_for_a_model_whose_blocks_become_values():
    options = {**QUICK, "chunks": 1, "n_ctx": 128}
    found = sensitivity(data.MODEL_Q8_0, "^output.weight", to="int4", dequantize=True, **options)
    assert [one.group for one in found.effects] == ["output.weight"]
    assert found.effects[0].kl > 0
    got = recipe(found, bits=31)
    assert (got.model, got.formats["output.weight"], got.is_met) == (str(data.MODEL_Q8_0), "int4:block32", True)


@pytest.fixture(scope="module")
def found():
    return sensitivity(data.MODEL, to=FORMATS, text=data.HELDOUT, held_out=True)


@pytest.mark.slow
@NEEDS_EVAL
def test_it_beats_the_same_format_everywhere_at_the_same_bits(found):
    for to in ("int4:block32", "int5:block32"):
        uniform = next(one for one in recipe(found, bits=12).uniform if one.to == to)
        got = recipe(found, bits=uniform.bits)
        assert got.is_met
        assert got.whole.bits <= uniform.bits
        assert got.whole.kl + got.whole.error < uniform.kl - uniform.error
        assert got.whole.predicted == pytest.approx(got.whole.kl, rel=0.2)


@pytest.mark.slow
@NEEDS_EVAL
def test_a_limit_of_divergence_holds_for_the_whole(found):
    got = recipe(found, max_kl=0.01)
    assert got.is_met
    assert 0.008 < got.whole.kl <= 0.01
    nothing = recipe(found, max_kl=0)
    assert set(nothing.formats.values()) == {"keep"}
    assert (nothing.whole.kl, nothing.whole.bits, nothing.is_met) == (0, 32, True)


@NEEDS_EVAL
def test_the_command_and_the_files_that_it_writes(tmp_path):
    rules, types, out = tmp_path / "rules", tmp_path / "types", tmp_path / "out.gguf"
    command = [sys.executable, "-m", "truebits", "recipe", data.MODEL, "--to", "q4_0,q8_0", "--text", data.HELDOUT]
    options = ["--context", "256", "--chunks", "4", "--bits", "7", "--rules", rules, "--tensor-types", types, "--json"]
    done = subprocess.run(list(map(str, [*command, *options])), capture_output=True, text=True, timeout=300, check=True)
    document = json.loads(done.stdout)
    assert document["schema"] == "truebits.recipe/1"
    assert document["is_met"]
    formats = document["formats"]
    assert set(formats.values()) == {"keep", "q4_0", "q8_0"}

    rewritten = tb.fakequant(data.MODEL, out, rules=read_rules(rules))
    assert {one.name: one.to for one in rewritten.tensors} == {name: to for name, to in formats.items() if to != "keep"}
    judged = document["settings"]
    assert (judged["chunks"], judged["judged_from_chunk"], judged["judged_chunks"]) == (4, 4, 4)
    found, both = (
        tb.evaluate(data.MODEL, out, **{**QUICK, "chunks": chunks}, rounds=0, prompts=[]).divergence.mean
        for chunks in (4, 8)
    )
    assert document["whole"]["kl"] == pytest.approx(2 * both - found, rel=1e-6)

    packed = tmp_path / "packed.gguf"
    subprocess.run(
        [sys.executable, llama_quantize.__file__, data.MODEL, packed, types], check=True, capture_output=True
    )
    kinds = {one.name: one.type.lower() for one in open_gguf(packed).tensors}
    assert kinds == {name: "f32" if to == "keep" else to for name, to in formats.items()}


def test_a_format_that_is_not_ggmls_is_refused_before_anything_is_measured(tmp_path):
    command = [sys.executable, "-m", "truebits", "recipe", data.MODEL, "--to", "q4_0,int4", "--text", data.HELDOUT]
    options = ["--bits", "7", "--tensor-types", tmp_path / "types"]
    done = subprocess.run(list(map(str, [*command, *options])), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "int4:block32 is no type of ggml's: llama-quantize cannot write it" in done.stderr
