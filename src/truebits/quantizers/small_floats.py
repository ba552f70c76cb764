"""Small floats with the scales of their tensor, rows, groups or square blocks; and those that have none.

FP8 (DeepSeek, Transformers, compressed-tensors, ModelOpt), INT8 of rows and groups, OCP's MXFP8 and MXFP4 (gpt-oss,
Quark, compressed-tensors), NVFP4 (ModelOpt, compressed-tensors).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from math import prod
from typing import NamedTuple

import numpy as np

from truebits.files.tensor import Tensor, shape_text
from truebits.quantizers.method import Method
from truebits.quantizers.quantized import Arrays, Peek, Quantized, Stored, Unread, meant, need
from truebits.quantizers.unpacking import e8m0_table, nibbles
from truebits_native.types import FLOAT_POINT_FOUR

USUAL_BLOCK = (128, 128)
"""DeepSeek-V3's, where no config.json says it."""

MX_BLOCK, NVFP4_BLOCK = 32, 16

E8M0 = ("U8", "F8_E8M0")


@cache
def fp4_table() -> np.ndarray:
    """Return the value of each of the 16 codes of E2M1 (OCP Microscaling Formats, table 5)."""
    magnitudes = FLOAT_POINT_FOUR[:8].astype(np.float32) / 2
    return np.concatenate([magnitudes, -magnitudes])


def scales_of(stored: Stored, words: np.ndarray) -> np.ndarray:
    """Return some of a tensor's scales as float32; bytes without a type of their own are E8M0."""
    return e8m0_table()[words] if stored.type == "U8" else stored.singles(words)


class Blocks(NamedTuple):
    """How far a scale reaches in the last two dimensions, and how many rows of scales an expert has."""

    rows: int
    columns: int
    expert_rows: int
    scale_rows: int
    scale_columns: int


