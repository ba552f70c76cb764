"""Tensors that are known by their values."""

import numpy as np
import pytest

from converter import permuted, write_folder, write_gguf
from truebits.files.model import open_model
from truebits.lineage.matching import match
from truebits.lineage.renamed import found_by_value

CONFIG = {"hidden_size": 16, "num_attention_heads": None, "num_key_value_heads": None, "num_hidden_layers": 1}
RANDOM = np.random.default_rng(0)
QUERY = RANDOM.normal(0, 1, (256, 16)).astype(np.float32)
OTHERS = {
    "model.embed_tokens.weight": RANDOM.normal(0, 1, (10, 16)).astype(np.float32),
    "model.norm.weight": RANDOM.normal(0, 1, 16).astype(np.float32),
}


@pytest.fixture
def found(tmp_path):
    def call(ours, theirs):
        named = dict(zip(("token_embd.weight", "output_norm.weight"), OTHERS.values(), strict=True))
        keys = {"embedding_length": 16, "block_count": 1, "attention.head_count": None, "attention.head_count_kv": None}
        model = open_model(write_gguf(tmp_path / "m.gguf", "llama", named | ours, **keys))
        source = open_model(write_folder(tmp_path / "hf", OTHERS | theirs, **CONFIG))
        with model.map() as files, source.map() as others:
            return found_by_value(match(model, source), files, others)

    return call


def of(matching, name):
    return next(pair for pair in matching.pairs if pair.tensor.name == name)


def test_the_tensor_with_its_very_values(found):
    extra = RANDOM.normal(0, 1, (4, 16)).astype(np.float32)
    got = found({"nobodys.weight": extra}, {"some.thing": extra, "other.thing": extra + 1})
    pair = of(got, "nobodys.weight")
    assert (pair.is_renamed, [one.name for one in pair.sources]) == (True, ["some.thing"])
    assert [one.tensor.name for one in got.left_out] == ["other.thing"]


def test_one_value_apart_is_another(found):
    extra = RANDOM.normal(0, 1, (40, 16)).astype(np.float32)
    changed = extra.copy()
    changed[-1, -1] += 1
    got = found({"nobodys.weight": extra}, {"some.thing": changed})
    assert of(got, "nobodys.weight").sources == ()
    assert [one.tensor.name for one in got.left_out] == ["some.thing"]


def test_each_tensor_is_taken_once(found):
    extra = RANDOM.normal(0, 1, (4, 16)).astype(np.float32)
    got = found({"one.weight": extra, "two.weight": extra}, {"some.thing": extra})
    assert sorted(len(of(got, f"{name}.weight").sources) for name in ("one", "two")) == [0, 1]


@pytest.mark.parametrize("heads", [2, 4, 8])
def test_the_number_of_heads_is_the_one_that_fits(found, heads):
    name = "model.layers.0.self_attn.q_proj.weight"
    pair = of(found({"blk.0.attn_q.weight": permuted(QUERY, heads)}, {name: QUERY}), "blk.0.attn_q.weight")
    assert (pair.problem, pair.candidates) == (None, ())
    assert pair.strips[0].shape == (heads, 128 // heads, 2, 16)


def test_heads_that_fit_nothing_stay_unknown(found):
    name = "model.layers.0.self_attn.q_proj.weight"
    pair = of(found({"blk.0.attn_q.weight": QUERY + 1}, {name: QUERY}), "blk.0.attn_q.weight")
    assert "number of its heads is not known" in pair.problem
