"""What converters split, join and reorder, done to outlines of a checkpoint's tensors.

Each row was read in llama.cpp's converter (one file per family under ``conversion/``), and is held to what
that converter writes. Rows follow the table of `truebits.precision.converters`, which names file and class.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from truebits.lineage.facts import Facts
from truebits.lineage.layout import Arrange
from truebits.lineage.names import block_of

Views = list[np.ndarray]


class Splitter(Protocol):
    """From an outline of the source, the number of a target, and the facts: the target's views."""

    def __call__(self, outline: np.ndarray, number: int, facts: Facts) -> Views: ...


class Rearrangement(NamedTuple):
    r"""One row.

    Attributes
    ----------
    architectures : frozenset of str
        Empty means all.
    source : str
        Regex for the end of a Hugging Face name.
    targets : tuple of str
        GGUF names in the block that the source becomes, ``\1`` being what the regex has found.
    arrange : Splitter
    """

    architectures: frozenset[str]
    source: str
    targets: tuple[str, ...]
    arrange: Splitter


class Target(NamedTuple):
    """Where a source goes, and how."""

    name: str
    arrange: Arrange


def _row(architectures: str, source: str, targets: str, arrange: Splitter) -> Rearrangement:
    return Rearrangement(frozenset(architectures.split()), source, tuple(targets.split()), arrange)


