"""The checkpoint of the shipped model as Hugging Face would hold it: the folder `hf` of the README's examples."""

from __future__ import annotations

from pathlib import Path

import gguf
import ml_dtypes
import numpy as np

from converter import IN_BLOCK, WHOLE, permuted, write_folder
from truebits import data

HEADS = {"attn_q.weight": 4, "attn_k.weight": 2}


def write(folder: Path) -> Path:
    """Write matrices in F32 and norms in BF16: what ``model-q8_0.gguf`` was made from."""
    matrices, norms = (
        {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
        for path in (data.MODEL, data.MODEL_Q8_0)
    )
    outside = {ours: theirs for theirs, ours in WHOLE.items() if theirs.startswith(("model.", "lm_head"))}
    inside = {ours: theirs for theirs, ours in IN_BLOCK.items() if not theirs.startswith(("mixer", "norm"))}
    tensors = {}
    for name, values in matrices.items():
        if name in outside:
            theirs = outside[name]
        else:
            _, block, role = name.split(".", 2)
            theirs = f"model.layers.{block}.{inside[role]}"
            if role in HEADS:
                rows = permuted(np.arange(len(values), dtype=np.float32)[:, None], HEADS[role]).ravel()
                values = values[np.argsort(rows)]
        tensors[theirs] = norms[name].astype(ml_dtypes.bfloat16) if values.ndim == 1 else values
    shape = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    return write_folder(folder, tensors, **shape)
