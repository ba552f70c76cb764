"""Hugging Face names to GGUF names: as public checkpoints spell them, and what headers tell."""

import pytest

from truebits.lineage.names import Names, block_of, is_number, why_left_out

NAMES = [
    ("llama", "model.layers.31.self_attn.q_proj.weight", "blk.31.attn_q.weight"),
    ("llama", "layers.1.attention.wq.weight", "blk.1.attn_q.weight"),
    ("llama", "tok_embeddings.weight", "token_embd.weight"),
    ("llama", "model.layers.11.block_sparse_moe.experts.7.w2.weight", "blk.11.ffn_down_exps.weight 7"),
    ("llama", "vision_tower.vision_model.embeddings.patch.weight", None),
    ("llama", "model.layers.0.mlp.down_proj.weight_scale_inv", None),
    ("qwen2", "layers.1.self_attn.q_proj.weight", "blk.1.attn_q.weight"),
    ("qwen2moe", "model.layers.3.mlp.experts.59.gate_proj.weight", "blk.3.ffn_gate_exps.weight 59"),
    ("qwen3moe", "model.layers.3.mlp.gate.weight", "blk.3.ffn_gate_inp.weight"),
    ("qwen3next", "model.layers.3.mlp.shared_expert_gate.weight", "blk.3.ffn_gate_inp_shexp.weight"),
    ("qwen3next", "model.layers.3.linear_attn.in_proj_ba.weight", "blk.3.ssm_ba.weight"),
    ("qwen35", "model.language_model.layers.3.linear_attn.A_log", "blk.3.ssm_a"),
    ("qwen35", "model.language_model.layers.3.linear_attn.dt_bias", "blk.3.ssm_dt.bias"),
    ("qwen35moe", "model.language_model.layers.1.mlp.experts.gate_up_proj", "blk.1.ffn_gate_up_exps.weight"),
    ("qwen35moe", "model.language_model.layers.1.mlp.experts.down_proj", "blk.1.ffn_down_exps.weight"),
    ("qwen3vl", "model.visual.blocks.1.attn.qkv.weight", None),
    ("gemma3", "language_model.model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight"),
    ("gemma3", "model.language_model.embed_tokens.weight", "token_embd.weight"),
    ("gemma2", "model.layers.4.post_feedforward_layernorm.weight", "blk.4.post_ffw_norm.weight"),
    ("deepseek2", "model.layers.3.mlp.experts.5.up_proj.weight", "blk.3.ffn_up_exps.weight 5"),
    ("plamo2", "model.layers.layers.4.mixer.B_norm_weight", "blk.4.ssm_b_norm"),
    ("plamo2", "model.layers.layers.4.post_mixer_norm.weight", "blk.4.post_attention_norm"),
    ("mamba", "backbone.layers.9.mixer.A_log", "blk.9.ssm_a"),
    ("mamba2", "backbone.layers.9.mixer.dt_bias", "blk.9.ssm_dt.bias"),
    ("falcon-h1", "model.layers.1.mamba.dt_bias", "blk.1.ssm_dt.bias"),
    ("granitehybrid", "model.layers.1.mamba.A_log", "blk.1.ssm_a"),
    ("nemotron_h_moe", "backbone.layers.7.mixer.experts.3.up_proj.weight", "blk.7.ffn_up_exps.weight 3"),
    ("jamba", "model.layers.3.feed_forward.experts.2.down_proj.weight", "blk.3.ffn_down_exps.weight 2"),
    ("lfm2moe", "model.layers.1.feed_forward.experts.3.w1.weight", "blk.1.ffn_gate_exps.weight 3"),
    ("phimoe", "model.layers.1.block_sparse_moe.experts.3.w1.weight", "blk.1.ffn_gate_exps.weight 3"),
    ("stablelm", "model.layers.2.self_attn.q_layernorm.norms.3.weight", "blk.2.attn_q_norm.weight 3"),
    ("phi3", "model.layers.0.self_attn.qkv_proj.weight", "blk.0.attn_qkv.weight"),
    ("gpt2", "h.5.attn.c_attn.weight", "blk.5.attn_qkv.weight"),
    ("falcon", "transformer.h.1.self_attention.query_key_value.weight", "blk.1.attn_qkv.weight"),
    ("bert", "encoder.layer.0.attention.self.query.weight", "blk.0.attn_q.weight"),
]


