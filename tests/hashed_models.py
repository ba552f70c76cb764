"""Models of tensors that stand in memory as a file has them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

import gguf_bytes

TYPE_ID = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "I32": 26, "F64": 28, "BF16": 30}
FLOATS = ("F32", "F16", "BF16", "F64")
VALUES = np.array([0, -0.0, 1, -1.5, 0.0078125, 96, np.inf, -np.inf, np.nan, 2.0**-14, -3, 2.0**-20], np.float32)
"""Exact in every type."""


class Stored(NamedTuple):
    """A tensor as a file has it."""

    name: bytes
    type: str
    shape: tuple[int, ...]
    raw: bytes


def stored(name: str | bytes, values: np.ndarray, type: str = "F32", shape: tuple[int, ...] | None = None) -> Stored:
    name = name.encode() if isinstance(name, str) else name
    with np.errstate(invalid="ignore", over="ignore"):
        if type == "BF16":
            raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            raw = values.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4"}[type]).tobytes()
    return Stored(name, type, (values.size,) if shape is None else shape, raw)


def quantized(name: str, type: str, seed: int) -> Stored:
    size = {"Q4_0": 18, "Q8_0": 34}[type]
    return Stored(name.encode(), type, (32, 4), np.random.default_rng(seed).bytes(4 * size))


def write(path: Path, tensors: list[Stored], keys: list[bytes] | None = None) -> Path:
    infos, data = [], b""
    for name, type, shape, raw in tensors:
        infos.append(gguf_bytes.tensor(name, shape, TYPE_ID[type], len(data)))
        data += raw + bytes(-len(raw) % 32)
    path.write_bytes(gguf_bytes.gguf(keys or [], infos, data))
    return path


def every_type() -> list[Stored]:
    """Return the tensors of a model that has every type."""
    normal = np.random.default_rng(1).normal(size=96)
    return [
        stored("norm.weight", normal),
        stored("output.weight", VALUES, "F16", (6, 2)),
        stored("embed.weight", VALUES, "BF16"),
        stored("double", normal, "F64", (3, 32)),
        stored("steps", np.arange(8), "I32"),
        quantized("blk.0.up.weight", "Q8_0", 2),
        quantized("blk.1.up.weight", "Q4_0", 3),
    ]
