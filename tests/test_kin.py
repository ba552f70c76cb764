"""What several models of one checkpoint are to the first of them."""

import json

import pytest

from truebits.lineage.kin import Kin, Relation, Sibling, Siblings, TensorKin
from truebits.precision.coverage import Coverage

WHOLE = Coverage(1, 1, 10, 10, 40, 40)


def siblings(*relations, coverage=WHOLE):
    tensors = tuple(TensorKin(f"t{at}", ("F32", "F16"), (one,), 10, coverage) for at, one in enumerate(relations))
    return Siblings((Sibling("a.gguf", {}), Sibling("b.gguf", {})), tensors)


SAME, MADE, ROUNDED = Relation(Kin.SAME), Relation(Kin.MADE), Relation(Kin.ROUNDED, "FP16")
UNKNOWN = Relation(Kin.UNCOMPARED, "of IQ1_S no values are known")


@pytest.mark.parametrize(
    ("relations", "expected", "is_explained"),
    [
        ([SAME], "the same checkpoint: 1 tensor of the same values", True),
        ([SAME, MADE], "the same checkpoint: all 2 tensors of the same values", True),
        ([SAME, ROUNDED], "the same checkpoint by another way: 1 of 2 same, 1 of 2 rounded to FP16", True),
        ([SAME, UNKNOWN], "not verified: 1 of 2 same, 1 of 2 not compared: of IQ1_S no values are known", True),
        ([Relation(Kin.ABSENT)], "another revision, or changed after the conversion: 1 of 1 absent", False),
        ([UNKNOWN, Relation(Kin.OTHER_VALUES)], "another revision, or changed after the conversion: 1 of 2", False),
    ],
)
def test_conclusion(relations, expected, is_explained):
    got = siblings(*relations)
    assert got.conclusion(1).startswith(expected)
    assert got.is_explained == is_explained
    assert got.is_verified == is_explained


def test_what_was_not_read_is_not_verified():
    part = Coverage(1, 0, 10, 0, 40, 0)
    got = siblings(SAME, coverage=part)
    assert (got.is_explained, got.is_verified) == (True, part.is_complete)


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        (ROUNDED, "rounded to FP16"),
        (Relation(Kin.FINER, "BF16"), "finer: the first is it, rounded to BF16"),
        (UNKNOWN, "not compared: of IQ1_S no values are known"),
        (Relation(Kin.OTHER_VALUES, "5 differ"), "other values"),
    ],
)
def test_a_relation_in_words(relation, expected):
    assert str(relation) == expected


def test_counts_and_document():
    got = siblings(ROUNDED, SAME, ROUNDED)
    assert got.counts(1) == {"rounded to FP16": 2, "same": 1}
    assert list(got.counts(1)) == ["rounded to FP16", "same"]
    document = json.loads(json.dumps(got.content()))
    assert document["models"][0]["conclusion"] is None
    assert document["models"][1]["conclusion"] == got.conclusion(1)
    assert document["tensors"][0]["relations"] == [{"kin": "rounded", "detail": "FP16"}]
    assert got.summary == "2 models, 3 tensors: explained"


def test_faults():
    assert {one for one in Kin if one.is_fault} == {Kin.OTHER_VALUES, Kin.OTHER_SHAPE, Kin.ABSENT, Kin.EXTRA}
    assert siblings(SAME).tensors[0].is_plain
