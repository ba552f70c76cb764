"""HQQ: codes of far rows side by side in a word."""

import numpy as np
import pytest

from quantized_files import RANDOM, assert_golden, cases, folder, same_bits, stored, tensor, values_of
from truebits.quantizers.hqq import PACKINGS, hqq
from truebits.quantizers.method import Method
from truebits.quantizers.quantized import Unread
from truebits.quantizers.weights import meaning_of


@pytest.mark.parametrize("case", cases("hqq"))
@pytest.mark.parametrize("piece", [1 << 20, 300])
def test_values_are_those_of_the_formats_own_package(tmp_path, case, piece):
    assert_golden(tmp_path, case, piece)


def scalar(value):
    return stored("I64", np.array(value, "<i8"))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_codes_of_rows_that_are_far_apart_share_a_word(tmp_path, packing, axis, piece):
    """Row r of the table is in word row r mod step, the first rows in the highest bits (``hqq/core/bitpack.py``)."""
    bits, shared = PACKINGS[packing]
    out, columns, group = 16, 80, 40
    values = out * columns
    shape = (values // group, group) if axis else (group, values // group)
    codes = RANDOM.integers(0, 1 << bits, shape)
    step = -(-shape[0] // shared)
    padded = np.zeros((step * shared, shape[1]), np.int64)
    padded[: shape[0]] = codes
    words = sum(padded[at * step : (at + 1) * step] << bits * (shared - 1 - at) for at in range(shared))
    of_groups = (shape[0], 1) if axis else (1, shape[1])
    zero, scale = (RANDOM.normal(4, 1, of_groups).astype(np.float32) for _ in range(2))
    tensors = {
        "a.W_q": stored("I32", words.astype(np.int32)) if bits == 3 else stored("U8", words.astype(np.uint8)),
        "a.scale": stored("F32", scale),
        "a.zero": stored("F32", zero),
        "a.shape": scalar([out, columns]),
        "a.packing": stored("U8", np.frombuffer(packing.encode(), np.uint8)),
        "a.axis": scalar(axis),
        "a.group_size": scalar(group),
    }
    of = meaning_of(folder(tmp_path, tensors, {"quant_method": "hqq"}))
    expected = (codes.astype(np.float32) - zero) * scale
    same_bits(values_of(of, "a.weight", piece), expected.reshape(out, columns))


HEADERS = {
    "weight": tensor("U8", 16, 32),
    "scale": tensor("F32", 32, 1),
    "zero": tensor("F32", 32, 1),
    "shape": tensor("I64", 2),
    "packing": tensor("U8", 7),
    "axis": tensor("I64"),
    "group": tensor("I64"),
}
SAID = {"shape": (16, 64), "packing": b"4bit_u8", "axis": 1, "group": 32}


def build(headers=HEADERS, **said):
    named = {role: one._replace(name=role) for role, one in headers.items()}

    def peek(asked):
        value = (SAID | said)[asked.name]
        return value if isinstance(value, bytes) else np.array(value, "<i8").tobytes()

    return hqq("a.weight", named, Method(), peek)


def test_what_fits():
    assert (build().tensor.shape, build().tensor.type) == ((16, 64), "HQQ 4-bit")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"packing": b"5bit_u8"}, "no reader for packing 5bit_u8"),
        ({"packing": b"\xff"}, "no reader for packing"),
        ({"shape": b"abc"}, "scalar values in groups of 32"),
        ({"shape": (16, -64)}, "16 x -64 values"),
        ({"shape": (0, 64)}, "0 x 64 values"),
        ({"shape": (2**62, 64)}, "do not fit 16 x 32"),
        ({"axis": 2}, "along axis 2"),
        ({"axis": -1}, "along axis -1"),
        ({"group": 0}, "in groups of 0"),
        ({"group": 33}, "in groups of 33"),
        ({"group": 64}, "16 x 64 codes of 4 bits|its scales are"),
        ({"packing": b"8bit_u8"}, "32 x 32 codes of 8 bits do not fit"),
    ],
)
def test_what_does_not_fit_is_not_read(said, words):
    with pytest.raises(Unread, match=words):
        build(**said)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"zero": tensor("F32", 31)}, "its zero points are 31|its scales are"),
        ({"weight": tensor("F32", 16, 32)}, "its scales are 32 x 1"),
        ({"quant_scale": tensor("BOOL", 1)}, "no reader where quant_scale is set"),
    ],
)
def test_tensors_that_do_not_fit(headers, words):
    with pytest.raises(Unread, match=words):
        build(HEADERS | headers, quant_scale=b"\1")


@pytest.mark.parametrize("role", ["scale", "zero", "shape", "packing", "axis", "group"])
def test_what_is_absent_is_named(role):
    with pytest.raises(Unread, match=f"its {role} is absent"):
        build({name: one for name, one in HEADERS.items() if name != role})