def permuted(outline: np.ndarray, heads: int) -> np.ndarray:
    """Put each head's rows from the order of halves to the order of pairs that ggml rotates.

    Raises
    ------
    ValueError
        The rows are not heads of an even size.
    """
    rows = outline.shape[0]
    if rows % (2 * heads):
        raise ValueError(f"its {rows} rows are not {heads} heads of an even size")
    return outline.reshape(heads, 2, rows // heads // 2, *outline.shape[1:]).swapaxes(1, 2)


def _query_heads(facts: Facts) -> int:
    return facts.size("num_attention_heads", "n_head", "n_heads")


def _key_heads(facts: Facts) -> int:
    return facts.size("num_key_value_heads", "num_attention_heads")


def _by_heads(outline: np.ndarray, number: int, facts: Facts) -> Views:
    heads = _query_heads(facts)
    parts = outline.reshape(heads, 3, -1, *outline.shape[1:])
    return [parts[:, part] for part in range(3)]


def _by_groups(outline: np.ndarray, number: int, facts: Facts) -> Views:
    heads = _query_heads(facts)
    try:
        groups = facts.size("num_kv_heads", "n_head_kv")
    except ValueError:
        groups = 1
    parts = outline.reshape(groups, heads // groups + 2, -1, *outline.shape[1:])
    return [parts[:, :-2], parts[:, -2], parts[:, -1]]


def _internlm(outline: np.ndarray, number: int, facts: Facts) -> Views:
    heads, groups = _query_heads(facts), _key_heads(facts)
    each = heads // groups
    parts = outline.reshape(groups, each + 2, -1, outline.shape[1])
    if number == 2:
        return [parts[:, -1]]
    halves = parts.reshape(groups, each + 2, 2, -1, outline.shape[1]).swapaxes(2, 3)
    return [halves[:, :each] if number == 0 else halves[:, each]]


def _packed(outline: np.ndarray, number: int, facts: Facts) -> Views:
    part = outline.reshape(3, -1, *outline.shape[1:])[number]
    return [part] if number == 2 else [permuted(part, _query_heads(facts))]


def _in_order(outline: np.ndarray, number: int, facts: Facts) -> Views:
    """Query, key and value rows one after the other; heads permuted by ``bailingmoe``."""
    heads, groups = _query_heads(facts), _key_heads(facts)
    each = outline.shape[0] // (heads + 2 * groups)
    starts = (0, heads * each, (heads + groups) * each, outline.shape[0])
    part = outline[starts[number] : starts[number + 1]]
    if facts.architecture == "bailingmoe" and number < 2:
        return [permuted(part, heads if number == 0 else groups)]
    return [part]


def _refact(outline: np.ndarray, number: int, facts: Facts) -> Views:
    each = facts.size("n_embd") // _query_heads(facts)
    return [outline[each:] if number else outline[:each]]


def _latent(outline: np.ndarray, number: int, facts: Facts) -> Views:
    heads, values = _key_heads(facts), facts.size("v_head_dim")
    parts = outline.reshape(heads, -1, outline.shape[-1])
    keys = parts.shape[1] - values
    return [parts[:, keys:] if number else parts[:, :keys].swapaxes(1, 2)]


def _alternating(outline: np.ndarray, number: int, facts: Facts) -> Views:
    if outline.ndim == 3:
        outline = outline.swapaxes(-1, -2)
        return [outline[:, number::2]]
    return [outline[:, number::2]]


def _swapped(outline: np.ndarray, number: int, facts: Facts) -> Views:
    return [outline.swapaxes(-1, -2)] if outline.ndim == 3 else [outline]


def _swapped_halves(outline: np.ndarray, number: int, facts: Facts) -> Views:
    return _halves(outline.swapaxes(-1, -2), number, facts)


def _halves(outline: np.ndarray, number: int, facts: Facts) -> Views:
    half = outline.shape[-2] // 2
    return [outline[..., number * half : (number + 1) * half, :]]


def _dbrx(outline: np.ndarray, number: int, facts: Facts) -> Views:
    parts = outline.reshape(facts.size("ffn_config.moe_num_experts"), -1, outline.shape[-1])
    return [parts]


def _dbrx_down(outline: np.ndarray, number: int, facts: Facts) -> Views:
    return [_dbrx(outline, number, facts)[0].swapaxes(1, 2)]


def _nomic(outline: np.ndarray, number: int, facts: Facts) -> Views:
    return [outline.reshape(facts.size("num_local_experts", "num_experts"), -1, outline.shape[-1])]


def _nomic_down(outline: np.ndarray, number: int, facts: Facts) -> Views:
    return [_nomic(outline, number, facts)[0].swapaxes(1, 2)]


def _linear_attention(facts: Facts) -> tuple[int, int, int, int]:
    """Return heads of keys, values for each of them, and the sizes of a key's and a value's head."""
    keys, values = facts.size("linear_num_key_heads"), facts.size("linear_num_value_heads")
    return keys, values // keys, facts.size("linear_key_head_dim"), facts.size("linear_value_head_dim")


def _qkvz(outline: np.ndarray, number: int, facts: Facts) -> Views:
    keys, each, key, value = _linear_attention(facts)
    parts = outline.reshape(keys, 2 * key + 2 * each * value, outline.shape[-1])
    starts = 0, key, 2 * key, 2 * key + each * value
    if number:
        return [parts[:, starts[3] :]]
    return [parts[:, starts[i] : starts[i + 1]] for i in range(3)]


def _tiled(outline: np.ndarray, facts: Facts, head: int) -> np.ndarray:
    keys, each, _, _ = _linear_attention(facts)
    return outline.reshape(keys, each, head, *outline.shape[1:]).swapaxes(0, 1)


def _tiled_values(outline: np.ndarray, number: int, facts: Facts) -> Views:
    return [_tiled(outline, facts, _linear_attention(facts)[3])]


def _tiled_heads(outline: np.ndarray, number: int, facts: Facts) -> Views:
    return [_tiled(outline, facts, 1)]


def _tiled_after_keys(outline: np.ndarray, number: int, facts: Facts) -> Views:
    keys, _, key, value = _linear_attention(facts)
    start = 2 * keys * key
    return [outline[:start], _tiled(outline[start:], facts, value)]


def _tiled_columns(outline: np.ndarray, number: int, facts: Facts) -> Views:
    keys, each, _, value = _linear_attention(facts)
    return [outline.reshape(-1, keys, each, value).swapaxes(1, 2)]


def _grouped_queries(outline: np.ndarray, number: int, facts: Facts) -> Views:
    return [outline.reshape(8, 5, 128, -1).swapaxes(0, 1)]


def _grouped_outputs(outline: np.ndarray, number: int, facts: Facts) -> Views:
    return [outline.reshape(-1, 8, 5, 128).swapaxes(1, 2)]


def _frames(outline: np.ndarray, number: int, facts: Facts) -> Views:
    """Qwen2-VL's convolution over two frames."""
    return [outline[:, :, number]]


QKV = r"query_key_value\.(weight|bias)"
FUSED_QKV = r"\.(?:qkv_proj|W_pack|query_key_value|Wqkv)\.(weight|bias)"
FUSED_EXPERTS = r"\.experts\.gate_up_proj(?:\.weight)?"
GATE_UP_EXPERTS = "ffn_gate_exps.weight ffn_up_exps.weight"
QWEN35 = "qwen35 qwen35moe"

TABLE = (
    _row("bloom gptneox", QKV, r"attn_qkv.\1", _by_heads),
    _row("falcon", QKV, r"attn_qkv.\1", _by_groups),
    _row("internlm2", r"attention\.wqkv\.(weight)", r"attn_q.\1 attn_k.\1 attn_v.\1", _internlm),
    _row("baichuan", r"self_attn\.W_pack\.(weight)", r"attn_q.\1 attn_k.\1 attn_v.\1", _packed),
    _row("", FUSED_QKV, r"attn_q.\1 attn_k.\1 attn_v.\1", _in_order),
    _row("refact", r"attn\.kv\.(weight)", r"attn_k.\1 attn_v.\1", _refact),
    _row("", r"kv_b_proj\.(weight)", r"attn_k_b.\1 attn_v_b.\1", _latent),
    _row("gpt-oss", r"experts\.gate_up_proj", GATE_UP_EXPERTS, _alternating),
    _row("gpt-oss", r"experts\.gate_up_proj_bias", "ffn_gate_exps.bias ffn_up_exps.bias", _alternating),
    _row("gpt-oss llama4", r"experts\.down_proj", "ffn_down_exps.weight", _swapped),
    _row("llama4", FUSED_EXPERTS, GATE_UP_EXPERTS, _swapped_halves),
    _row("dbrx", r"ffn\.experts\.mlp\.w1", "ffn_gate_exps.weight", _dbrx),
    _row("dbrx", r"ffn\.experts\.mlp\.v1", "ffn_up_exps.weight", _dbrx),
    _row("dbrx", r"ffn\.experts\.mlp\.w2", "ffn_down_exps.weight", _dbrx_down),
    _row("nomic-bert-moe", r"mlp\.experts\.mlp\.w1", "ffn_up_exps.weight", _nomic),
    _row("nomic-bert-moe", r"mlp\.experts\.mlp\.w2", "ffn_down_exps.weight", _nomic_down),
    _row("", FUSED_EXPERTS + r"|block_sparse_moe\.input_linear\.weight", GATE_UP_EXPERTS, _halves),
    _row("", r"shared_mlp\.input_linear\.weight", "ffn_gate_shexp.weight ffn_up_shexp.weight", _halves),
    _row(
        "", r"(?:shared_mlp\.input_linear|gate_up_proj|up_gate_proj)\.weight", "ffn_gate.weight ffn_up.weight", _halves
    ),
    _row("", r"shared_mlp\.output_linear\.weight", "ffn_down.weight", lambda outline, number, facts: [outline]),
    _row("qwen3next", r"in_proj_qkvz\.weight", "attn_qkv.weight attn_gate.weight", _qkvz),
    _row(QWEN35, r"linear_attn\.in_proj_qkv\.weight", "attn_qkv.weight", _tiled_after_keys),
    _row(QWEN35, r"linear_attn\.conv1d\.weight", "ssm_conv1d.weight", _tiled_after_keys),
    _row(QWEN35, r"linear_attn\.in_proj_z\.weight", "attn_gate.weight", _tiled_values),
    _row(QWEN35, r"linear_attn\.in_proj_a\.weight", "ssm_alpha.weight", _tiled_heads),
    _row(QWEN35, r"linear_attn\.in_proj_b\.weight", "ssm_beta.weight", _tiled_heads),
    _row(QWEN35, r"linear_attn\.A_log", "ssm_a", _tiled_heads),
    _row(QWEN35, r"linear_attn\.dt_bias", "ssm_dt.bias", _tiled_heads),
    _row(QWEN35, r"linear_attn\.out_proj\.weight", "ssm_out.weight", _tiled_columns),
    _row("clip", r"patch_embed\.proj\.weight", "v.patch_embd.weight v.patch_embd.weight.1", _frames),
    _row("plamo", r"self_attn\.q_proj\.weight", "attn_q.weight", _grouped_queries),
    _row("plamo", r"self_attn\.o_proj\.weight", "attn_output.weight", _grouped_outputs),
)


def targets(name: str, known: Collection[str], facts: Facts) -> Sequence[Target]:
    """Return what a tensor of a checkpoint is split into or reordered to; nothing if it stays as it is.

    A row counts only where the GGUF has (`known`) all that it would make: other versions of the converter
    leave whole what some split.
    """
    block = block_of(name)
    for row in TABLE:
        is_of = not row.architectures or facts.architecture in row.architectures
        if not is_of or not (at := re.search(f"(?:{row.source})$", name)):
            continue
        start = "" if facts.architecture == "clip" else f"blk.{block}."
        made = [start + at.expand(target) for target in row.targets]
        if all(target in known for target in made):
            return [
                Target(target, partial(row.arrange, number=number, facts=facts)) for number, target in enumerate(made)
            ]
    return ()
