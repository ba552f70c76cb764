"""What converters from Hugging Face checkpoints to GGUF do to values: one table, with the source of each row.

A row stands for the tensors of some architectures whose GGUF names match. It was read in llama.cpp's
converter, as of 2026: one file per family under ``conversion/``, before that one class per family in
``convert_hf_to_gguf.py``. Sources name the file and the class; what they mean is written anew here.

Two things are done to all models and need no row: every value that is not FP16 becomes F32 before
anything is computed (``conversion/base.py``, ``ModelBase.prepare_tensors``; FP16 is computed with in FP16),
and the shape is written in reverse. Dimensions of 1 that come and go (convolutions, Mamba2's A and D)
change no value either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

BLOCK = r"blk\.\d+\."
ANY_NORM = r".*norm\.weight"
QUERIES_AND_KEYS = BLOCK + r"attn_[qk]\.(weight|bias)"
GATE_AND_UP = BLOCK + r"ffn_(gate|up)_exps\.weight"
EXPERTS = BLOCK + r"ffn_(gate|up|down)_exps\.weight"


class Kind(StrEnum):
    """What is done to a tensor; the value reads on from "transformed by"."""

    ADDED = "adding"
    EXPONENTIAL = "-exp"
    PERMUTED = "permuting heads"
    TRANSPOSED = "transposing"
    RESHAPED = "reshaping"
    STACKED = "stacking"
    SPLIT = "splitting"
    REARRANGED = "rearranging"
    COMPUTED = "computing"
    MADE = "making it"


UNDONE = frozenset(set(Kind) - {Kind.COMPUTED, Kind.MADE})
"""What `truebits.trace` can do to a source's tensor itself.

