"""FP8 with scales and its values, by the formats' documented arithmetic and ml_dtypes' codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from quantized_files import stored
from safetensors_bytes import safetensors

FP8 = ml_dtypes.float8_e4m3fn
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
PERS = {"block": "_scale_inv", "row": "_scale", "tensor": "_scale"}
"""What shares a scale, and how the scales' name ends."""


class Made(NamedTuple):
    """`codes` of FP8, float32 `scales` as they are stored, and the float32 values that both stand for."""

    codes: np.ndarray
    scales: np.ndarray
    values: np.ndarray


def made(per: str, shape: tuple[int, int] = (300, 260), seed: int = 0, power: bool = False) -> Made:
    """Quantize random weights: the largest of what shares a scale becomes 448, or less where scales are powers of 2."""
    rows, columns = shape
    random = np.random.default_rng(seed)
    weights = (random.normal(0, 0.02, shape) * np.exp(random.normal(0, 1, (rows, 1)))).astype(np.float32)
    down, along = -(-rows // 128), -(-columns // 128)
    padded = np.zeros((128 * down, 128 * along), np.float32)
    padded[:rows, :columns] = np.abs(weights)
    largest = {
        "block": padded.reshape(down, 128, along, 128).max((1, 3)),
        "row": padded.max(1)[:rows, None],
        "tensor": padded.max().reshape(1),
    }[per]
    scales = (largest / np.float32(448)).astype(np.float32)
    scales = np.ldexp(np.float32(1), np.frexp(scales)[1]) if power else scales
    of_each = np.kron(scales, np.ones((128, 128), np.float32))[:rows, :columns] if per == "block" else scales
    codes = (weights / of_each).astype(FP8)
    return Made(codes, scales, codes.astype(np.float32) * of_each)


def folder_of(path: Path, weights: dict[str, np.ndarray], type: str = "F32", config: object = None) -> Path:
    """Write values as a checkpoint of one type."""
    path.mkdir()
    tensors = {name: stored(type, values.astype(DTYPES[type])) for name, values in weights.items()}
    (path / "model.safetensors").write_bytes(safetensors(tensors))
    (path / "config.json").write_text(json.dumps({"model_type": "llama"} if config is None else config))
    return path
