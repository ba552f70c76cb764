"""How near several quantizations are to one source."""

import json
from math import inf

import pytest

from truebits.lineage.ranking import Error, Ranked, Ranking, TensorRank, summed
from truebits.precision.coverage import Coverage

WHOLE = Coverage(2, 2, 10, 10, 40, 40)


def tensor(name, squared, squares=100.0, why=None):
    return TensorRank(name, "Q8_0", name, None if why else Error(squared, squares), why)


def model(path, *errors, coverage=WHOLE):
    return Ranked(path, 8.5, tuple(tensor(f"blk.{at}.a", error) for at, error in enumerate(errors)), coverage)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(Error(), 0), (Error(0, 5), 0), (Error(4, 16), 0.5), (Error(1, 0), inf), (Error(inf, 4), inf)],
)
def test_relative_error(error, expected):
    assert error.relative == expected


def test_errors_add_up():
    parts = [Error(1, 10), Error(3, 30), Error()]
    assert summed(parts) == Error(4, 40)
    assert summed([]) == Error()
    assert summed([summed(parts[:1]), summed(parts[1:])]) == summed(parts)
    assert summed([Error(inf, 1), Error(1, 1)]).relative == inf


def test_worst_and_groups():
    got = Ranked("a", 4.5, (tensor("blk.0.q", 1), tensor("blk.1.q", 4), tensor("v", 0, why="no")), WHOLE)
    assert got.worst.name == "blk.1.q"
    assert got.groups == {"blk.*.q": pytest.approx((5 / 200) ** 0.5)}
    assert got.error == pytest.approx((5 / 200) ** 0.5)
    nothing = Ranked("a", 4.5, (tensor("v", 0, why="no"),), WHOLE)
    assert (nothing.worst, nothing.groups, nothing.error) == (None, {}, 0)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([model("d/a.gguf", 1)], "a.gguf is off by 10 % of the weights' size"),
        ([model("a", 1), model("b", 1.002)], "a is nearest: off by 10 % of the weights' size; b is 1.001 times as far"),
        ([model("a", 1), model("b", 4)], "a is nearest: off by 10 % of the weights' size; b is 2 times as far"),
        ([model("a", 1), model("b", 1)], "a is nearest: off by 10 % of the weights' size, as b is"),
        ([model("a", 0), model("b", 1)], "a is nearest: off by 0 % of the weights' size; b is off by 10 %"),
        ([model("a\x1b", 1)], r"a\x1b is off by 10 %"),
    ],
)
def test_conclusion(models, expected):
    assert Ranking("source", tuple(models)).conclusion.startswith(expected)


def test_document_and_verification():
    got = Ranking("source", (model("a", inf), model("b", 1, coverage=Coverage(2, 1, 10, 5, 40, 20))))
    document = json.loads(json.dumps(got.content(), allow_nan=False))
    assert document["models"][0]["error"] is None
    assert document["models"][1]["worst"] == "blk.0.a"
    assert document["verified"] == got.is_verified
    assert Ranking("s", (model("a", 1),)).is_verified
