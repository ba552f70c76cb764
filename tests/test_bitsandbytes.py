"""bitsandbytes' NF4, FP4 and INT8."""

import json

import numpy as np
import pytest

from quantized_files import (
    RANDOM,
    assert_golden,
    cases,
    folder,
    no_peek,
    positive,
    same_bits,
    stored,
    tensor,
    values_of,
)
from truebits.precision.codebooks import NF4
from truebits.quantizers.bitsandbytes import four_bit, int8
from truebits.quantizers.method import Method
from truebits.quantizers.quantized import Unread
from truebits.quantizers.weights import meaning_of


@pytest.mark.parametrize("case", cases("bnb"))
@pytest.mark.parametrize("piece", [1 << 20, 300])
def test_values_are_those_of_the_formats_own_package(tmp_path, case, piece):
    assert_golden(tmp_path, case, piece)


def state(shape, block=64, **more):
    return {"quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": shape, **more}


@pytest.mark.parametrize(("shape", "block"), [((4, 64), 64), ((3, 50), 64), ((7, 3), 64), ((1, 1), 64), ((5, 40), 32)])
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_blocks_run_on_over_the_rows(tmp_path, shape, block, piece):
    """The first code of a byte is in its high half; a block is `block` values, wherever rows end."""
    values = int(np.prod(shape))
    codes = RANDOM.integers(0, 16, values + values % 2, np.uint8)
    scales, table = positive(-(-values // block)), np.array(NF4, np.float32)
    said = np.frombuffer(json.dumps(state(list(shape), block)).encode(), np.uint8)
    tensors = {
        "a.weight": stored("U8", (codes[::2] << 4 | codes[1::2]).reshape(-1, 1)),
        "a.weight.absmax": stored("F32", scales),
        "a.weight.quant_map": stored("F32", table),
        "a.weight.quant_state.bitsandbytes__nf4": stored("U8", said),
    }
    of = meaning_of(folder(tmp_path, tensors, {"quant_method": "bitsandbytes"}))
    expected = table[codes[:values]] * scales.repeat(block)[:values]
    same_bits(values_of(of, "a.weight", piece), expected.reshape(shape))
    assert of.model.tensors[0].type == "NF4 x scale"


SAID = tensor("U8", 9)._replace(name="a.weight.quant_state.bitsandbytes__nf4")
FOUR = {"weight": tensor("U8", 128, 1), "scale": tensor("F32", 4), "map": tensor("F32", 16), "state": SAID}
NESTED = FOUR | {"scale": tensor("U8", 4), "nested_scale": tensor("F32", 1), "nested_map": tensor("F32", 256)}


def saying(said):
    return lambda _: said if isinstance(said, bytes) else json.dumps(said).encode()


GOOD = state([4, 64])


@pytest.mark.parametrize(
    ("sources", "said", "words"),
    [
        ({"weight": FOUR["weight"]}, b"", "its scale is absent"),
        (FOUR, b"{", "cannot be read: JSONDecodeError"),
        (FOUR, b"[]", "cannot be read: TypeError"),
        (FOUR, b"\xff", "cannot be read: UnicodeDecodeError"),
        (FOUR, b"[" * 100_000, "cannot be read: RecursionError"),
        (FOUR, {"shape": [4, 64]}, "cannot be read: KeyError"),
        (FOUR, GOOD | {"shape": "4"}, "are no sizes"),
        (FOUR, GOOD | {"shape": [4, 0]}, "are no sizes"),
        (FOUR, GOOD | {"shape": [4, True]}, "are no sizes"),
        (FOUR, GOOD | {"shape": [4, 1.5]}, "are no sizes"),
        (FOUR, GOOD | {"blocksize": -64}, "are no sizes"),
        (FOUR, GOOD | {"dtype": "int8"}, "dtype in its quant_state is not known"),
        (FOUR, GOOD | {"shape": [4, 63]}, "4 x 63 in blocks of 64 do not fit 128 bytes"),
        (FOUR, GOOD | {"blocksize": 32}, "in blocks of 32 do not fit"),
        (FOUR | {"map": tensor("F32", 15)}, GOOD, "do not fit"),
        (NESTED, GOOD, "cannot be read: KeyError"),
        (NESTED, GOOD | {"nested_blocksize": 2, "nested_offset": 0.5}, "4 scales need others"),
        (NESTED, GOOD | {"nested_blocksize": 256, "nested_offset": "x"}, "offset or the dtype"),
    ],
)
def test_four_bits_that_do_not_fit(sources, said, words):
    with pytest.raises(Unread, match=words):
        four_bit("a.weight", sources, Method(), saying(said))


def test_what_fits():
    assert four_bit("a.weight", FOUR, Method(), saying(GOOD)).tensor.shape == (4, 64)
    nested = GOOD | {"nested_blocksize": 256, "nested_offset": 0.5}
    assert four_bit("a.weight", NESTED, Method(), saying(nested)).tensor.shape == (4, 64)


@pytest.mark.parametrize(
    ("sources", "peek", "words"),
    [
        ({"weight": tensor("I8", 4, 8)}, no_peek, "its scale is absent"),
        ({"weight": tensor("I8", 4, 8), "scale": tensor("F32", 8)}, no_peek, "SCB is F32 of 8, the weight 4 x 8"),
        ({"weight": tensor("I8", 4, 8), "scale": tensor("F16", 4)}, no_peek, "SCB is F16"),
        ({"weight": tensor("I8", 4), "scale": tensor("F32", 4)}, no_peek, "the weight 4"),
        (
            {"weight": tensor("I8", 4, 8), "scale": tensor("F32", 4), "layout": tensor("U8", 1)},
            lambda _: b"\1",
            "not row-wise",
        ),
        ({"weight": tensor("I8", 4, 8), "scale": tensor("F32", 4), "layout": tensor("U8", 2)}, no_peek, "not row-wise"),
    ],
)
def test_eight_bits_that_do_not_fit(sources, peek, words):
    with pytest.raises(Unread, match=words):
        int8("a.weight", sources, Method(), peek)
