"""Checkpoints that are quantized themselves: written here, and their values read."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np

from safetensors_bytes import Tensors, safetensors
from truebits.files.model import Model, open_model
from truebits.quantizers.meaning import Meaning

RANDOM = np.random.default_rng(7)


def folder(path, tensors: Tensors, quantization: object = None) -> Model:
    """Write a checkpoint and open it; several on one path follow each other."""
    (path / "model.safetensors").write_bytes(safetensors(tensors))
    config = {} if quantization is None else {"quantization_config": quantization}
    (path / "config.json").write_text(json.dumps(config))
    return open_model(path)


def stored(type: str, array: np.ndarray, shape: tuple[int, ...] | None = None):
    return type, array.shape if shape is None else shape, np.ascontiguousarray(array).tobytes()


def values_of(of: Meaning, name: str, piece: int = 1 << 20, as_stored: bool = False) -> np.ndarray:
    """Return all values of a tensor that is meant."""
    files = {number: part.map() for number, part in enumerate(of.model.parts)}
    one = of.quantized[name]
    one = one.as_stored if as_stored and one.as_stored else one
    found = [words for _, words in one.pieces(files, piece)]
    for file in files.values():
        file.__exit__()
    return np.concatenate(found).view(np.float32).reshape(one.tensor.shape)


def same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    odd = np.flatnonzero(got.astype(np.float32).view(np.uint32) != expected.astype(np.float32).view(np.uint32))
    first = [f"{of.reshape(-1)[odd[0]]!r}" for of in (got, expected)] if odd.size else []
    assert not odd.size, f"{odd.size} of {got.size} differ, the first at {odd[0]}: got and expected {first}"


def fp8(*shape: int, type=ml_dtypes.float8_e4m3fn) -> np.ndarray:
    return RANDOM.normal(0, 50, shape).astype(type)


def positive(*shape: int) -> np.ndarray:
    return RANDOM.gamma(2, 1e-3, shape).astype(np.float32)
