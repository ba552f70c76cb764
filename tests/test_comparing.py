"""The commands diff, trace and rank: what they print, and their exit codes."""

import json

import click
import numpy as np
import pytest

from converter import checkpoint, converted, write_folder, write_gguf
from models import write
from truebits.cli.comparing import _gate
from truebits.errors import UsageError
from words import finite_words


@pytest.fixture
def models(tmp_path):
    words = finite_words("F32", (4, 256))
    changed = words.copy()
    changed[0, 0] ^= 1 << 16
    paths = {"a": words, "same": words, "changed": changed}
    return {name: write(tmp_path / f"{name}.gguf", {"t.weight": ("F32", one)}) for name, one in paths.items()}


@pytest.mark.parametrize(
    ("other", "options", "code"),
    [
        ("same", [], 0),
        ("changed", [], 1),
        ("changed", ["--fail-over", "max_abs=1"], 0),
        ("changed", ["--fail-over", "changed=0"], 1),
        ("changed", ["--fail-over", "max_abs=1", "--fail-over", "changed=0"], 1),
        ("changed", ["-L", "t"], 2),
    ],
)
def test_diff(truebits, models, other, options, code):
    assert truebits("diff", models["a"], models[other], *options)[0] == code


def test_diff_of_the_same_values_stored_otherwise(truebits, tmp_path):
    values = np.float32([1, 2, 3, 4])
    paths = [write(tmp_path / f"{t}.gguf", {"t": (t, values.astype(d).view(f"u{d().itemsize}"))})
             for t, d in (("F32", np.float32), ("F64", np.float64))]  # fmt: skip
    assert truebits("diff", *paths)[0] == 0
    code, told, _ = truebits("diff", *paths, "--bytes", "--json")
    assert (code, json.loads(told)["verdict"]) == (1, "same values")


@pytest.mark.parametrize("style", ["text", "md", "csv"])
def test_diff_in_every_style(truebits, models, style):
    code, told, complaint = truebits("diff", models["a"], models["changed"], "-o", style)
    assert (code, complaint) == (1, "")
    assert "t.weight" in told
    assert ("Different: 1 of 1 tensors" in told) == (style == "text")


@pytest.mark.parametrize(("text", "expected"), [("max_abs=1e-3", ("max_abs", 1e-3)), (" rms = 2", ("rms", 2.0))])
def test_a_gate(text, expected):
    assert _gate(text) == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max_abs", click.BadParameter),
        ("max_abs=", click.BadParameter),
        ("max_abs=x", click.BadParameter),
        ("nobodys=1", UsageError),
        ("max_abs=nan", UsageError),
        ("max_abs=-1", UsageError),
    ],
)
def test_a_gate_that_means_nothing(text, error):
    with pytest.raises(error):
        _gate(text)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    folder, drawn = tmp_path_factory.mktemp("traced"), checkpoint("llama", "BF16")
    tensors = converted("llama", drawn)
    honest = write_gguf(folder / "honest.gguf", "llama", tensors, "F32")
    tensors["blk.0.ffn_down.weight"] = tensors["blk.0.ffn_down.weight"] + np.float32(1)
    edited = write_gguf(folder / "edited.gguf", "llama", tensors, "F32")
    return {"source": write_folder(folder / "hf", drawn), "honest": honest, "edited": edited}


@pytest.mark.parametrize(
    ("models", "code", "words"),
    [
        (["honest", "source"], 0, "Converted from this checkpoint"),
        (["edited", "source"], 1, "Not this checkpoint as it is"),
        (["honest", "honest"], 0, "the same checkpoint"),
        (["honest", "edited", "honest"], 1, "another revision"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_trace(truebits, traced, models, code, words, as_json):
    got, told, complaint = truebits("trace", *(traced[name] for name in models), *(["--json"] if as_json else []))
    assert (got, complaint) == (code, "")
    if as_json:
        assert json.loads(told)["schema"].startswith("truebits.trace")
    else:
        assert words.lower() in told.lower()


@pytest.mark.parametrize(
    ("models", "options", "words"),
    [
        (["honest"], [], "there is nothing to compare"),
        ([], [], "there is nothing to compare"),
        (["honest", "honest", "honest"], ["--thorough"], "--thorough is for a GGUF and its checkpoint"),
    ],
)
def test_trace_of_what_makes_no_sense(truebits, traced, models, options, words):
    code, _, complaint = truebits("trace", *(traced[name] for name in models), *options)
    assert code == 2
    assert words in complaint


def test_rank(truebits, traced):
    code, told, _ = truebits("rank", traced["source"], traced["edited"], traced["honest"])
    assert code == 0
    assert told.startswith("honest.gguf is nearest: off by 0 %")
    code, told, _ = truebits("rank", traced["source"], traced["honest"], "-o", "csv")
    assert "is nearest" not in told
