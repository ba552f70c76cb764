"""Whole numbers of 2 to 8 bits packed in 32-bit words, with a scale and a zero point for each group of a row.

GPTQ (AutoGPTQ, GPTQModel), AWQ (AutoAWQ's GEMM layout) and compressed-tensors' pack-quantized; MLX, whose groups have
an offset instead of a zero point.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod

import numpy as np

from truebits.errors import shortened
from truebits.files.tensor import Tensor, shape_text
from truebits.quantizers.method import Method
from truebits.quantizers.quantized import Arrays, Peek, Quantized, Unread, meant, need
from truebits.quantizers.unpacking import nibbles, unpack

GPTQ_BITS = (2, 3, 4, 8)

GPTQ_PLUS = {None: 1, "gptq": 1, "gptq_v2": 0}
"""What is added to a stored zero point, by config.json's ``checkpoint_format``."""

AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""In which nibble of a word, the lowest first, each of its eight values stands (AutoAWQ, ``packing_utils.py``)."""

MLX_BITS = (2, 3, 4, 5, 6, 8)


def _groups(sources: Mapping[str, Tensor], peek: Peek, columns: int, groups: int, method: Method) -> np.ndarray:
    """Return the group of each column, from ``g_idx`` or from the groups' size; int64 of shape (columns,).

    Raises
    ------
    Unread
    """
    sizes = {size for size in method.integers("group_size", "q_group_size") if size > 0}
    if "g_idx" in sources:
        said = sources["g_idx"]
        if said.shape != (columns,) or said.type != "I32":
            raise Unread(f"g_idx is {said.type} of {shape_text(said.shape)}, and rows have {columns} values")
        found = np.frombuffer(peek(said), "<i4").astype(np.int64)
        if columns and (found != -1).any():  # compressed-tensors has -1 everywhere where groups are in order
            if found.min() < 0 or found.max() >= groups:
                raise Unread(f"g_idx goes from {found.min()} to {found.max()}, and there are {groups} groups")
            return found
    fitting = [size for size in sizes if -(-columns // size) == groups] if sizes else []
    size = fitting[0] if fitting else columns // groups if groups and columns % groups == 0 else 0
    if not size or (sizes and not fitting and groups != 1):
        said_sizes = f", config.json says groups of {', '.join(map(str, sorted(sizes)))}" if sizes else ""
        raise Unread(f"{columns} values of a row in {groups} groups{said_sizes}")
    return np.arange(columns) // size


def _check_bits(found: int | float, method: Method, known: tuple[int, ...]) -> int:
    """Return the bits that shapes tell, if they are known and config.json agrees."""
    said = method.integers("bits", "num_bits", "w_bit")
    if len(said) == 1 and said != {found}:
        (bits,) = said
        if bits not in known:
            raise Unread(f"no reader for {bits} bits")
        raise Unread(f"config.json says {bits} bits, the shapes say {found:g}")
    if found not in known:
        raise Unread(f"no reader for {found:g} bits")
    return int(found)


def _across(packed: np.ndarray, bits: int, start: int, stop: int) -> np.ndarray:
    """Return codes `start` to `stop` of each row of packed words, without unpacking all of them."""
    first = start // 32 * 32
    words = packed[:, first * bits // 32 : -(-stop // 32) * bits]
    return unpack(words, bits)[:, start - first : stop - first]


def _times_scales(
    codes: np.ndarray, zeros: np.ndarray | np.float32, scales: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Return (code - zero point) x scale, float32; zeros and scales are of shape (rows, groups)."""
    values = codes.astype(np.float32)
    values -= zeros[:, groups] if isinstance(zeros, np.ndarray) else zeros
    values *= scales[:, groups]
    return values


def _gptq_rows(bits: int, plus: int, groups: np.ndarray, arrays: Arrays, start: int, stop: int) -> np.ndarray:
    codes = unpack(arrays["weight"].words[:, start:stop].T, bits)
    zeros = _across(arrays["zero"].words, bits, start, stop) + np.uint8(plus) & np.uint8((1 << bits) - 1)
    scale = arrays["scale"]
    scales = scale.singles(scale.words[:, start:stop])
    return _times_scales(codes, zeros.astype(np.float32).T, scales.T, groups)


