"""What a trace finds, in words."""

import json

import pytest

from truebits.comparing.measure import Place
from truebits.lineage.traces import LeftOut, TensorTrace, Trace
from truebits.lineage.ways import Verdict
from truebits.precision.coverage import Coverage

WHOLE = Coverage(1, 1, 10, 10, 40, 40)
PLACE = Place(3, float("nan"), 1.0, "7fc00000", "3f800000")


def tensor(name="blk.0.a.weight", verdict=Verdict.IDENTICAL, detail="", is_matrix=True, **more):
    fields = {"type": "F32", "sources": ("a",), "source_type": "BF16", "values": 10}
    return TensorTrace(name, verdict=verdict, detail=detail, is_matrix=is_matrix, **(fields | more))


def trace(*tensors, coverage=WHOLE, **more):
    return Trace("m.gguf", "hf", "llama", True, tensors, coverage=coverage, **more)


@pytest.mark.parametrize(
    ("one", "described", "summary"),
    [
        (tensor(), "identical", "identical"),
        (tensor(verdict=Verdict.ROUNDED, detail="BF16"), "rounded to nearest BF16", "rounded to nearest BF16"),
        (tensor(verdict=Verdict.TRUNCATED, detail="BF16"), "truncated to BF16", "truncated to BF16"),
        (
            tensor(verdict=Verdict.CONSISTENT, type="Q4_K", detail="error 1.1"),
            "quantized, block error consistent with Q4_K (error 1.1)",
            "quantized, block error consistent with Q4_K",
        ),
        (tensor(verdict=Verdict.ALTERED, detail="one bit"), "altered (one bit)", "altered"),
        (
            tensor(verdict=Verdict.UPCAST, transforms=("permuting heads", "adding 1")),
            "upcast, exact; transformed by permuting heads, adding 1",
            "upcast, exact; transformed by permuting heads, adding 1",
        ),
    ],
)
def test_a_tensor_in_words(one, described, summary):
    assert (one.described, one.summary) == (described, summary)


@pytest.mark.parametrize(
    ("name", "is_matrix", "expected"),
    [
        ("output_norm.weight", False, "norms"),
        ("blk.0.attn_q_norm.weight", True, "norms"),
        ("blk.0.attn_q.bias", False, "vectors"),
        ("blk.0.attn_q.weight", True, "matrices"),
    ],
)
def test_norms_vectors_and_matrices(name, is_matrix, expected):
    assert tensor(name, is_matrix=is_matrix).part == expected


NORM = tensor("output_norm.weight", Verdict.UPCAST, is_matrix=False, transforms=("adding 1",))


@pytest.mark.parametrize(
    ("tensors", "coverage", "expected"),
    [
        ([], WHOLE, "not verified: no tensor could be compared with this checkpoint"),
        ([tensor(verdict=Verdict.MADE)], WHOLE, "not verified: no tensor could be compared"),
        ([tensor()], WHOLE, "converted from this checkpoint: 1 of 1 matrices bit-identical to the BF16 source"),
        (
            [NORM, tensor(), tensor(verdict=Verdict.ROUNDED, detail="FP16")],
            WHOLE,
            "converted from this checkpoint: 1 of 1 norms bit-identical to the BF16 source, adding 1; "
            "1 of 2 matrices bit-identical to the BF16 source, 1 of 2 rounded to nearest FP16",
        ),
        ([tensor(verdict=Verdict.ALTERED)], WHOLE, "not this checkpoint as it is: 1 of 1 matrices altered"),
        ([tensor(), tensor(verdict=Verdict.MISSING)], WHOLE, "not this checkpoint as it is: 1 of 1 matrices"),
        (
            [tensor(verdict=Verdict.SAME_BLOCKS, type="Q8_0")],
            WHOLE,
            "converted from this checkpoint: 1 of 1 matrices byte",
        ),
    ],
)
def test_conclusion(tensors, coverage, expected):
    got = trace(*tensors, coverage=coverage)
    assert got.conclusion.startswith(expected)
    assert got.is_faithful == (not expected.startswith("not this"))


def test_what_was_not_compared_is_not_verified():
    from truebits.precision.coverage import NotRead

    part = Coverage(2, 1, 10, 5, 40, 20, (NotRead("IQ1_S", 1, 5, "unknown"),))
    got = trace(tensor(), coverage=part)
    assert got.conclusion.startswith("not verified, 50.0 % of the values were not compared; of the rest: ")
    assert (got.is_faithful, got.is_verified) == (True, False)


def test_document_counts_and_places():
    altered = tensor(verdict=Verdict.ALTERED, differing=1, first=PLACE)
    got = trace(altered, tensor(), unmatched=("x",), left_out=(LeftOut("y", "computed"),))
    assert got.counts == {Verdict.ALTERED: 1, Verdict.IDENTICAL: 1}
    document = json.loads(json.dumps(got.content(), allow_nan=False))
    assert document["tensors"][0]["first"] == {"at": 3, "a": None, "b": 1.0, "word_a": "7fc00000", "word_b": "3f800000"}
    assert (document["unmatched"], document["left_out"]) == (["x"], [{"name": "y", "why": "computed"}])
    assert (document["faithful"], got.summary) == (False, got.conclusion)
