"""Coverage: what a verdict has read, in numbers and in a sentence."""

from __future__ import annotations

import pytest

from truebits.files.tensor import Tensor
from truebits.precision.coverage import NO_WEIGHTS, NOT_SELECTED, Coverage, NotRead

NORM = Tensor("norm", "F32", (256,), 0, 1024, 256)
MATRIX = Tensor("matrix", "Q4_K", (256, 64), 1024, 9216, 16384)
IDS = Tensor("ids", "I64", (8,), 10240, 64, 8)

PARTS = (
    Coverage.of_tensor(NORM),
    Coverage.of_tensor(MATRIX, "by sample", 1152),
    Coverage.of_tensor(MATRIX, "by sample", 0),
    Coverage.of_tensor(IDS, NO_WEIGHTS),
)


def test_parts_add_up_by_type_and_reason():
    expected = Coverage(
        *(4, 1, 33032, 256 + 2048, 1024 + 2 * 9216 + 64, 1024 + 1152),
        (NotRead("Q4_K", 2, 2 * 16384 - 2048, "by sample"), NotRead("I64", 1, 8, NO_WEIGHTS)),
    )
    assert Coverage.merge(PARTS) == expected
    assert PARTS[0] + PARTS[1] + PARTS[2] + PARTS[3] == expected
    assert Coverage.merge([]) == Coverage()


def test_the_document_has_the_keys_of_the_contract():
    got = Coverage.merge(PARTS).to_dict()
    keys = ["tensors", "tensors_read", "values", "values_read", "bytes", "bytes_read", "not_read"]
    assert list(got) == keys
    assert list(got["not_read"][0]) == ["type", "tensors", "values", "why"]


@pytest.mark.parametrize(
    ("why", "expected"), [(None, True), (NOT_SELECTED, True), (NO_WEIGHTS, True), ("unknown type", False)]
)
def test_complete_is_what_read_all_that_was_asked_for(why, expected):
    assert Coverage.of_tensor(MATRIX, why).is_complete is expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (PARTS[:1], "Read: all of 1 tensor, 256 values."),
        (PARTS[:2], "Read: 1 of 2 tensors, 13.8 % of the values; 1 Q4_K tensor not: by sample."),
        (PARTS[2:3], "Read: 0 of 1 tensor, no value; 1 Q4_K tensor not: by sample."),
        ([Coverage(2, 1, 10**9, 1, 10**9, 1, (NotRead("Q4_K", 1, 10**9 - 1, "why"),))], "0.0000001 % of the values"),
        ([Coverage(2, 1, 10**9, 10**9 - 1, 9, 1, (NotRead("Q4_K", 1, 1, "why"),))], "99.9999999 % of the values"),
    ],
)
def test_the_sentence_never_rounds_to_all_or_nothing(parts, expected):
    assert expected in str(Coverage.merge(parts))