def gptq(name: str, sources: Mapping[str, Tensor], method: Method, peek: Peek) -> Quantized:
    """Read GPTQ's ``qweight`` (in x bits / 32, out), ``qzeros``, ``scales`` and ``g_idx``; or AWQ's, told by its shape.

    A zero point is stored minus one, but in ``gptq_v2``; AutoGPTQ adds it modulo 2^bits.

    Raises
    ------
    Unread
    """
    weight, zero, scale = sources["weight"], need(sources, "zero"), need(sources, "scale")
    if any(len(tensor.shape) != 2 for tensor in (weight, zero, scale)) or 0 in (*weight.shape, *scale.shape):
        raise Unread(f"its shapes are {', '.join(shape_text(one.shape) for one in (weight, zero, scale))}")
    if zero.type != "I32" or scale.type not in ("F16", "BF16", "F32"):
        raise Unread(f"its zero points are {zero.type}, its scales {scale.type}")
    if weight.shape[1] != scale.shape[1]:
        return awq(name, sources, method, peek)
    if method.name == "awq":
        raise Unread("config.json says awq, the shapes are those of GPTQ")
    groups, out = scale.shape
    bits = _check_bits(32 * zero.shape[1] / out, method, GPTQ_BITS)
    columns = weight.shape[0] * 32 // bits
    if weight.shape[0] * 32 % bits or out * bits % 32 or zero.shape[0] != groups:
        raise Unread(f"{bits} bits do not fit shapes {shape_text(weight.shape)} and {shape_text(zero.shape)}")
    convention = method.settings.get("checkpoint_format")
    if method.name is None:
        raise Unread("without a config.json it is not known whether its zero points are stored minus one")
    if not isinstance(convention, str | None) or convention not in GPTQ_PLUS:
        raise Unread(f"checkpoint_format {shortened(str(convention))} is not known")
    of_column = _groups(sources, peek, columns, groups, method)
    rows = partial(_gptq_rows, bits, GPTQ_PLUS[convention], of_column)
    tensor = meant(name, f"GPTQ {bits}-bit", (out, columns), sources)
    return Quantized(tensor, dict(sources), rows, scale.type)


def _awq_nibbles(words: np.ndarray) -> np.ndarray:
    return nibbles(np.ascontiguousarray(words).view(np.uint8)).reshape(len(words), -1, 8)[:, :, AWQ_ORDER]


def _awq_rows(groups: np.ndarray, arrays: Arrays, start: int, stop: int) -> np.ndarray:
    first, last = start // 8, -(-stop // 8)
    some = slice(start - 8 * first, stop - 8 * first)
    codes, zeros = (
        _awq_nibbles(arrays[role].words[:, first:last]).reshape(len(arrays[role].words), -1)[:, some].T
        for role in ("weight", "zero")
    )
    scale = arrays["scale"]
    return _times_scales(codes, zeros.astype(np.float32), scale.singles(scale.words[:, start:stop]).T, groups)


