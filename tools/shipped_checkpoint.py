"""Write the checkpoint of the shipped model as Hugging Face would hold it: the folder `hf` of the README.

    python tools/shipped_checkpoint.py hf

Matrices in F32, norms in BF16: what ``model-q8_0.gguf`` was made from. Needs truebits, gguf and numpy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from struct import pack

import gguf
import numpy as np

from truebits import data

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
}
HEADS = {"attn_q": 4, "attn_k": 2}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write(folder: Path) -> Path:
    """Write ``config.json`` and ``model.safetensors`` to a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    norms = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(data.MODEL_Q8_0).tensors}
    header, body = {}, b""
    for tensor in gguf.GGUFReader(data.MODEL).tensors:
        name, values = _source(tensor.name, np.array(tensor.data))
        is_norm = values.ndim == 1
        raw = (norms[tensor.name].view(np.uint32) >> 16).astype("<u2") if is_norm else values.astype("<f4")
        place = [len(body), len(body) + raw.nbytes]
        header[name] = {"dtype": "BF16" if is_norm else "F32", "shape": values.shape, "data_offsets": place}
        body += raw.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(pack("<Q", len(text)) + text + body)
    return folder


def _source(name: str, values: np.ndarray) -> tuple[str, np.ndarray]:
    """Return a tensor's name and values before the conversion: heads in halves, not in pairs."""
    *block, role, end = name.split(".")
    if not block:
        return f"{OUTSIDE[role]}.{end}", values
    if role in HEADS:
        pairs = values.reshape(HEADS[role], -1, 2, values.shape[-1])
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    return f"model.layers.{block[1]}.{INSIDE[role]}.{end}", values


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
