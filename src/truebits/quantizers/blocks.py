"""Tensors of ggml's block types as what they mean: F32 values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import truebits_native as native
from truebits.files.tensor import Tensor
from truebits.files.types import BY_NAME
from truebits.quantizers.ggml import in_rows
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.quantized import Arrays, Quantized
from truebits_native.types import LAYOUTS


def with_blocks(of: Meaning) -> Meaning:
    """Return the same, with tensors of ggml's block types among those that are quantized."""
    quantized, not_read = dict(of.quantized), dict(of.not_read)
    for tensor in of.model.tensors:
        if tensor.opaque or (is_block_type(tensor.type) and not has_values(tensor.type)):
            not_read.setdefault(tensor.name, f"{tensor.type} has no reader here")
        elif is_block_type(tensor.type):
            quantized[tensor.name] = block_quantized(tensor)
    return replace(of, quantized=quantized, not_read=not_read)


def is_block_type(type: str) -> bool:
    """Tell whether a storage type is one of ggml's that store several values as one block."""
    return type in BY_NAME and BY_NAME[type].values > 1


def has_values(type: str) -> bool:
    """Tell whether there is something here that reads a type of ggml, which is no plain floating-point type."""
    if type in LAYOUTS:
        return True
    import gguf

    number = gguf.GGMLQuantizationType.__members__.get(type)
    return number is not None and number in gguf.quants._type_traits


def block_quantized(tensor: Tensor) -> Quantized:
    """Return a tensor of a block type as a quantized one."""

    def rows(arrays: Arrays, first: int, stop: int) -> np.ndarray:
        return block_values(arrays["weight"].words[first:stop], tensor.type)

    return Quantized(tensor, {"weight": tensor}, rows, block=BY_NAME[tensor.type].values)


def block_values(blocks: np.ndarray, type: str) -> np.ndarray:
    """Return what blocks stand for, as the format's own code computes it in F32.

    Parameters
    ----------
    blocks : ndarray of uint8
        Whole blocks.
    type : str
        ggml's name of their type.

    Returns
    -------
    ndarray of float32, shape (n,)
    """
    if type in LAYOUTS:
        return native.dequantized(blocks.reshape(-1), type)
    import gguf

    layout = BY_NAME[type]
    with np.errstate(invalid="ignore", over="ignore"):  # scales that are NaN or Inf
        rows = in_rows(blocks.reshape(-1), layout.values, layout.nbytes)
        values: np.ndarray = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[type]).reshape(-1)
    return values
