"""HQQ: (code - zero point) x scale, codes of far rows side by side in a byte or a 32-bit word."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import NamedTuple

import numpy as np

from truebits.errors import shortened
from truebits.files.tensor import Tensor, shape_text
from truebits.quantizers.method import Method
from truebits.quantizers.quantized import Arrays, Peek, Quantized, Unread, meant, need

PACKINGS = {"8bit_u8": (8, 1), "4bit_u8": (4, 2), "2bit_u8": (2, 4), "1bit_u8": (1, 8), "3bit_32": (3, 10)}
"""Bits of a code, and how many share a word, by name (``hqq/core/bitpack.py``)."""


class CodeTable(NamedTuple):
    """How codes stand: a table of `rows` x `columns`, of which each word holds `shared` rows that are `step` apart."""

    bits: int
    shared: int
    step: int
    rows: int
    columns: int
    is_by_row: bool


def _rows(table: CodeTable, row: int, arrays: Arrays, start: int, stop: int) -> np.ndarray:
    first, last = start * row, stop * row
    rows = np.arange(first // table.columns, -(-last // table.columns))
    shifts = ((table.shared - 1 - rows // table.step) * table.bits)[:, np.newaxis]
    words = arrays["weight"].words.reshape(table.step, table.columns)[rows % table.step]
    codes = (words >> shifts.astype(words.dtype)) & words.dtype.type((1 << table.bits) - 1)
    zero, scale = (arrays[role].values().reshape(-1) for role in ("zero", "scale"))
    if table.is_by_row:
        zero, scale = zero[rows, np.newaxis], scale[rows, np.newaxis]
    values = codes.astype(np.float32)
    values -= zero
    values *= scale
    at = first - int(rows[0]) * table.columns
    return values.reshape(-1)[at : at + last - first].reshape(-1, row)


def hqq(name: str, sources: Mapping[str, Tensor], method: Method, peek: Peek) -> Quantized:
    """Read ``W_q`` with ``scale`` and ``zero``, as `HQQLinear.state_dict` writes them for safetensors.

    Raises
    ------
    Unread
    """
    weight, scale, zero = sources["weight"], need(sources, "scale"), need(sources, "zero")
    said = {role: peek(need(sources, role)) for role in ("shape", "packing", "axis", "group")}
    for role in ("quant_scale", "quant_zero", "as_float"):
        if role in sources and any(peek(sources[role])):
            raise Unread(f"no reader where {role} is set")
    packing = said["packing"].decode("ascii", "replace")
    if packing not in PACKINGS:
        raise Unread(f"no reader for packing {shortened(packing)}")
    bits, shared = PACKINGS[packing]
    shape = tuple(np.frombuffer(said["shape"], "<i8").tolist()) if len(said["shape"]) % 8 == 0 else ()
    axis, group = (int.from_bytes(said[role], "little", signed=True) for role in ("axis", "group"))
    values = prod(shape)
    if not shape or min(shape) < 1 or group < 1 or values % group or axis not in (0, 1):
        raise Unread(f"{shape_text(shape)} values in groups of {group} along axis {axis}")
    rows, columns = (values // group, group) if axis else (group, values // group)
    step = -(-rows // shared)
    if (bits != 3 and rows % shared) or weight.values != step * columns:
        raise Unread(f"{rows} x {columns} codes of {bits} bits do not fit {shape_text(weight.shape)}")
    if {scale.values, zero.values} != {values // group} or weight.type != ("I32" if bits == 3 else "U8"):
        raise Unread(f"its scales are {shape_text(scale.shape)}, its zero points {shape_text(zero.shape)}")
    tensor = meant(name, f"HQQ {bits}-bit", shape, sources)
    used = {role: sources[role] for role in ("weight", "scale", "zero")}
    return Quantized(
        tensor, used, partial(_rows, CodeTable(bits, shared, step, rows, columns, bool(axis)), shape[-1]), scale.type
    )
