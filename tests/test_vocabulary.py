"""Tokens from each place that models keep them in, and none from what is no vocabulary."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gguf import GGUFWriter

import truebits as tb
from converter import write_safetensors
from models import finish
from truebits.files import vocabulary as files
from truebits.files.vocabulary import vocabulary


@pytest.fixture
def model(tmp_path):
    write_safetensors(tmp_path / "m.safetensors", {"a": np.zeros((2, 2), np.float32)})
    return tb.open(tmp_path / "m.safetensors")


TOKENIZERS = {
    "a mapping": {"model": {"vocab": {"b": 1, "a": 0}}},
    "scores": {"model": {"vocab": [["a", -1.5], ["b", -2]]}},
    "added": {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "b", "special": True}]},
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_s_tokens(model, kind):
    model.path.with_name("tokenizer.json").write_text(json.dumps(TOKENIZERS[kind]))
    assert vocabulary(model) == ["a", "b"]


def test_numbers_without_a_token_are_empty(model):
    model.path.with_name("tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "c": 2, "x": 1 << 40}}}))
    assert vocabulary(model) == ["a", "", "c"]


def test_a_list_of_words(model):
    model.path.with_name("vocab.txt").write_text("a\n\u2028\nb\n")
    assert vocabulary(model) == ["a", "\u2028", "b"]


def test_the_metadata_of_a_gguf(tmp_path):
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_token_list(["a", "b"])
    writer.add_tensor("x", np.zeros(4, np.float32))
    finish(writer)
    assert vocabulary(tb.open(tmp_path / "m.gguf")) == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", "null", "1", "[" * 100_000, '{"model": null}', '{"model": {"vocab": 3}}'),
        *('{"model": {"vocab": {"a": "b"}}}', '{"model": {"vocab": {"a": null}}}', '{"model": {"vocab": [1]}}'),
        *('{"model": {"vocab": {"a": -1}}}', '{"model": {"vocab": {}}, "added_tokens": [{}]}'),
        '{"model": {"vocab": {"a": 0.5}}}',
    ],
)
def test_what_is_no_vocabulary_gives_no_names(model, text):
    model.path.with_name("tokenizer.json").write_text(text)
    assert vocabulary(model) == []


def test_what_cannot_be_read_gives_no_names(model, monkeypatch):
    path = model.path.with_name("tokenizer.json")
    path.write_bytes(b"\xff\xfe")
    assert vocabulary(model) == []
    path.unlink()
    path.mkdir()
    assert vocabulary(model) == []
    path.rmdir()
    path.write_text(json.dumps(TOKENIZERS["scores"]))
    monkeypatch.setattr(files, "LONGEST", 10)
    assert vocabulary(model) == []
