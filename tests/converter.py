"""Small checkpoints, and a converter of them to GGUF: written for the tests alone, it shares nothing with truebits.

Every step is done the slow way: heads are permuted row by row, names stand in a table.
"""

from __future__ import annotations

import json
from pathlib import Path
from struct import pack

import gguf
import ml_dtypes
import numpy as np

from models import finish

DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16), "F64": np.dtype("<f8")}
HIDDEN, HEADS, KV_HEADS, FEED_FORWARD, VOCABULARY, BLOCKS, EXPERTS = 256, 4, 2, 256, 32, 2, 4
HEAD = HIDDEN // HEADS

CONFIG = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "num_hidden_layers": BLOCKS,
    "tie_word_embeddings": False,
}

EMBEDDINGS = "embed_tokens", "norm"

WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "backbone.embeddings.weight": "token_embd.weight",
    "backbone.norm_f.weight": "output_norm.weight",
}
IN_BLOCK = {
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "block_sparse_moe.gate.weight": "ffn_gate_inp.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mixer.A_log": "ssm_a",
    "mixer.norm.weight": "ssm_norm.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.conv1d.weight": "ssm_conv1d.weight",
    "norm.weight": "attn_norm.weight",
}
EXPERT = {"w1": "ffn_gate_exps.weight", "w2": "ffn_down_exps.weight", "w3": "ffn_up_exps.weight"}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write arrays of the dtypes of `DTYPES`."""
    header, offset = {}, 0
    for name, array in tensors.items():
        dtype = next(key for key, dtype in DTYPES.items() if dtype == array.dtype)
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in tensors.values()))


def checkpoint(family: str = "llama", dtype: str = "BF16", seed: int = 0) -> dict[str, np.ndarray]:
    """Draw a checkpoint: weights as trained ones are, norms around 1, or around 0 where a model adds 1."""
    random = np.random.default_rng(seed)
    start, embeddings, norm = ("backbone", "embeddings", "norm_f") if family == "mamba2" else ("model", *EMBEDDINGS)
    shapes = {f"{start}.{embeddings}.weight": (VOCABULARY, HIDDEN), f"{start}.{norm}.weight": (HIDDEN,)}
    if family != "gemma":
        shapes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    for block in range(BLOCKS):
        shapes |= {f"{start}.layers.{block}.{name}": shape for name, shape in _block_shapes(family).items()}
    drawn = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape) * 0.02
        if "norm" in name and family != "gemma":
            values = 1 + 5 * values
        if "A_log" in name:
            values = np.log(1 + 15 * random.random(shape))
        drawn[name] = values.astype(DTYPES[dtype])
    return drawn


def _block_shapes(family: str) -> dict[str, tuple[int, ...]]:
    if family == "mamba2":
        return {
            "mixer.A_log": (8,),
            "mixer.norm.weight": (HIDDEN,),
            "mixer.in_proj.weight": (HIDDEN, HIDDEN),
            "mixer.conv1d.weight": (HIDDEN, 1, 4),
            "norm.weight": (HIDDEN,),
        }
    shapes = {
        "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        "self_attn.k_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.v_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
    }
    if family == "mixtral":
        shapes["block_sparse_moe.gate.weight"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for name in EXPERT:
                shapes[f"block_sparse_moe.experts.{expert}.{name}.weight"] = (HIDDEN, HIDDEN)
        return shapes
    if family == "llama":
        shapes["self_attn.q_proj.bias"] = (HIDDEN,)
    return shapes | {
        "mlp.gate_proj.weight": (FEED_FORWARD, HIDDEN),
        "mlp.up_proj.weight": (FEED_FORWARD, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, FEED_FORWARD),
    }


def converted(family: str, drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Do to a checkpoint what a converter does; values as float32, under the names of a GGUF."""
    made: dict[str, np.ndarray] = {}
    for name, array in drawn.items():
        values = array.astype(np.float32)
        if family == "gemma" and name.endswith("norm.weight"):
            values = values + np.float32(1) if array.dtype != np.float16 else (array + np.float16(1)).astype(np.float32)
        if name.endswith("A_log"):
            values = -np.exp(values)[:, None]
        if name.endswith("mixer.norm.weight"):
            values = values.reshape(2, -1)
        if name.endswith("conv1d.weight"):
            values = values[:, 0]
        if family in ("llama", "mixtral") and ".q_proj." in name:
            values = permuted(values, HEADS)
        if family in ("llama", "mixtral") and ".k_proj." in name:
            values = permuted(values, KV_HEADS)
        if name in WHOLE:
            made[WHOLE[name]] = values
            continue
        _, _, block, rest = name.split(".", 3)
        if ".experts." in name:
            expert, which = int(rest.split(".")[2]), rest.split(".")[3]
            home = made.setdefault(f"blk.{block}.{EXPERT[which]}", np.zeros((EXPERTS, *values.shape), np.float32))
            home[expert] = values
        else:
            made[f"blk.{block}.{IN_BLOCK[rest]}"] = values
    return made


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Put the rows of each head's halves in pairs: 0, n/2, 1, n/2 + 1, ..."""
    result = np.empty_like(values)
    size = len(values) // heads
    for head in range(heads):
        for row in range(size // 2):
            result[head * size + 2 * row] = values[head * size + row]
            result[head * size + 2 * row + 1] = values[head * size + size // 2 + row]
    return result


def stored(values: np.ndarray, type: str) -> np.ndarray:
    """Return float32 values as what a GGUF writer takes for a type."""
    if type in ("F32", "F16"):
        with np.errstate(over="ignore"):
            return values.astype(DTYPES[type])
    if type.endswith("_K"):
        from truebits.quantizers.ggml import quantize

        return quantize(values.reshape(-1, 256), gguf.GGMLQuantizationType[type]).reshape(*values.shape[:-1], -1)
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType[type])


def write_gguf(
    path: Path, family: str, tensors: dict[str, np.ndarray], type: str = "F32", **keys: int | list[int] | None
) -> Path:
    """Write values, or what is stored for them where an array is not float32, with the metadata of a family.

    Norms, vectors and routers stay F32, as converters have it.
    """
    architecture = {"mixtral": "llama"}.get(family, family)
    writer = gguf.GGUFWriter(path, architecture)
    numbers = {
        "block_count": BLOCKS,
        "embedding_length": HIDDEN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
    }
    for key, number in (numbers | keys).items():
        if isinstance(number, list):
            writer.add_array(f"{architecture}.{key}", number)
        elif number is not None:
            writer.add_uint32(f"{architecture}.{key}", number)
    for name, values in tensors.items():
        is_plain = values.ndim == 1 or "norm" in name or "gate_inp" in name or "ssm_a" in name or "conv1d" in name
        own = "F32" if is_plain else type
        if values.dtype == np.float32:
            writer.add_tensor(name, stored(values, own), raw_dtype=gguf.GGMLQuantizationType[own])
        elif values.dtype == np.float16:
            writer.add_tensor(name, values)
        elif values.dtype == np.uint16:  # words of BF16
            writer.add_tensor(name, values.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[type])
    finish(writer)
    return path


def write_folder(folder: Path, drawn: dict[str, np.ndarray], **config: object) -> Path:
    """Write a checkpoint as a Hugging Face folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    write_safetensors(folder / "model.safetensors", drawn)
    return folder
