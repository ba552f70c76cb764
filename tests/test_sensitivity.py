"""Which tensors matter: against evaluations one by one, against NumPy, and through interruptions."""

from __future__ import annotations

import json
import subprocess
import sys

import gguf
import numpy as np
import pytest

import truebits as tb
from extras import NEEDS_EVAL
from llama_numpy import Llama
from truebits import data
from truebits.errors import UsageError
from truebits.experiments import bench
from truebits.experiments.sensitivity import Effect, Sensitivity, sensitivity
from truebits.report import sensitivity as told
from truebits.report.sections import render

QUICK = {"text": data.HELDOUT, "chunks": 2, "n_ctx": 128, "threads": 1}
FFN = r"blk\.0\.ffn"


def effect(group="a", to="int4", kl=1.0, error=0.1, changed=10, saved=100):
    return Effect(group, to, (group,), 10, changed, saved, kl, error, 0.9)


@pytest.fixture(scope="module")
def found():
    return sensitivity(data.MODEL, FFN, to=["int4", "q8_0"], **QUICK)


@NEEDS_EVAL
def test_a_tensor_does_what_evaluating_a_model_with_it_rounded_says(found, tmp_path):
    for one in found.effects[::3]:
        out = tmp_path / f"{one.group}.gguf"
        done = tb.fakequant(data.MODEL, out, f"^{one.group}$", to=one.to)
        got = tb.evaluate(data.MODEL, out, **QUICK, rounds=0, prompts=[])
        assert (one.kl, one.error, one.top1) == (got.divergence.mean, got.divergence.error, got.divergence.top1)
        assert one.changed == done.changed


@NEEDS_EVAL
def test_what_is_measured_and_what_is_saved(found):
    assert [one.group for one in found.effects[:4]] == [
        f"blk.0.ffn_{name}.weight" for name in ("norm", "gate", "up", "down")
    ]
    assert [(one.group, one.to) for one in found.together] == [("all", "int4:block32"), ("all", "q8_0")]
    up = next(one for one in found.effects if one.group == "blk.0.ffn_up.weight" and one.to == "q8_0")
    assert up.saved == 256 * 128 * 32 - 256 * 128 // 32 * 34 * 8
    assert up.kl_per_bit == up.kl / up.saved
    assert found.floor == 0
    assert [one.kl for one in found.of("q8_0")] == sorted(
        (one.kl for one in found.effects if one.to == "q8_0"), reverse=True
    )


@NEEDS_EVAL
@pytest.mark.parametrize(
    ("by", "select", "expected"),
    [
        ("layer", None, ["token_embd.weight", "blk.0", "blk.1", "output_norm.weight", "output.weight"]),
        ("group", "attn_[qk]", ["blk.*.attn_q.weight", "blk.*.attn_k.weight"]),
    ],
)
def test_what_is_rounded_together(by, select, expected):
    got = sensitivity(data.MODEL, select, to="int4", by=by, **QUICK)
    assert [one.group for one in got.effects] == expected
    assert sum(len(one.tensors) for one in got.effects) == len(got.together[0].tensors)


def counted(function):
    def call(*arguments, **named):
        call.calls += 1
        return function(*arguments, **named)

    call.calls = 0
    return call


def test_what_is_not_told_from_none_is_said():
    effects = effect(), effect("b", error=0.6), effect("c", kl=0.05, error=0.01), effect("d", kl=0, error=0, changed=0)
    settings = {
        "tokens": 100,
        "backend": "b",
        "backend_version": "1",
        "cpu_features": "AVX = 1",
        "chunks": 1,
        "n_ctx": 8,
        "threads": 1,
    }
    got = Sensitivity("m", "tensor", ("int4",), effects, (effect("all"),), 0.07, {"e": "is Q4_0"}, settings)
    assert [one.group for one in got.unclear] == ["b", "c"]
    text = render(told.ranked(got), "text")
    assert "2 of 4 effects are not told from none by 100 tokens" in text
    assert "1 tensor, as e: is Q4_0." in text


@NEEDS_EVAL
def test_formats_that_do_not_apply():
    got = sensitivity(data.MODEL, "blk.0.ffn", to="int4:block256", **QUICK)
    assert [one.group for one in got.effects] == ["blk.0.ffn_down.weight"]
    assert "rows of 128 values, which are not whole blocks of 256" in got.left_out["blk.0.ffn_up.weight"]
    with pytest.raises(UsageError, match=r"no tensor can be rounded so: .* whole blocks of 256"):
        sensitivity(data.MODEL, "attn_q", to="int4:block256", **QUICK)
    with pytest.raises(UsageError, match="by 'row': there are tensor, layer, group"):
        sensitivity(data.MODEL, to="int4", by="row", **QUICK)


