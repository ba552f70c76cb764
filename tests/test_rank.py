"""Quantizations of one model in the order of their error, which is measured here again in plain NumPy."""

from __future__ import annotations

import json
import subprocess
import sys

import gguf
import numpy as np
import pytest

import truebits as tb
from converter import checkpoint, converted, stored, write_folder, write_gguf
from truebits.errors import NotTheSource, UsageError

TYPES = ("Q4_0", "Q8_0", "F16", "Q5_1")


@pytest.fixture(scope="module")
def drawn():
    return checkpoint("llama", "BF16")


@pytest.fixture(scope="module")
def source(drawn, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("source") / "hf", drawn)


@pytest.fixture
def quantized(tmp_path, drawn):
    """Return what writes a model of the checkpoint in a type, changed by somebody and under names of his own."""

    def write(type, change=None, name=None):
        tensors = converted("llama", drawn)
        if change is not None:
            tensors = change(tensors)
        return write_gguf(tmp_path / f"{name or type}.gguf", "llama", tensors, type)

    return write


def means(values, type):
    made = stored(values, type)
    number = gguf.GGMLQuantizationType[type]
    return made.astype(np.float32) if type in ("F32", "F16") else gguf.quants.dequantize(made, number)


def relative(drawn, type):
    """Work the error of all matrices out, and the power of all tensors."""
    squared = squares = 0.0
    for values in converted("llama", drawn).values():
        power = np.square(values.astype(np.float64)).sum()
        squares += power
        if values.ndim > 1:
            squared += np.square(means(values, type).astype(np.float64) - values).sum()
    return np.sqrt(squared / squares)


def test_the_nearest_comes_first(quantized, source, drawn):
    found = tb.rank([quantized(type) for type in TYPES], source)
    got = [model.path.rpartition("/")[2].removesuffix(".gguf") for model in found.models]
    assert got == ["F16", "Q8_0", "Q5_1", "Q4_0"]
    for model, type in zip(found.models, got, strict=True):
        assert model.error == pytest.approx(relative(drawn, type), rel=1e-5)
        assert model.coverage.is_complete
        size = sum(tensor.nbytes for tensor in tb.open(model.path).tensors)
        values = sum(tensor.values for tensor in tb.open(model.path).tensors)
        assert model.bits_per_weight == 8 * size / values
    assert found.is_verified
    assert found.conclusion.startswith("F16.gguf is nearest: off by ")
    assert "; Q8_0.gguf is " in found.conclusion


def test_against_a_gguf(quantized, source):
    full = quantized("F32", name="full")
    models = [quantized(type) for type in TYPES]
    by_gguf, by_folder = tb.rank(models, full), tb.rank(models, source)
    assert [one.error for one in by_gguf.models] == pytest.approx([one.error for one in by_folder.models])


def test_the_worst_tensor_and_groups(quantized, source):
    name = "blk.1.ffn_down.weight"

    def noisy(tensors):
        random = np.random.default_rng(1)
        return tensors | {name: tensors[name] + random.normal(0, 0.01, tensors[name].shape).astype(np.float32)}

    (found,) = tb.rank([quantized("Q8_0", noisy)], source).models
    assert found.worst.name == name
    assert found.worst.error.relative == pytest.approx(0.5, rel=0.1)
    groups = found.groups
    assert max(groups, key=groups.get) == "blk.*.ffn_down.weight"
    assert groups["blk.*.attn_norm.weight"] == 0


def test_names_of_another_uploader(quantized, source):
    def renamed(tensors):
        return {f"model.{name}": values for name, values in tensors.items()}

    full = quantized("F32", name="full")
    (found,) = tb.rank([quantized("Q4_0", renamed, "renamed")], full).models
    assert found.coverage.is_complete
    assert all(one.is_renamed and one.name == f"model.{one.source}" for one in found.tensors)
    (plain,) = tb.rank([quantized("Q4_0")], full).models
    assert found.error == pytest.approx(plain.error)


def test_what_is_not_compared_is_said(quantized, source):
    def more(tensors):
        return tensors | {"blk.0.attn_sinks.weight": np.ones(5, np.float32)}

    found = tb.rank([quantized("Q8_0", more)], source)
    assert not found.is_verified
    assert [one.why for one in found.models[0].tensors if one.error is None] == ["the source has no such tensor"]


def test_values_that_became_nan(quantized, source):
    def broken(tensors):
        tensors["output_norm.weight"][3] = np.nan
        return tensors

    found = tb.rank([quantized("Q8_0", broken, "broken"), quantized("Q4_0")], source)
    assert [one.path.rpartition("/")[2] for one in found.models] == ["Q4_0.gguf", "broken.gguf"]
    assert found.models[1].error == np.inf


def test_refusals(quantized, source, tmp_path):
    with pytest.raises(UsageError, match="nothing to rank"):
        tb.rank([], source)
    other = write_folder(tmp_path / "other", checkpoint("llama", "BF16"), hidden_size=512)
    with pytest.raises(NotTheSource):
        tb.rank([quantized("Q8_0")], other)


def test_command(quantized, source):
    models = [quantized(type) for type in ("Q4_0", "Q8_0")]
    command = [sys.executable, "-m", "truebits", "rank", source, *models]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Q8_0.gguf is nearest: off by ")
    document = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True).stdout)
    assert document["schema"] == "truebits.rank/1"
    assert [one["file"] for one in document["models"]] == [str(path) for path in models[::-1]]
    done = subprocess.run([*command, "-o", "csv"], capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1 + 2 * 23
