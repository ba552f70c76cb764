"""What the tables of a survey say of all its models together."""

import json

import pytest

from surveyed import failed, keep, model
from truebits.errors import UsageError
from truebits.surveying import folder
from truebits.surveying.answers import EXAMPLES, read_survey

pytest.importorskip("pyarrow")

NAN = {"kind": "nan", "level": "error", "tensors": 2, "message": "x"}
NOTE = {"kind": "upcast", "level": "note", "tensors": 1, "message": "y"}


def test_models_are_counted_and_added_up(tmp_path):
    more = {"stored": "BF16", "is_upcast": False, "values": 5, "bytes": 100, "publisher": "q", "is_complete": False}
    got = read_survey(keep(tmp_path, model("a"), model("b"), model("c", **more), failed("d")))
    assert (got.models, got.failed, got.complete, got.waiting) == (4, 1, 2, 0)
    assert (got.values, got.bytes, got.bytes_read, got.bytes_saved) == (25, 120, 30, 30)
    assert [(row["stored"], row["came_from"], row["models"]) for row in got.uploads] == [
        ("BF16", "bf16", 1),
        ("F32", "bf16", 2),
    ]
    assert [row["models"] for row in got.stored_as("F32")] == [2]
    assert got.tensors == ({"type": "F32", "came_from": "bf16", "tensors": 3, "values": 30, "bytes": 120},)
    assert [(row["name"], row["models"], row["upcast"]) for row in got.publishers] == [("p", 2, 2), ("q", 1, 0)]
    assert got.summary == "4 models, 1 of them not read, 30 bytes read"


@pytest.mark.parametrize("rows", [1, 2, 1 << 16])
def test_findings_are_worst_first_and_of_so_many_models(tmp_path, monkeypatch, rows):
    """However the rows stand together in the file."""
    monkeypatch.setattr(folder, "ROWS", rows)
    models = [
        model("a", findings=[NOTE]),
        model("b", findings=[NAN, NOTE, NAN]),
        model("c"),
        model("d", findings=[NAN]),
    ]
    got = read_survey(keep(tmp_path, *models))
    assert got.findings == (
        {"kind": "nan", "level": "error", "models": 2, "tensors": 6},
        {"kind": "upcast", "level": "note", "models": 2, "tensors": 2},
    )
    assert got.architectures == (
        {"name": "llama", "models": 4, "upcast": 4, "mislabelled": 0, "with_errors": 2, "bytes": 40},
    )


def test_labels_and_problems_have_a_few_examples(tmp_path):
    wrong = [model(f"w{at}", label="Q4_K_M", contradiction="is Q8_0") for at in range(9)]
    broken = [failed(f"b{at}", 3) for at in range(9)] + [failed("gone", 4, "not there")]
    got = read_survey(keep(tmp_path, model("right", label="Q8_0"), *wrong, *broken))
    assert (got.labels["labelled"], got.labels["contradicted"]) == (10, 9)
    assert len(got.labels["examples"]) == len(got.problems[0]["examples"]) == EXAMPLES
    assert [(row["exit_code"], row["models"]) for row in got.problems] == [(3, 9), (4, 1)]
    assert got.problems[1]["examples"] == [{"source": "gone", "error": "not there"}]


@pytest.mark.parametrize("models", [[], [failed("a")]])
def test_nothing_that_was_read(tmp_path, models):
    got = read_survey(keep(tmp_path, *models))
    assert (got.models, got.values, got.uploads, got.findings, got.tensors) == (len(models), 0, (), (), ())
    assert json.loads(json.dumps(got.content()))["failed"] == len(models)


def test_no_tables_at_all(tmp_path):
    with pytest.raises(UsageError, match=r"has no tables of a survey$"):
        read_survey(tmp_path)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "x.arrow").touch()
    with pytest.raises(UsageError, match="1 models are done, run it again to go on"):
        read_survey(tmp_path)
