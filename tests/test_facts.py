"""What the two headers say about the model."""

import json

import gguf
import numpy as np
import pytest

from converter import write_safetensors
from gguf_bytes import gguf as gguf_bytes
from models import finish
from truebits.errors import NotTheSource, UsageError
from truebits.files.model import open_model
from truebits.lineage.facts import Facts


@pytest.fixture
def facts(tmp_path):
    def make(config=None, names=("model.layers.0.a", "model.layers.1.a"), architecture="llama", **keys):
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
        for key, value in keys.items():
            name = f"{architecture}.{key.replace('__', '.')}"
            writer.add_array(name, value) if isinstance(value, list) else writer.add_key_value(
                name, value, gguf.GGUFValueType.STRING if isinstance(value, str) else gguf.GGUFValueType.UINT32
            )
        finish(writer)
        write_safetensors(tmp_path / "model.safetensors", {name: np.zeros(2, np.float32) for name in names})
        (tmp_path / "config.json").write_text(json.dumps(config or {}))
        return Facts(open_model(tmp_path / "m.gguf"), open_model(tmp_path / "model.safetensors"))

    return make


def test_numbers_of_the_gguf(facts):
    got = facts(block_count=3, embedding_length="text")
    assert (got.number("block_count"), got.number("embedding_length"), got.number("absent")) == (3, None, None)
    assert (got.blocks, got.family) == (3, "llama")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [(("a",), 3), (("x", "a"), 3), (("nested.b",), 4), (("zero", "a"), 3), (("true", "a"), 3), (("text", "a"), 3)],
)
def test_sizes_of_the_config(facts, keys, expected):
    config = {"a": 3, "nested": {"b": 4}, "zero": 0, "true": True, "text": "5"}
    assert facts(config).size(*keys) == expected


def test_a_size_that_is_not_said(facts):
    with pytest.raises(ValueError, match=r"config\.json has no a and no b\.c"):
        facts({"b": 5}).size("a", "b.c")


def test_what_is_said_of_the_text_model_counts(facts):
    assert facts({"hidden_size": 1, "text_config": {"hidden_size": 8}}).size("hidden_size") == 8


@pytest.mark.parametrize(
    ("config", "keys", "words"),
    [
        ({"hidden_size": 8}, {"embedding_length": 8}, None),
        ({"hidden_size": 8}, {"embedding_length": 16}, "its hidden_size is 8, the GGUF's embedding_length is 16"),
        ({"hidden_size": 8}, {}, None),
        ({"num_attention_heads": 8}, {"attention__head_count": 4}, "its num_attention_heads is 8"),
        ({"num_hidden_layers": 2}, {"block_count": 2}, None),
        ({"num_hidden_layers": 2}, {"block_count": 3}, "its num_hidden_layers is 2"),
        ({"num_hidden_layers": 2, "num_nextn_predict_layers": 1}, {"block_count": 3}, None),
        ({"num_hidden_layers": 2}, {"block_count": 3, "nextn_predict_layers": 1}, None),
        ({"num_hidden_layers": 2, "mtp_num_hidden_layers": 1}, {"block_count": 4}, "its num_hidden_layers is 2"),
        ({}, {"block_count": 2}, None),
        ({}, {"block_count": 3}, "it has 2 layers, the GGUF has 3"),
    ],
)
def test_a_config_of_another_model(facts, config, keys, words):
    of = facts(config, **keys)
    if words is None:
        of.check()
    else:
        with pytest.raises(NotTheSource, match=words):
            of.check()


def test_a_projector_is_not_measured_by_the_language_model(facts):
    facts({"hidden_size": 8}, architecture="clip", embedding_length=16).check()


@pytest.mark.parametrize(
    ("keys", "config", "name", "expected"),
    [
        ({"attention__head_count": 8}, {}, "blk.0.attn_q.weight", 8),
        ({"attention__head_count": 8, "attention__head_count_kv": 2}, {}, "blk.0.attn_k.weight", 2),
        ({"attention__head_count": 8}, {}, "blk.0.attn_k.weight", 8),
        ({"attention__head_count": [8, 4]}, {}, "blk.1.attn_q.weight", 4),
        ({"attention__head_count": [8, 4]}, {}, "blk.9.attn_q.weight", 4),
        ({"attention__head_count": 8, "attention__head_count_kv": [0, 2]}, {}, "blk.0.attn_q.weight", 0),
        ({}, {"num_attention_heads": 8, "num_key_value_heads": 2}, "blk.0.attn_k.weight", 2),
        ({}, {"num_attention_heads": 8}, "blk.0.attn_q.weight", 8),
        ({}, {}, "blk.0.attn_q.weight", None),
    ],
)
def test_heads(facts, keys, config, name, expected):
    assert facts(config, **keys).heads(name) == expected


@pytest.mark.parametrize(
    ("config", "architecture", "name", "expected"),
    [
        ({"tie_word_embeddings": True}, "llama", "output.weight", True),
        ({"tie_word_embeddings": True}, "llama", "output_norm.weight", False),
        ({}, "llama", "output.weight", False),
        ({}, "gemma3", "output.weight", True),
    ],
)
def test_an_output_that_is_the_embedding_may_lack(facts, config, architecture, name, expected):
    assert facts(config, architecture=architecture).may_lack(name) == expected


def test_layers_before_those_that_predict(facts):
    assert facts({"num_hidden_layers": 5}, block_count=6).layers == 5
    assert facts({}, block_count=6, nextn_predict_layers=1).layers == 5
    assert facts({}).layers == 0


def test_a_block_that_the_gguf_leaves_out(facts):
    of = facts({}, block_count=2)
    assert [of.is_beyond(name) for name in ("blk.1.a", "blk.2.a", "output")] == [False, True, False]
    assert not facts({}).is_beyond("blk.9.a")


def test_a_gguf_that_does_not_say_what_it_is(tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_bytes())
    write_safetensors(tmp_path / "model.safetensors", {"a": np.zeros(1, np.float32)})
    with pytest.raises(UsageError, match=r"has no general\.architecture"):
        Facts(open_model(tmp_path / "m.gguf"), open_model(tmp_path / "model.safetensors"))