def blocks_of(shape: tuple[int, ...], scale: Tensor, asked: tuple[int, int] | None, group: int | None) -> Blocks:
    """Find what each scale of a weight belongs to.

    Parameters
    ----------
    shape : tuple of int
        Of the weight, its rows last but one.
    scale : Tensor
    asked : (int, int) or None
        Rows and columns of a block, if config.json has them.
    group : int or None
        Values of a row that share a scale, if config.json or the format has them.

    Raises
    ------
    Unread
        The shapes do not fit.
    """
    experts, rows, columns = prod(shape[:-2]), shape[-2] if len(shape) > 1 else 1, shape[-1] if shape else 1
    found = scale.shape
    if scale.values == 1:
        return Blocks(rows * experts, columns, rows * experts, 1, 1)
    for block in [asked] if asked else [USUAL_BLOCK]:
        tiles = -(-rows // block[0]), -(-columns // block[1])
        if found == (*shape[:-2], *tiles):
            return Blocks(*block, rows, *tiles)
        if asked:
            expected = shape_text((*shape[:-2], *tiles))
            raise Unread(
                f"its scales are {shape_text(found)}, and blocks of {block[0]} x {block[1]} would have {expected}"
            )
    if found in (shape[:-1], (*shape[:-1], 1), (*shape[:-2], 1, rows)) and len(shape) > 1:
        return Blocks(1, columns, rows, rows, 1)
    if len(shape) > 2 and scale.values == experts and set(found) <= {experts, 1, *shape[:-2]}:
        return Blocks(rows, columns, rows, 1, 1)
    if found[:-1] == shape[:-1] and found and found[-1]:
        size = -(-columns // found[-1])
        if columns % found[-1] == 0 and (group is None or size == group):
            return Blocks(1, size, rows, rows, found[-1])
        if group is not None:
            raise Unread(f"its scales are {shape_text(found)}, and groups of {group} of {columns} values need others")
    raise Unread(f"its scales are {shape_text(found)}, and a weight of {shape_text(shape)} needs others")


def spread(scales: np.ndarray, blocks: Blocks, columns: int, start: int, stop: int) -> np.ndarray:
    """Return the scale of each value of rows: shape (rows, columns), or (rows, 1) where a row has one.

    Parameters
    ----------
    scales : ndarray of float32, shape (all rows of scales, scale columns)
    """
    rows = np.arange(start, stop)
    of_row = rows // blocks.expert_rows * blocks.scale_rows + rows % blocks.expert_rows // blocks.rows
    first, last = int(of_row[0]), int(of_row[-1]) + 1
    chosen = scales[first:last]
    if blocks.scale_columns > 1:
        chosen = np.repeat(chosen, blocks.columns, axis=1)[:, :columns]
    return chosen[of_row - first]


def _scaled_rows(blocks: Blocks, columns: int, arrays: Arrays, start: int, stop: int) -> np.ndarray:
    weight, scale = arrays["weight"], arrays["scale"]
    values = weight.singles(weight.words.reshape(-1, columns)[start:stop])
    if "zero" in arrays:
        zero = arrays["zero"]
        values -= spread(zero.values().reshape(-1, blocks.scale_columns), blocks, columns, start, stop)
    tables = scale.words.reshape(-1, blocks.scale_columns)
    values *= spread(scales_of(scale, tables), blocks, columns, start, stop)
    return values


def scaled(name: str, sources: Mapping[str, Tensor], method: Method, peek: Peek) -> Quantized:
    """Read FP8 or INT8 codes times scales (times, though DeepSeek calls them ``weight_scale_inv``).

    Raises
    ------
    Unread
    """
    weight, scale = sources["weight"], need(sources, "scale")
    kind = "INT8" if weight.type == "I8" else weight.type
    is_mx = scale.type in E8M0
    groups = {MX_BLOCK} if scale.type == "U8" else method.integers("group_size")
    blocks = blocks_of(weight.shape, scale, method.block, groups.pop() if len(groups) == 1 else None)
    if "zero" in sources and sources["zero"].shape != scale.shape:
        raise Unread(f"its zero points are {shape_text(sources['zero'].shape)}, its scales {shape_text(scale.shape)}")
    type = f"MXFP8 {weight.type[3:]}" if is_mx and blocks.columns == MX_BLOCK else f"{kind} x scale"
    columns = weight.shape[-1] if weight.shape else 1
    computed = scale.type if scale.type in ("BF16", "F16") else "F32"
    tensor = meant(name, type, weight.shape, sources)
    return Quantized(tensor, dict(sources), partial(_scaled_rows, blocks, columns), computed)


def _plain_rows(columns: int, arrays: Arrays, start: int, stop: int) -> np.ndarray:
    weight = arrays["weight"]
    if weight.type != "F4":
        return weight.singles(weight.words.reshape(-1, columns)[start:stop])
    first, last = start * columns, stop * columns
    codes = nibbles(weight.words[first // 2 : -(-last // 2)])
    return fp4_table()[codes[first % 2 :][: last - first]].reshape(-1, columns)


def plain(tensor: Tensor) -> Quantized:
    """Read FP8, FP4 or E8M0 that has no scale: the floats that they are."""
    columns = tensor.shape[-1] if tensor.shape else 1
    return Quantized(tensor, {"weight": tensor}, partial(_plain_rows, columns))


def _fp4_rows(columns: int, block: int, arrays: Arrays, start: int, stop: int) -> np.ndarray:
    packed = arrays["weight"].words.reshape(-1, columns // 2)[start:stop].view(np.uint8)
    values = fp4_table()[nibbles(packed)].reshape(stop - start, columns // block, block)
    scale = arrays["scale"]
    factors = scales_of(scale, scale.words.reshape(-1, columns // block)[start:stop])
    if "global" in arrays:
        factors = factors * arrays["global"].values().reshape(-1)[0]
    if "divisor" in arrays:
        factors = factors / arrays["divisor"].values().reshape(-1)[0]
    values *= factors[:, :, np.newaxis]
    return values.reshape(stop - start, columns)


def packed_fp4(name: str, sources: Mapping[str, Tensor], method: Method, peek: Peek) -> Quantized:
    """Read FP4 codes, two per byte, the first in the low half: MXFP4 (E8M0 scales) or NVFP4 (FP8 scales and one more).

    Raises
    ------
    Unread
    """
    weight, scale = sources["weight"], need(sources, "scale")
    if not weight.shape:
        raise Unread("it is packed in a single value")
    shape = (*weight.shape[:-1], 2 * weight.shape[-1])
    is_nv = scale.type == "F8_E4M3"
    if not is_nv and scale.type not in E8M0:
        raise Unread(f"its scales are {scale.type}, and FP4 has F8_E4M3 or E8M0")
    block = NVFP4_BLOCK if is_nv else MX_BLOCK
    expected = (*weight.shape[:-1], shape[-1] // block)
    if shape[-1] % block or scale.shape != expected:
        raise Unread(
            f"its scales are {shape_text(scale.shape)}, and blocks of {block} of {shape_text(shape)} need others"
        )
    extra = [role for role in ("global", "divisor") if role in sources]
    if is_nv and len(extra) != 1:
        raise Unread(
            "its scale of the whole tensor is absent" if not extra else "it has two scales of the whole tensor"
        )
    if extra and sources[extra[0]].values != 1:
        raise Unread(f"its scale of the whole tensor has {sources[extra[0]].values} values")
    tensor = meant(name, "NVFP4 x scale" if is_nv else "MXFP4 x scale", shape, sources)
    return Quantized(tensor, dict(sources), partial(_fp4_rows, shape[-1], block), "BF16")


def _turned_rows(experts: int, out: int, blocks: int, arrays: Arrays, start: int, stop: int) -> np.ndarray:
    """Return rows of experts in x out: each is a column of what is stored."""
    codes = arrays["weight"].words.reshape(experts, out, blocks, MX_BLOCK // 2)
    scales = arrays["scale"].words.reshape(experts, out, blocks)
    width = blocks * MX_BLOCK
    found = []
    at = start
    while at < stop:
        expert, row = divmod(at, width)
        end = min(stop - expert * width, width)
        first, last = row // MX_BLOCK, -(-end // MX_BLOCK)
        values = fp4_table()[nibbles(codes[expert, :, first:last])].reshape(out, last - first, MX_BLOCK)
        values *= e8m0_table()[scales[expert, :, first:last]][:, :, np.newaxis]
        found.append(values.reshape(out, -1)[:, row - first * MX_BLOCK : end - first * MX_BLOCK].T)
        at = expert * width + end
    return np.concatenate(found)


def gpt_oss(name: str, sources: Mapping[str, Tensor], method: Method, peek: Peek) -> Quantized:
    """Read gpt-oss's experts: MXFP4 in ``_blocks`` (experts, out, blocks, 16 bytes) and ``_scales``, meant in x out.

    Gate and up stand by turns, row by row, in `gate_up_proj`, as they are meant.

    Raises
    ------
    Unread
    """
    weight, scale = sources["weight"], need(sources, "scale")
    if len(weight.shape) != 4 or weight.shape[-1] != MX_BLOCK // 2 or scale.shape != weight.shape[:-1]:
        raise Unread(f"its blocks are {shape_text(weight.shape)}, its scales {shape_text(scale.shape)}")
    experts, out, blocks, _ = weight.shape
    width = blocks * MX_BLOCK
    stored = Quantized(
        meant(name, "MXFP4 x scale", (experts, out, width), sources),
        dict(sources),
        partial(_fp4_rows, width, MX_BLOCK),
        "BF16",
    )
    tensor = meant(name, "MXFP4 x scale", (experts, width, out), sources)
    return Quantized(tensor, dict(sources), partial(_turned_rows, experts, out, blocks), "BF16", stored)
