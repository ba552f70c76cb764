"""The front door of block-quantized bytes: it checks them, and sends them to the kernel or to its twin."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from truebits_native import dispatch, reference
from truebits_native.chunks import cut
from truebits_native.codes import e8m0_singles
from truebits_native.dispatch import readable, run
from truebits_native.packing import (
    SIMPLE,
    SUPER_BLOCKS,
    quantizing_numbers,
    simple_numbers,
    super_block_numbers,
)
from truebits_native.pool import over_runs
from truebits_native.types import FACTS, LAYOUTS, LEAST, NO_SCALE, BlockLayout, add_facts

CHUNK_BYTES = 1 << 20

CHUNK_VALUES = 1 << 16


def block_counts(
    raw: np.ndarray, starts: np.ndarray, stops: np.ndarray, type: str, threads: int | None = None
) -> np.ndarray:
    """Count what the scales of the blocks of each range ``raw[start:stop]`` are.

    Parameters
    ----------
    raw : ndarray of uint8, shape (n,)
    starts, stops : ndarray of int64, shape (m,)
        Each range holds whole blocks; they may start anywhere.
    type : str
        A key of `LAYOUTS`.
    threads : int, optional
        All cores if not given. The result does not depend on it.

    Returns
    -------
    ndarray of int64, shape (m, len(FACTS))

    Raises
    ------
    ValueError
        A range is not whole blocks.
    """
    raw, layout = readable(raw, np.uint8), LAYOUTS[type]
    if ((stops - starts) % layout.nbytes).any():
        raise ValueError(f"a range is not whole blocks of {layout.nbytes} bytes, as {type} has")
    name = "blocks.count_scales"
    if not dispatch.uses_kernel(name, int((stops - starts).sum()) // layout.nbytes):
        return reference.block_counts(raw, starts, stops, type)
    owner, begin, end = cut(starts, stops, CHUNK_BYTES // layout.nbytes * layout.nbytes)
    by_chunk, numbers = np.empty((begin.size, len(FACTS)), np.int64), layout_numbers(layout)
    over_runs(lambda of: run(name, raw, begin[of], end[of], numbers, by_chunk[of]), begin.size, threads)
    facts = np.zeros((starts.size, len(FACTS)), np.int64)
    facts[:, LEAST] = NO_SCALE
    for range_, of_chunk in zip(owner.tolist(), by_chunk, strict=True):
        add_facts(facts[range_], of_chunk)
    return facts


def dequantized(raw: np.ndarray, type: str, threads: int | None = None) -> np.ndarray:
    """Return the values that blocks stand for, bit for bit as ``gguf.quants.dequantize`` makes them.

    Parameters
    ----------
    raw : ndarray of uint8, shape (n,)
        Whole blocks.
    type : str
        A key of `LAYOUTS`.
    threads : int, optional

    Returns
    -------
    ndarray of float32, shape (values,)

    Raises
    ------
    ValueError
        The bytes are not whole blocks.
    """
    raw, layout = readable(raw, np.uint8), LAYOUTS[type]
    if raw.size % layout.nbytes:
        raise ValueError(f"{raw.size} bytes are not whole blocks of {layout.nbytes}, as {type} has")
    count = raw.size // layout.nbytes * layout.values
    name = KERNELS.get(type)
    if name is None or not dispatch.uses_kernel_by_now(name, count):
        return reference.dequantized(raw, type)
    values, more = np.empty(count, np.float32), dequantizing_numbers(type)
    _, begin, end = cut(np.array([0]), np.array([count // layout.values]), CHUNK_VALUES // layout.values)
    over_runs(lambda of: run(name, raw, begin[of], end[of], *more, values), begin.size, threads)
    return values


def quantized(values: np.ndarray, type: str, threads: int | None = None) -> np.ndarray:
    """Quantize values to blocks, byte for byte as ``gguf.quants.quantize`` does.

    Parameters
    ----------
    values : ndarray of float32, shape (n,)
        Whole blocks.
    type : str
        One of `QUANTIZED`.
    threads : int, optional

    Returns
    -------
    ndarray of uint8, shape (bytes,)

    Raises
    ------
    ValueError
        The values are not whole blocks.
    """
    values, layout = readable(values, np.float32), LAYOUTS[type]
    if values.size % layout.values:
        raise ValueError(f"{values.size} values are not whole blocks of {layout.values}, as {type} has")
    name = "quantizing.quantize_blocks"
    if not dispatch.uses_kernel_by_now(name, values.size):
        return reference.quantized(values, type)
    count = values.size // layout.values
    raw, is_left = np.empty(count * layout.nbytes, np.uint8), np.empty(count, np.bool_)
    _, begin, end = cut(np.array([0]), np.array([count]), CHUNK_VALUES // layout.values)
    more = quantizing_numbers(layout)
    over_runs(lambda of: run(name, values, begin[of], end[of], more, raw, is_left), begin.size, threads)
    if is_left.any():
        left = values.reshape(count, -1)[is_left].ravel()
        raw.reshape(count, -1)[is_left] = reference.quantized(left, type).reshape(-1, layout.nbytes)
    return raw


KERNELS = {
    **dict.fromkeys(SIMPLE, "dequantizing.dequantize_blocks"),
    **dict.fromkeys(SUPER_BLOCKS, "dequantizing.dequantize_super_blocks"),
}
"""What dequantizes a type; TQ1_0 and NVFP4 are left to the twin."""


@cache
def dequantizing_numbers(type: str) -> tuple[Any, ...]:
    """Return what the kernel wants to know: what each scale is as F32, and where everything is."""
    numbers = (simple_numbers(LAYOUTS[type]),) if type in SIMPLE else super_block_numbers(type)
    return (e8m0_singles() if type == "MXFP4" else reference.half_singles().view(np.float32)), *numbers


def layout_numbers(layout: BlockLayout) -> tuple[Any, ...]:
    """Return what the kernel wants to know of a block type."""
    scale, offset_at = layout.scale, layout.offset_at
    places = np.uint64(layout.nbytes), np.uint64(layout.scale_at), np.uint64(layout.scales), scale.nbytes == 2
    offset = np.uint64(offset_at or 0), offset_at is not None
    return *places, *offset, *(np.uint32(of) for of in (scale.magnitude, scale.first, scale.special, scale.shift))