def awq(name: str, sources: Mapping[str, Tensor], method: Method, peek: Peek) -> Quantized:
    """Read AWQ's GEMM layout: ``qweight`` (in, out / 8), ``qzeros`` (groups, out / 8), ``scales`` (groups, out).

    Raises
    ------
    Unread
    """
    weight, zero, scale = (sources[role] for role in ("weight", "zero", "scale"))
    if method.name == "gptq":
        raise Unread(f"config.json says gptq, and scales of {shape_text(scale.shape)} do not fit its words")
    version = method.settings.get("version", "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise Unread(f"no reader for version {shortened(str(version))}")
    (columns, words), (groups, out) = weight.shape, scale.shape
    _check_bits(32 * words / out, method, (4,))
    if zero.shape != (groups, words):
        raise Unread(f"its zero points are {shape_text(zero.shape)}, expected {groups} x {words}")
    of_column = _groups(sources, peek, columns, groups, method)
    tensor = meant(name, "AWQ 4-bit", (out, columns), sources)
    return Quantized(tensor, dict(sources), partial(_awq_rows, of_column), scale.type)


def _packed_rows(bits: int, columns: int, groups: np.ndarray, arrays: Arrays, start: int, stop: int) -> np.ndarray:
    weight, scale = arrays["weight"], arrays["scale"]
    codes = unpack(weight.words.reshape(-1, weight.words.shape[-1])[start:stop], bits)[:, :columns]
    table = scale.words.reshape(-1, scale.words.shape[-1] if scale.words.ndim > 1 else 1)
    scales = scale.singles(table[start:stop] if len(table) > 1 else np.broadcast_to(table, (stop - start, 1)))
    if "zero" in arrays:
        zeros = _across(arrays["zero"].words.T, bits, start, stop).astype(np.float32).T
        return _times_scales(codes, zeros, scales, groups)
    return _times_scales(codes, np.float32(1 << bits - 1), scales, groups)


def packed(name: str, sources: Mapping[str, Tensor], method: Method, peek: Peek) -> Quantized:
    """Read compressed-tensors' ``weight_packed``: codes plus 2^(bits - 1), a stream of bits in each row.

    Zero points are packed the same way, down the columns.

    Raises
    ------
    Unread
    """
    weight, scale, said = sources["weight"], need(sources, "scale"), need(sources, "shape")
    if said.type not in ("I64", "I32") or said.values != len(weight.shape) or len(weight.shape) < 2:
        raise Unread(f"weight_shape is {said.type} of {shape_text(said.shape)}")
    shape = tuple(np.frombuffer(peek(said), "<i8" if said.type == "I64" else "<i4").tolist())
    columns, words = shape[-1], weight.shape[-1]
    if shape[:-1] != weight.shape[:-1] or columns <= 0:
        raise Unread(f"weight_shape says {shape_text(shape)}, and the packed words are {shape_text(weight.shape)}")
    fitting = {bits for bits in range(1, 9) if -(-columns * bits // 32) == words}
    asked = method.integers("num_bits") or fitting
    if len(fitting & asked) != 1:
        bits_text = " or ".join(map(str, sorted(asked)))
        raise Unread(f"{bits_text} bits do not fit {words} words for {columns} values")
    (bits,) = fitting & asked
    rows = prod(shape[:-1])
    if scale.values != 1 and (scale.shape[:-1] != shape[:-1] or not scale.values):
        raise Unread(f"its scales are {shape_text(scale.shape)}, and a weight of {shape_text(shape)} needs others")
    groups = scale.shape[-1] if scale.values != 1 else 1
    if "zero" in sources and sources["zero"].shape != (-(-rows * bits // 32), groups):
        raise Unread(f"its zero points are {shape_text(sources['zero'].shape)}")
    of_column = _groups(sources, peek, columns, groups, method)
    tensor = meant(name, f"INT{bits} x scale", shape, sources)
    return Quantized(tensor, dict(sources), partial(_packed_rows, bits, columns, of_column), scale.type)


def _mlx_rows(bits: int, group: int, arrays: Arrays, start: int, stop: int) -> np.ndarray:
    weight, scale, offset = (arrays[role] for role in ("weight", "scale", "offset"))
    codes = unpack(weight.words.reshape(-1, weight.words.shape[-1])[start:stop], bits)
    scales, offsets = (
        of.singles(of.words.reshape(-1, of.words.shape[-1])[start:stop])[:, :, np.newaxis] for of in (scale, offset)
    )
    values = codes.astype(np.float32).reshape(stop - start, -1, group)
    values *= scales
    values += offsets
    return values.reshape(stop - start, -1)


def mlx(name: str, sources: Mapping[str, Tensor], method: Method, peek: Peek) -> Quantized:
    """Read MLX's affine quantization: code x scale + bias, codes a stream of bits in each row.

    Raises
    ------
    Unread
    """
    weight, scale, offset = sources["weight"], need(sources, "scale"), need(sources, "offset")
    own = method.settings.get(name.removesuffix(".weight"))
    settings = own if isinstance(own, dict) else method.settings
    bits, group = settings.get("bits"), settings.get("group_size")
    if not isinstance(bits, int) or not isinstance(group, int):
        raise Unread("config.json does not say bits and group_size")
    if settings.get("mode", "affine") != "affine":
        raise Unread(f"mode {shortened(str(settings['mode']))} with biases")
    if bits not in MLX_BITS or group < 1:
        raise Unread(f"no reader for {bits} bits in groups of {group}")
    columns = scale.shape[-1] * group if scale.shape else 0
    if scale.shape != offset.shape or scale.shape[:-1] != weight.shape[:-1] or columns * bits != weight.shape[-1] * 32:
        shapes = f"{shape_text(weight.shape)} and {shape_text(scale.shape)}"
        raise Unread(f"{bits} bits in groups of {group} do not fit shapes {shapes}")
    if columns == 0:
        raise Unread("it has no values")
    tensor = meant(name, f"MLX {bits}-bit", (*weight.shape[:-1], columns), sources)
    return Quantized(tensor, dict(sources), partial(_mlx_rows, bits, group), scale.type)
