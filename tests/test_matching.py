"""A GGUF's tensors and those of the checkpoint that they were converted from, by their headers."""

import numpy as np
import pytest

from converter import write_folder, write_gguf
from truebits.errors import NotTheSource
from truebits.files.model import open_model
from truebits.lineage.matching import match
from truebits.precision.converters import Kind

SHAPES = {
    "model.embed_tokens.weight": (10, 16),
    "model.norm.weight": (16,),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.self_attn.k_proj.weight": (8, 16),
    "model.layers.0.mlp.up_proj.weight": (24, 16),
}
NAMES = {
    "token_embd.weight": (10, 16),
    "output_norm.weight": (16,),
    "blk.0.attn_q.weight": (16, 16),
    "blk.0.attn_k.weight": (8, 16),
    "blk.0.ffn_up.weight": (24, 16),
}
CONFIG = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "tie_word_embeddings": False,
}
KEYS = {"block_count": 1, "embedding_length": 16, "attention.head_count": 4, "attention.head_count_kv": 2}


@pytest.fixture
def matched(tmp_path):
    def call(names=(), shapes=(), family="llama", keys=(), **config):
        """Match; a shape of None takes a tensor away."""
        ours, theirs = (dict(of) | dict(change) for of, change in ((NAMES, names), (SHAPES, shapes)))
        some = [{name: np.zeros(shape, np.float32) for name, shape in of.items() if shape} for of in (ours, theirs)]
        model = open_model(write_gguf(tmp_path / "m.gguf", family, some[0], **(KEYS | dict(keys))))
        source = open_model(write_folder(tmp_path / "hf", some[1], **(CONFIG | config)))
        return match(model, source)

    return call


def of(found, name):
    return next(pair for pair in found.pairs if pair.tensor.name == name)


def test_every_tensor_has_its_source(matched):
    found = matched()
    assert {pair.tensor.name: tuple(one.name for one in pair.sources) for pair in found.pairs} == {
        ours: (theirs,) for ours, theirs in zip(NAMES, SHAPES, strict=True)
    }
    assert (found.missing, found.left_out, found.family) == ((), (), "llama")
    assert all(pair.problem is None and pair.strips for pair in found.pairs)


def test_heads_are_permuted(matched):
    found = matched()
    assert [pair.tensor.name for pair in found.pairs if pair.has(Kind.PERMUTED)] == [
        "blk.0.attn_q.weight",
        "blk.0.attn_k.weight",
    ]
    assert [strip.is_contiguous for strip in of(found, "blk.0.attn_q.weight").strips] == [False]


def test_names_in_mistrals_own_order_are_not_permuted(matched):
    shapes = {"model.layers.0.self_attn.q_proj.weight": None, "layers.0.attention.wq.weight": (16, 16)}
    pair = of(matched(shapes=shapes), "blk.0.attn_q.weight")
    assert not pair.has(Kind.PERMUTED)
    assert [strip.is_contiguous for strip in pair.strips] == [True]


def test_experts_are_stacked(matched):
    experts = {f"model.layers.0.block_sparse_moe.experts.{number}.w1.weight": (24, 16) for number in (1, 0, 2)}
    pair = of(matched({"blk.0.ffn_gate_exps.weight": (3, 24, 16)}, experts), "blk.0.ffn_gate_exps.weight")
    assert [source.name.split(".")[5] for source in pair.sources] == ["0", "1", "2"]
    assert pair.has(Kind.STACKED)
    assert (pair.problem, len(pair.strips)) == (None, 3)


def test_experts_of_several_shapes(matched):
    experts = {f"model.layers.0.block_sparse_moe.experts.{number}.w1.weight": (24 + number, 16) for number in (0, 1)}
    pair = of(matched({"blk.0.ffn_gate_exps.weight": (2, 24, 16)}, experts), "blk.0.ffn_gate_exps.weight")
    assert pair.problem == "its 2 sources have several shapes"


def test_another_shape_is_a_problem(matched):
    pair = of(matched({"blk.0.ffn_up.weight": (16, 24)}), "blk.0.ffn_up.weight")
    assert pair.problem == "its shape is 16 x 24, the source's 24 x 16"
    assert not pair.strips


def test_tokens_that_the_vocabulary_does_not_have(matched):
    pair = of(matched({"token_embd.weight": (7, 16)}), "token_embd.weight")
    assert (pair.rows_left_out, pair.problem) == (3, None)
    assert [strip.shape for strip in pair.strips] == [(7, 16)]


def test_an_output_that_is_the_embedding(matched):
    pair = of(matched({"output.weight": (10, 16)}), "output.weight")
    assert [source.name for source in pair.sources] == ["model.embed_tokens.weight"]
    shapes = {"lm_head.weight": (10, 16)}
    assert matched(shapes=shapes).missing[0][0] == "output.weight"
    tied = matched(shapes=shapes, tie_word_embeddings=True)
    assert (tied.missing, tied.left_out[0].why) == ((), "the same as the embedding")


def test_what_is_missing_left_out_and_of_unknown_place(matched):
    shapes = {
        "model.layers.0.mlp.down_proj.weight": (16, 24),
        "model.layers.0.self_attn.rotary_emb.inv_freq": (4,),
        "model.layers.1.mlp.up_proj.weight": (24, 16),
        "nobody.knows.this": (3,),
    }
    found = matched(shapes=shapes)
    assert [name for name, _ in found.missing] == ["blk.0.ffn_down.weight"]
    assert {one.tensor.name: one.why for one in found.left_out} == {
        "model.layers.0.self_attn.rotary_emb.inv_freq": "a table that is computed",
        "model.layers.1.mlp.up_proj.weight": "in a block that the GGUF leaves out",
        "nobody.knows.this": None,
    }


def test_a_tensor_without_a_namesake(matched):
    pair = of(matched({"blk.0.odd.weight": (3, 3)}), "blk.0.odd.weight")
    assert (pair.sources, pair.strips, pair.is_unsure) == ((), (), False)


def test_heads_of_which_nothing_is_known_have_candidates(matched):
    keys = {"attention.head_count": None, "attention.head_count_kv": None}
    found = matched(keys=keys, num_attention_heads=None, num_key_value_heads=None)
    pair = of(found, "blk.0.attn_q.weight")
    assert "number of its heads is not known" in pair.problem
    assert [len(one) for one in pair.candidates] == [1, 1, 1]  # heads of 16 rows, and of 8
    assert [one[0].is_contiguous for one in pair.candidates] == [True, False, False]


def test_too_few_namesakes_are_another_model(matched):
    others = dict.fromkeys(list(SHAPES)[2:]) | {f"nobody.{number}": (3,) for number in range(3)}
    with pytest.raises(NotTheSource, match="of its 5 tensors, 2 are in the checkpoint"):
        matched(shapes=others)


def test_an_unknown_architecture_is_unsure(matched):
    found = matched(family="nobodys", keys={})
    assert all(pair.is_unsure for pair in found.pairs)
    assert not any(pair.strips and pair.has(Kind.PERMUTED) for pair in found.pairs)