@pytest.mark.parametrize(("architecture", "name", "expected"), NAMES)
def test_names(architecture, name, expected):
    found, number = Names(architecture).find(name, set())
    wanted, _, of = (expected or "").partition(" ")
    assert (found, number) == (wanted or None, int(of or 0))


def test_of_several_readings_the_one_that_the_gguf_has_is_taken():
    names = Names("mamba2")
    assert names.find("backbone.layers.0.norm.weight", {"blk.0.attn_norm.weight"}) == ("blk.0.attn_norm.weight", 0)


def test_a_number_that_is_no_block():
    assert block_of("blk.12.attn_q.weight") == 12
    assert block_of("output.weight") is None
    assert block_of(f"blk.{'9' * 5000}.attn_q.weight") is None
    assert Names("llama").find(f"model.layers.{'9' * 5000}.self_attn.q_proj.weight", set()) == (None, 0)


def test_an_architecture_that_gguf_py_does_not_know():
    """All names of the others are tried, and the GGUF tells which is meant."""
    names = Names("no\x1bsuch")
    norm = "model.layers.3.post_attention_layernorm.weight"
    for known in ("blk.3.ffn_norm.weight", "blk.3.post_attention_norm.weight"):
        assert names.find(norm, {known}) == (known, 0)
    assert names.find(norm, set()) == (None, 0)


def test_one_architecture_does_not_change_the_names_of_the_next():
    norm = "model.layers.0.post_attention_layernorm.weight"
    assert Names("arctic").find(norm, set()) == ("blk.0.ffn_norm_exps.weight", 0)
    assert Names("llama").find(norm, set()) == ("blk.0.ffn_norm.weight", 0)


@pytest.mark.parametrize(
    ("architecture", "name", "known"),
    [
        ("deepseek2", "model.layers.1.mlp.gate.e_score_correction_bias", "blk.1.exp_probs_b.bias"),
        ("gpt-oss", "model.layers.1.self_attn.sinks", "blk.1.attn_sinks.weight"),
        ("gpt-oss", "model.layers.1.mlp.experts.down_proj_bias", "blk.1.ffn_down_exps.bias"),
        ("gemma4", "model.language_model.layers.1.layer_scalar", "blk.1.layer_output_scale.weight"),
        ("bloom", "transformer.word_embeddings_layernorm.weight", "token_embd_norm.weight"),
        ("qwen35", "mtp.fc.weight", "blk.2.nextn.eh_proj.weight"),
        ("qwen35", "mtp.norm.weight", "blk.2.nextn.shared_head_norm.weight"),
        ("qwen35", "mtp.layers.0.self_attn.q_proj.weight", "blk.2.attn_q.weight"),
        ("gemma3n", "model.altup_projections.2.weight", "altup_proj.weight"),
        ("clip", "multi_modal_projector.mm_input_projection_weight", "mm.input_projection.weight"),
    ],
)
def test_names_that_only_the_gguf_tells(architecture, name, known):
    found, _ = Names(architecture, 2).find(name, {known})
    assert found == known


@pytest.mark.parametrize(
    ("word", "expected"),
    [("0", True), ("12", True), ("", False), ("a", False), ("-1", False), ("9" * 9, True), ("9" * 10, False)],
)
def test_what_is_a_number(word, expected):
    assert is_number(word) == expected


@pytest.mark.parametrize(
    ("name", "architecture", "expected"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "llama", "a table that is computed"),
        ("h.0.attn.masked_bias", "gpt2", "a table that is computed"),
        ("embeddings.position_ids", "bert", "a table that is computed"),
        ("model.layers.0.self_attn.k_scale", "llama", "a scale of activations"),
        ("model.layers.0.mlp.act_fn.beta", "apertus", "kept as metadata"),
        ("pooler.dense.weight", "bert", "of a head for another task"),
        ("pooler.dense.weight", "llama", None),
        ("model.visual.blocks.0.attn.qkv.weight", "qwen2vl", "of another modality"),
        ("model.visual.blocks.0.attn.qkv.weight", "clip", None),
        ("model.layers.0.self_attn.q_proj.weight", "clip", "of the language model"),
        ("model.layers.0.self_attn.q_proj.weight", "llama", None),
        ("lm_head.weight", "llama", None),
    ],
)
def test_what_no_converter_writes(name, architecture, expected):
    assert why_left_out(name, architecture) == expected
