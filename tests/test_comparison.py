"""One tensor of a GGUF beside what a converter makes of its source."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from traced_pair import compared

VALUES = np.arange(64, dtype=np.float32).reshape(8, 8) / 7
PACKED = np.tile(np.arange(34, dtype=np.uint8), 2)


def test_both_sides(tmp_path):
    with compared(tmp_path, ("F32", VALUES.T.ravel().view("<u4").copy()), VALUES, lambda of: [of.T]) as of:
        ((first, count),) = of.expected.spans(1)
        assert of.type == "F32"
        assert (of.words(first, count).view("<f4") == of.values(first, count)).all()
        assert of.values(first, count, is_ordered=False).tolist() == VALUES.ravel().tolist()
        assert of.packed(3, 2).tobytes() == VALUES.T.ravel()[3:5].tobytes()


@pytest.mark.parametrize(("type", "dtype"), [("F32", np.float32), ("F16", np.float16), ("BF16", ml_dtypes.bfloat16)])
def test_bytes_that_stand_the_other_way_round(tmp_path, type, dtype):
    words = VALUES.astype(dtype).view(f"<u{np.dtype(dtype).itemsize}").ravel()
    with compared(tmp_path, (type, words.byteswap()), VALUES.astype(dtype)) as of:
        swapped = replace(of, is_swapped=True)
        assert swapped.words(0, 64, type).tolist() == words.tolist()
        assert swapped.words(0, 64).view("<f4").tolist() == VALUES.astype(dtype).astype(np.float32).ravel().tolist()
        assert of.words(0, 64, type).tolist() == words.byteswap().tolist()


def test_progress_is_in_bytes_of_the_gguf(tmp_path):
    reached = []
    with compared(tmp_path, ("Q8_0", PACKED), VALUES) as of:
        of = replace(of, advance=reached.append)
        for first, count in of.expected.spans(32):
            of.leave(first, count)
    assert reached == [68]


@pytest.mark.parametrize("at", [0, 9, 63])
def test_one_value_on_both_sides(tmp_path, at):
    changed = VALUES.ravel().copy()
    changed[at] = 99
    with compared(tmp_path, ("F32", changed.view("<u4")), VALUES) as of:
        got = of.place_at(at)
    assert (got.at, got.a, got.b) == (at, 99, VALUES.ravel()[at])
