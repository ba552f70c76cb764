"""The one table of storage types, against what others say of them."""

import gguf
import ml_dtypes
import pytest

from gguf_bytes import gguf as gguf_bytes
from gguf_bytes import (
    tensor,
)
from truebits.files.types import (
    BY_DTYPE,
    BY_NAME,
    BY_NUMBER,
    FLOAT_BYTES,
    FLOAT_FORMATS,
    FP8_FORMATS,
    OPAQUE_NAMES,
    STORAGE_TYPES,
)
from truebits.numbers.formats import CATALOGUE

DTYPES_OF_SAFETENSORS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""``Dtype::bitsize`` of its ``tensor.rs``."""


def test_safetensors_dtypes():
    assert {name: type.bits for name, type in BY_DTYPE.items()} == DTYPES_OF_SAFETENSORS


def test_names_and_numbers_are_unique():
    assert len(BY_NAME) == len(STORAGE_TYPES)
    assert len(BY_NUMBER) == sum(type.number is not None for type in STORAGE_TYPES)


@pytest.mark.parametrize("type", [type for type in STORAGE_TYPES if type.format], ids=lambda type: type.name)
def test_every_format_is_in_the_catalogue_and_as_wide_as_its_type(type):
    assert CATALOGUE[type.format].bits == type.bits


def test_views():
    assert FLOAT_BYTES == {"F32": 4, "F16": 2, "F64": 8, "BF16": 2}
    assert FLOAT_FORMATS == {"F32": "f32", "F16": "fp16", "F64": "f64", "BF16": "bf16"}
    assert all(hasattr(ml_dtypes, format.replace("fp8", "float8")) for format in FP8_FORMATS.values())
    assert {type.name for type in BY_NUMBER.values()} >= {kind.name for kind in gguf.GGMLQuantizationType}


NEWEST_TYPE = 42


REMOVED_TYPES = {4, 5, 31, 32, 33, 36, 37, 38}


def test_type_table_against_gguf():
    expected = {kind.value: (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert expected[9] == ("Q8_1", 32, 40)
    expected[9] = ("Q8_1", 32, 36)  # ggml: two halves and 32 bytes
    assert 42 not in expected
    expected[42] = ("Q2_0", 64, 18)  # newer than gguf 0.19
    assert {number: (type.name, type.values, type.nbytes) for number, type in BY_NUMBER.items()} == expected


def test_every_type_id_is_known_or_named():
    assert set(BY_NUMBER) | REMOVED_TYPES == set(range(NEWEST_TYPE + 1))
    assert not set(BY_NUMBER) & REMOVED_TYPES
    assert set(OPAQUE_NAMES) >= REMOVED_TYPES
    assert not set(OPAQUE_NAMES) & set(BY_NUMBER)


@pytest.mark.parametrize("type_id", sorted(BY_NUMBER))
def test_bytes_of_every_type(opened, type_id):
    name, values, nbytes = BY_NUMBER[type_id].name, BY_NUMBER[type_id].values, BY_NUMBER[type_id].nbytes
    (got,) = opened(gguf_bytes([], [tensor(b"t", (2 * values, 3), type_id)], bytes(6 * nbytes))).tensors
    assert (got.type, got.nbytes, got.values) == (name, 6 * nbytes, 6 * values)