REARRANGED keeps the values, in another order or split (`truebits.lineage.rearranging` has those that are
followed); COMPUTED makes other values of them; MADE tensors come from ``config.json`` and have no source.
"""


@dataclass(frozen=True)
class Transform:
    """One row: what a converter does to the tensors that match.

    Attributes
    ----------
    kind : Kind
    architectures : tuple of str
        As ``general.architecture`` spells them; ``clip:`` and the type of a projector; empty means all.
    names : str
        Regex for whole GGUF names.
    source : str
        File and class of the public converter.
    amount : float
        What is ADDED, in F32.
    """

    kind: Kind
    architectures: tuple[str, ...]
    names: str
    source: str
    amount: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.amount:.6g}" if self.kind is Kind.ADDED else str(self.kind)


def _added(architectures: str, names: str, source: str, amount: float = 1.0) -> Transform:
    return Transform(Kind.ADDED, tuple(architectures.split()), names, source, amount)


def _row(kind: Kind, architectures: str, names: str, source: str) -> Transform:
    return Transform(kind, tuple(architectures.split()), names, source)


TABLE = (
    # Norms that the model applies as 1 + w. Gemma 3n and Gemma 4 have norm_shift 0: see PLAIN.
    _added("gemma", ANY_NORM, "gemma.py, GemmaModel"),
    _added("gemma2", ANY_NORM, "gemma.py, Gemma2Model"),
    _added("gemma3", ANY_NORM, "gemma.py, Gemma3Model.norm_shift"),
    _added("gemma-embedding", ANY_NORM, "gemma.py, EmbeddingGemma (a Gemma3Model)"),
    _added("nemotron", ANY_NORM, "nemotron.py, NemotronModel: layernorm1p; biases as they are"),
    _added("qwen3next", rf"(?!{BLOCK}ssm_norm){ANY_NORM}", "qwen.py, Qwen3NextModel: all but linear_attn.norm"),
    _added("qwen35", rf"(?!{BLOCK}ssm_norm){ANY_NORM}", "qwen.py, Qwen3_5TextModel (a Qwen3NextModel)"),
    _added("qwen35moe", rf"(?!{BLOCK}ssm_norm){ANY_NORM}", "qwen.py, Qwen3_5MoeTextModel (a Qwen3NextModel)"),
    _added("step35", ANY_NORM, "step3.py, Step35Model"),
    _added("plamo2", rf"output_norm\.weight|{BLOCK}(attn|ffn)_norm\.weight", "plamo.py, Plamo2Model"),
    _added("plamo3", rf"output_norm\.weight|{BLOCK}(attn|ffn|attn_[qk])_norm\.weight", "plamo.py, Plamo3Model"),
    _added("plamo2 plamo3", BLOCK + r"post_attention_norm(\.weight)?", "plamo.py: post_mixer_norm", 1 / 5),
    _added("plamo2 plamo3", BLOCK + r"post_ffw_norm(\.weight)?", "plamo.py: post_mlp_norm", 1 / 5**1.5),
    _added("clip:gemma3", r"mm\.soft_emb_norm\.weight", "gemma.py, Gemma3VisionModel: the vision tower's as they are"),
    # A of state space models, kept as its logarithm.
    _row(Kind.EXPONENTIAL, "mamba", BLOCK + "ssm_a", "mamba.py, MambaModel"),
    _row(Kind.EXPONENTIAL, "mamba2", BLOCK + "ssm_a", "mamba.py, Mamba2Model"),
    _row(Kind.EXPONENTIAL, "falcon-h1", BLOCK + "ssm_a", "falcon_h1.py, FalconH1Model (a Mamba2Model)"),
    _row(Kind.EXPONENTIAL, "granitehybrid", BLOCK + "ssm_a", "granite.py, GraniteHybridModel (a Mamba2Model)"),
    _row(Kind.EXPONENTIAL, "nemotron_h nemotron_h_moe", BLOCK + "ssm_a", "nemotron.py, NemotronHModel"),
    _row(Kind.EXPONENTIAL, "jamba", BLOCK + "ssm_a", "jamba.py, JambaModel"),
    _row(Kind.EXPONENTIAL, "plamo2", BLOCK + "ssm_a", "plamo.py, Plamo2Model"),
    _row(Kind.EXPONENTIAL, "kimi-linear", BLOCK + "ssm_a", "kimi_linear.py, KimiLinearModel"),
    _row(Kind.EXPONENTIAL, "qwen3next qwen35 qwen35moe", BLOCK + "ssm_a", "qwen.py, Qwen3NextModel"),
    _row(Kind.RESHAPED, "mamba2", BLOCK + r"ssm_norm\.weight", "mamba.py, Mamba2Model: a row per group"),
    _row(
        Kind.RESHAPED,
        "falcon-h1 granitehybrid nemotron_h nemotron_h_moe",
        BLOCK + r"ssm_norm\.weight",
        "falcon_h1.py, granite.py, nemotron.py (Mamba2Models): a row per group",
    ),
    # Each head's rows from Hugging Face's order of halves to the order of pairs that ggml rotates.
    _row(
        Kind.PERMUTED,
        "llama arcee smollm3 llama-embed",
        QUERIES_AND_KEYS,
        "llama.py, LlamaModel.permute where undo_permute is set; ArceeModel, SmolLM3Model, LlamaEmbedNemotronModel",
    ),
    _row(Kind.PERMUTED, "mistral3", QUERIES_AND_KEYS, "mistral3.py, Ministral3Model (a LlamaModel)"),
    _row(Kind.PERMUTED, "granite granitemoe", QUERIES_AND_KEYS, "granite.py, GraniteModel (a LlamaModel)"),
    _row(Kind.PERMUTED, "granitehybrid", QUERIES_AND_KEYS, "granite.py, GraniteHybridModel.undo_permute"),
    _row(Kind.PERMUTED, "nemotron_h nemotron_h_moe", QUERIES_AND_KEYS, "nemotron.py, a GraniteHybridModel"),
    _row(Kind.PERMUTED, "deci", QUERIES_AND_KEYS, "deci.py, DeciModel.permute"),
    _row(Kind.PERMUTED, "llada", QUERIES_AND_KEYS, "llada.py, LLaDAModel.permute"),
    _row(Kind.PERMUTED, "chameleon", QUERIES_AND_KEYS, "chameleon.py, ChameleonModel"),
    _row(Kind.PERMUTED, "minicpm", BLOCK + r"attn_[qk]\.weight", "minicpm.py, MiniCPMModel"),
    _row(Kind.PERMUTED, "olmo", BLOCK + r"attn_[qk]\.weight", "olmo.py, OlmoModel"),
    _row(Kind.PERMUTED, "arctic", BLOCK + r"attn_[qk]\.weight", "arctic.py, ArcticModel"),
    _row(Kind.PERMUTED, "xverse", BLOCK + r"attn_[qk]\.weight", "xverse.py, XverseModel._reverse_hf_permute"),
    # Conv1D of GPT-2 holds its matrix the other way round.
    _row(
        Kind.TRANSPOSED,
        "gpt2 jais",
        BLOCK + r"(attn_qkv|attn_output|ffn_up|ffn_down|ffn_gate)\.weight",
        "gpt2.py, GPT2Model; jais.py, JaisModel",
    ),
    # One tensor of all experts, or of all heads.
    _row(Kind.STACKED, "llama", EXPERTS, "llama.py, LlamaModel: Mixtral"),
    _row(Kind.STACKED, "arctic", EXPERTS, "arctic.py, ArcticModel"),
    _row(Kind.STACKED, "jamba", EXPERTS, "jamba.py, JambaModel"),
    _row(Kind.STACKED, "qwen2moe qwen3moe qwen3next qwen35moe rnd1", EXPERTS, "qwen.py, Qwen2MoeModel"),
    _row(Kind.STACKED, "olmoe", EXPERTS, "olmo.py, OlmoeModel"),
    _row(Kind.STACKED, "lfm2moe", EXPERTS, "lfm2.py, LFM2MoeModel"),
    _row(Kind.STACKED, "llada-moe", EXPERTS, "llada.py, LLaDAMoEModel"),
    _row(Kind.STACKED, "phimoe", EXPERTS, "phi.py, PhiMoeModel"),
    _row(Kind.STACKED, "glm4moe", EXPERTS, "glm.py, Glm4MoeModel"),
    _row(Kind.STACKED, "exaone-moe", EXPERTS, "exaone.py, ExaoneMoEModel"),
    _row(Kind.STACKED, "deepseek2", EXPERTS, "deepseek.py, DeepseekV2Model"),
    _row(Kind.STACKED, "kimi-linear", EXPERTS, "kimi_linear.py, KimiLinearModel"),
    _row(Kind.STACKED, "nemotron_h_moe", EXPERTS, "nemotron.py, NemotronHModel: up and down"),
    _row(Kind.STACKED, "stablelm", BLOCK + r"attn_[qk]_norm\.weight", "stablelm.py, StableLMModel: a norm per head"),
    _row(Kind.SPLIT, "qwen2moe qwen3moe qwen3next qwen35moe rnd1", GATE_AND_UP, "qwen.py, Qwen2MoeModel: gate_up_proj"),
    # Fused, split and reordered: the same values elsewhere.
    _row(Kind.REARRANGED, "falcon", BLOCK + r"attn_qkv\.(weight|bias)", "falcon.py, FalconModel"),
    _row(Kind.REARRANGED, "bloom", BLOCK + r"attn_qkv\.(weight|bias)", "bloom.py, BloomModel"),
    _row(Kind.REARRANGED, "gptneox", BLOCK + r"attn_qkv\.(weight|bias)", "gptneox.py, GPTNeoXModel"),
    _row(Kind.REARRANGED, "plamo", BLOCK + r"attn_(q|output)\.weight", "plamo.py, PlamoModel: shuffled for GQA"),
    _row(Kind.REARRANGED, "baichuan", BLOCK + r"attn_[qkv]\.weight", "baichuan.py, BaichuanModel: W_pack"),
    _row(Kind.REARRANGED, "internlm2", BLOCK + r"attn_[qkv]\.weight", "internlm.py, InternLM2Model: wqkv"),
    _row(Kind.REARRANGED, "refact", BLOCK + r"(attn_[kv]|ffn_gate|ffn_up)\.weight", "refact.py, RefactModel"),
    _row(Kind.REARRANGED, "glm4", BLOCK + r"attn_[qk]\.(weight|bias)", "glm.py, Glm4Model: for M-RoPE only"),
    _row(Kind.REARRANGED, "grok", EXPERTS, "grok.py, GrokModel: joined, then stacked"),
    _row(Kind.REARRANGED, "dbrx", EXPERTS, "dbrx.py, DbrxModel: one matrix of all experts; w2 transposed"),
    _row(Kind.REARRANGED, "llama4", EXPERTS, "llama.py, Llama4Model: transposed, gate and up split"),
    _row(Kind.REARRANGED, "gpt-oss", BLOCK + r"ffn_(gate|up|down)_exps\.(weight|bias)", "gpt_oss.py, GptOssModel"),
    _row(
        Kind.REARRANGED,
        "granitemoe granitehybrid",
        BLOCK + r"ffn_(gate|up)(_exps|_shexp|)\.weight",
        "granite.py, GraniteMoeModel: input_linear split",
    ),
    _row(
        Kind.REARRANGED,
        "deepseek2 kimi-linear",
        BLOCK + r"attn_[kv]_b\.weight",
        "deepseek.py, DeepseekV2Model; kimi_linear.py: kv_b_proj split, K transposed",
    ),
    _row(
        Kind.REARRANGED,
        "qwen3next",
        BLOCK + r"(attn_qkv|attn_gate)\.weight",
        "qwen.py, Qwen3NextModel: in_proj_qkvz split",
    ),
    _row(
        Kind.REARRANGED,
        "qwen35 qwen35moe",
        BLOCK + r"(attn_qkv|attn_gate|ssm_alpha|ssm_beta|ssm_out|ssm_conv1d)\.weight|" + BLOCK + r"ssm_(a|dt\.bias)",
        "qwen.py, _LinearAttentionVReorderBase: where value heads outnumber key heads",
    ),
    # Other values.
    _row(
        Kind.COMPUTED,
        "falcon-h1",
        r"(token_embd|output)\.weight|"
        + BLOCK
        + r"(attn_[qkv]|attn_output|ffn_gate|ffn_down|ssm_in|ssm_out)\.(weight|bias)",
        "falcon_h1.py, FalconH1Model: times the multipliers of config.json",
    ),
    _row(
        Kind.COMPUTED,
        "bitnet",
        BLOCK + r"(attn_[qkv]|attn_output|ffn_gate|ffn_up|ffn_down)\.weight",
        "bitnet.py, BitnetModel.weight_quant: -1, 0, 1 times the mean magnitude",
    ),
    _row(Kind.COMPUTED, "jais", r"(token_embd|output)\.weight", "jais.py, JaisModel: times the muP scales"),
    _row(Kind.COMPUTED, "chameleon", BLOCK + r"attn_[qk]_norm\.(weight|bias)", "chameleon.py: first row, repeated"),
    # No source at all.
    _row(Kind.MADE, "", r"rope_freqs\.weight", "llama.py, LlamaModel.generate_extra_tensors, and others: rope_scaling"),
    _row(Kind.MADE, "", r"rope_factors_(long|short)\.weight", "phi.py, minicpm.py: rope_scaling's factors"),
)

PLAIN = {
    "qwen": "qwen.py, QwenModel",
    "qwen2": "qwen.py, Qwen2Model",
    "qwen3": "qwen.py, Qwen3Model",
    "gemma3n": "gemma.py, Gemma3NModel.norm_shift is 0",
    "gemma4": "gemma.py, Gemma4Model.norm_shift is 0",
    "apertus": "llama.py, ApertusModel: undo_permute is off",
    "command-r": "command_r.py, CommandR2Model",
    "cohere2": "command_r.py, Cohere2Model",
    "exaone": "exaone.py, ExaoneModel",
    "exaone4": "exaone.py, Exaone4Model",
    "jais2": "jais.py, Jais2Model",
    "lfm2": "lfm2.py, LFM2Model",
    "minicpm3": "minicpm.py, MiniCPM3Model",
    "mpt": "mpt.py, MPTModel",
    "olmo2": "olmo.py, Olmo2Model",
    "orion": "orion.py, OrionModel",
    "phi2": "phi.py, Phi2Model",
    "phi3": "phi.py, Phi3MiniModel",
    "seed_oss": "olmo.py, SeedOssModel",
    "starcoder": "starcoder.py, StarCoderModel",
    "starcoder2": "starcoder.py, StarCoder2Model",
}
"""Architectures whose converter was read, and leaves all values as they are."""


def is_known(architecture: str | None) -> bool:
    """Tell whether it is known what converters do to an architecture's values."""
    return architecture in PLAIN or any(architecture in row.architectures for row in TABLE)


