"""bitsandbytes: NF4 and FP4 in blocks, their scales perhaps quantized themselves, and LLM.int8()'s rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from truebits.files.tensor import Tensor, shape_text
from truebits.quantizers.method import Method
from truebits.quantizers.quantized import Arrays, Peek, Quantized, Unread, meant, need

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

ROW_WISE = 0
"""``weight_format`` of a matrix whose rows stand as they are meant."""

INT8_UNIT = np.float32(7.874015718698502e-3)
"""One over 127, as bitsandbytes multiplies with it."""


class State(NamedTuple):
    """What ``quant_state`` says."""

    shape: tuple[int, ...]
    block: int
    nested_block: int
    offset: np.float32
    computed_in: str


def _state(said: bytes, is_nested: bool) -> State:
    """Read the JSON that is stored as a tensor; raises `Unread`."""
    try:
        state = json.loads(said.decode())
        shape, block, dtype = state["shape"], state["blocksize"], state["dtype"]
        nested, offset = (state["nested_blocksize"], state["nested_offset"]) if is_nested else (1, 0.0)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unread(f"its quant_state cannot be read: {type(error).__name__}") from error
    sizes: list[Any] = [*shape, block, nested] if isinstance(shape, list) else [None]
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise Unread("the shape or the blocks in its quant_state are no sizes")
    if not isinstance(offset, int | float) or dtype not in DTYPES:
        raise Unread("the offset or the dtype in its quant_state is not known")
    return State(tuple(shape), block, nested, np.float32(offset), DTYPES[dtype])


def _four_bit_rows(state: State, arrays: Arrays, start: int, stop: int) -> np.ndarray:
    row = state.shape[-1]
    first, last = start * row, stop * row
    packed = arrays["weight"].words.reshape(-1)[first // 2 : -(-last // 2)]
    codes = np.stack([packed >> 4, packed & 15], -1).reshape(-1)[first % 2 :][: last - first]
    blocks = np.arange(first // state.block, -(-last // state.block))
    scale = arrays["scale"]
    chosen = scale.words.reshape(-1)[blocks]
    if "nested_scale" in arrays:
        factors = arrays["nested_scale"].values().reshape(-1)[blocks // state.nested_block]
        scales = arrays["nested_map"].values().reshape(-1)[chosen] * factors + state.offset
    else:
        scales = scale.singles(chosen)
    values = arrays["map"].values().reshape(-1)[codes]
    values *= np.repeat(scales, state.block)[first - int(blocks[0]) * state.block :][: last - first]
    return values.reshape(-1, row)


def four_bit(name: str, sources: Mapping[str, Tensor], method: Method, peek: Peek) -> Quantized:
    """Read NF4 or FP4: ``quant_map`` of each code, the first in the high half, times ``absmax`` of its block.

    Raises
    ------
    Unread
    """
    weight, scale, table, said = (need(sources, role) for role in ("weight", "scale", "map", "state"))
    is_nested = scale.type == "U8"
    state = _state(peek(said), is_nested)
    values = prod(state.shape)
    if weight.nbytes != -(-values // 2) or scale.values != -(-values // state.block) or table.values != 16:
        raise Unread(f"{shape_text(state.shape)} in blocks of {state.block} do not fit {weight.nbytes} bytes")
    if is_nested:
        nested, levels = need(sources, "nested_scale"), need(sources, "nested_map")
        if nested.values != -(-scale.values // state.nested_block) or levels.values != 256:
            raise Unread(f"its scales' scales are {shape_text(nested.shape)}, and {scale.values} scales need others")
    used = {role: one for role, one in sources.items() if is_nested or not role.startswith("nested")}
    title = "NF4" if said.name.endswith("nf4") else "FP4"
    tensor = meant(name, f"{title} x scale", state.shape, sources)
    return Quantized(tensor, used, partial(_four_bit_rows, state), state.computed_in)


def _int8_rows(arrays: Arrays, start: int, stop: int) -> np.ndarray:
    values = arrays["weight"].words[start:stop].astype(np.float32)
    values *= arrays["scale"].values()[start:stop, np.newaxis]
    values *= INT8_UNIT
    return values


def int8(name: str, sources: Mapping[str, Tensor], method: Method, peek: Peek) -> Quantized:
    """Read LLM.int8()'s codes times the greatest magnitude of their row (``SCB``) over 127.

    Raises
    ------
    Unread
    """
    weight, scale = sources["weight"], need(sources, "scale")
    if len(weight.shape) != 2 or scale.shape != weight.shape[:1] or scale.type != "F32":
        raise Unread(f"SCB is {scale.type} of {shape_text(scale.shape)}, the weight {shape_text(weight.shape)}")
    layout = sources.get("layout")
    if layout is not None and (layout.nbytes != 1 or peek(layout) != bytes([ROW_WISE])):
        raise Unread("its weight_format is not row-wise")
    return Quantized(meant(name, "INT8 x scale", weight.shape, sources), dict(sources), _int8_rows, "F16")