# --- interrupted and resumed


@NEEDS_EVAL
def test_what_is_interrupted_goes_on(found, tmp_path, monkeypatch):
    path = tmp_path / "journal"

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    arguments = {"to": ["int4", "q8_0"], "journal": path, **QUICK}
    with pytest.raises(KeyboardInterrupt):
        sensitivity(data.MODEL, FFN, **arguments, progress=stop)
    with path.open("ab") as file:
        file.write(b'{"group": "cut o')
    monkeypatch.setattr(bench.Bench, "measure", measured := counted(bench.Bench.measure))
    got = sensitivity(data.MODEL, FFN, **arguments)
    assert measured.calls == 10 - 4
    assert (got.effects, got.together) == (found.effects, found.together)
    assert sensitivity(data.MODEL, FFN, **arguments).effects == found.effects
    assert measured.calls == 10 - 4


@NEEDS_EVAL
def test_a_journal_of_something_else_is_refused(tmp_path):
    path = tmp_path / "journal"
    sensitivity(data.MODEL, "ffn_norm", to="int4", journal=path, **QUICK)
    for changes, words in [({"n_ctx": 64}, "another model or text and n_ctx"), ({"chunks": 1}, "and chunks")]:
        with pytest.raises(UsageError, match=words):
            sensitivity(data.MODEL, "ffn_norm", to="int4", journal=path, **QUICK | changes)
    with pytest.raises(UsageError, match="for another model or text:"):
        sensitivity(data.MODEL_Q8_0, "ffn_norm", to="int4", journal=path, **QUICK)


def test_a_result_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="no result"):
        Effect.of({"group": "a"})


# --- the command


@NEEDS_EVAL
def test_the_command(tmp_path):
    picture = tmp_path / "heat.png"
    options = ["--context", "128", "--chunks", "2", "--include", "ffn", "--by", "group", "--plot", picture]
    command = [
        sys.executable,
        "-m",
        "truebits",
        "sensitivity",
        data.MODEL,
        "--to",
        "int4,q8_0",
        "--text",
        data.HELDOUT,
        *options,
    ]
    done = subprocess.run([*map(str, command), "--json"], capture_output=True, text=True, timeout=300, check=True)
    document = json.loads(done.stdout)
    assert document["schema"] == "truebits.sensitivity/1"
    assert [one["group"] for one in document["together"]] == ["all", "all"]
    assert len(document["effects"]) == 8
    assert document["settings"]["chunks"] == 2
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=True).stdout
    assert text.startswith("INT4:BLOCK32\n\nAll at once move the predictions by ")
    assert "Measured".upper() in text


# --- against NumPy


def mean_divergence(base, other):
    """Mean Kullback-Leibler divergence of logits, shape (tokens, vocabulary), in float64."""
    p, q = (one - np.log(np.exp(one - one.max(-1, keepdims=True)).sum(-1, keepdims=True)) for one in (base, other))
    p, q = p - base.max(-1, keepdims=True), q - other.max(-1, keepdims=True)
    return (np.exp(p) * (p - q)).sum(-1).mean()


@pytest.mark.slow
@NEEDS_EVAL
def test_the_order_is_that_of_an_independent_evaluation():
    """Weights by gguf-py's own Q4_0, predictions by NumPy in float64."""
    got = sensitivity(data.MODEL, to="q4_0", text=data.HELDOUT, n_ctx=256, chunks=6)
    model = Llama(data.MODEL)
    tokens = [model.bos, *model.tokens(data.HELDOUT.read_text())]
    chunks = [[model.bos, *tokens[at + 1 : at + 256]] for at in range(0, 6 * 256, 256)]

    def predicted():
        return np.concatenate([model.logits(chunk)[128:255] for chunk in chunks])

    base, kind, expected = predicted(), gguf.GGMLQuantizationType.Q4_0, []
    for one in got.effects:
        kept = model.weights[one.group]
        rounded = gguf.quants.dequantize(gguf.quants.quantize(kept.astype(np.float32), kind), kind)
        model.weights[one.group] = rounded.astype(np.float64)
        expected.append(mean_divergence(base, predicted()))
        model.weights[one.group] = kept
    ours = np.array([one.kl for one in got.effects])
    spearman = np.corrcoef([np.argsort(np.argsort(values)) for values in (ours, expected)])[0, 1]
    assert spearman > 0.9
    assert ours == pytest.approx(np.array(expected), rel=0.02)