def is_changed(architecture: str | None) -> bool:
    """Tell whether converters add to, or exponentiate, values of an architecture's tensors."""
    return any(row.kind in (Kind.ADDED, Kind.EXPONENTIAL) and architecture in row.architectures for row in TABLE)


def is_made(tensor_name: str) -> bool:
    """Tell whether converters make a GGUF tensor themselves, of ``config.json``."""
    return any(row.kind is Kind.MADE and re.fullmatch(row.names, tensor_name) for row in TABLE)


@cache
def transforms_of(architecture: str | None, tensor_name: str) -> tuple[Transform, ...]:
    """Return the rows for one GGUF tensor, in the order in which a converter applies them."""
    return tuple(
        row
        for row in TABLE
        if (not row.architectures or architecture in row.architectures) and re.fullmatch(row.names, tensor_name)
    )


def shift_of(architecture: str | None, tensor_name: str) -> float:
    """Return what a converter adds, in F32, to the values of a tensor: 1.0 for Gemma's norms, mostly 0.0.

    Parameters
    ----------
    architecture : str or None
        The GGUF's ``general.architecture``. One that is not `is_known` gets 0.0.
    tensor_name : str
        As in the GGUF.
    """
    return sum(row.amount for row in transforms_of(architecture, tensor_name) if row.kind is Kind.ADDED)
