"""Checkpoints that are quantized themselves: written here, and their values read."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from safetensors_bytes import Tensors, safetensors
from truebits.files.model import Model, open_model
from truebits.files.tensor import Tensor
from truebits.files.types import BY_NAME
from truebits.numbers.words import to_singles
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.weights import meaning_of

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


def tensor(type: str, *shape: int) -> Tensor:
    """Return a stored tensor of which the header alone is looked at."""
    values = prod(shape)
    return Tensor("a.weight", type, shape, 0, values * BY_NAME[type].bits // 8, values)


def no_peek(tensor: Tensor) -> bytes:
    raise AssertionError("nothing needs to be read")


def stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack the codes of each row as one stream of bits, the lowest first, in 32-bit words: by Python's integers."""
    words = -(-codes.shape[1] * bits // 32)
    rows = [sum(int(code) << (bits * at) for at, code in enumerate(row)) for row in codes.tolist()]
    return np.array([np.frombuffer(row.to_bytes(4 * words, "little"), "<u4") for row in rows]).reshape(-1, words)


GOLDEN = Path(__file__).parent / "data" / "checkpoints"
"""Made by the formats' own packages: see tools/quantized_checkpoints.py."""


def golden(name: str) -> tuple[Tensors, dict, dict[str, np.ndarray], str]:
    """Return the tensors of a case as stored, its config, and the values that the package gives with their type."""
    model = open_model(GOLDEN / f"{name}.safetensors")
    part = model.parts[0]
    tensors, expected, type = {}, {}, ""
    for tensor in model.tensors:
        raw = part.path.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
        if tensor.name.startswith("expected."):
            type = tensor.type
            words = np.frombuffer(raw, f"<u{tensor.nbytes // tensor.values}")
            expected[tensor.name[9:]] = to_singles(words, type).view(np.float32).reshape(tensor.shape)
        else:
            tensors[tensor.name] = tensor.type, tensor.shape, raw
    return tensors, json.loads(str(model.value("config"))), expected, type


def rounded(values: np.ndarray, type: str) -> np.ndarray:
    """Round float32 values to the nearest of a type."""
    return values.astype({"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[type]).astype(np.float32)


def cases(*beginnings: str) -> list[str]:
    """Return the cases whose names begin so."""
    return sorted(path.stem for path in GOLDEN.glob("*.safetensors") if path.stem.startswith(beginnings))


def assert_golden(folder_path: Path, case: str, piece: int) -> None:
    """Check that a case's values are those that the format's own package gives."""
    tensors, config, expected, type = golden(case)
    of = meaning_of(folder(folder_path, tensors, config))
    assert (of.not_read, set(of.quantized)) == ({}, set(expected))
    for name, values in expected.items():
        assert type in ("F32", of.quantized[name].computed_in)
        got = rounded(values_of(of, name, piece), type)
        same_bits(got + 0 if case.startswith("modelopt") else got, values)  # whose table of FP4 has no -0
