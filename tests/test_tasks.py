"""What a worker of a survey does: a model's part, whatever is wrong with it; of a large one, ranges."""

import numpy as np
import pytest

import truebits as tb
from gguf_bytes import named_tensors
from models import TENSORS, write
from truebits.errors import MissingExtra
from truebits.surveying import tasks
from truebits.surveying.sources import Source, state_of
from truebits.surveying.tables import read_part
from truebits.surveying.tasks import Ranges, Reading, count_ranges, finish_model, survey_model

pytest.importorskip("pyarrow")

READING = Reading([], [], None, 1, None, {})


def read(part):
    """Return the model's row, and its tensors' rows."""
    model, tensors = read_part(part)
    return model, tensors.to_pylist()


@pytest.fixture
def source(tmp_path):
    path = write(tmp_path / "m.gguf", TENSORS)
    return Source(str(path), str(path))


def test_a_part_says_what_the_scan_says(source):
    model, tensors = read(survey_model(source, READING))
    report = tb.scan(source.opens)
    assert (model["exit_code"], model["state"]) == (0, state_of(source))
    assert [row["tensor"] for row in tensors] == list(TENSORS)
    for row in tensors:
        one = report[row["tensor"]]
        assert (row["values"], row["bf16"], row["nan"], row["came_from"]) == (
            one.values, one.fits("bf16"), one.nan, one.origin.format,
        )  # fmt: skip


@pytest.mark.parametrize("split", [9_000, 20_000])
def test_ranges_of_a_large_model_make_the_same_part(source, split):
    whole = survey_model(source, READING)
    reading = READING._replace(split=split)
    ranges = survey_model(source, reading)
    assert isinstance(ranges, Ranges)
    assert all(sum(tensor.nbytes for tensor in some) <= split for some in ranges.tasks)
    state = ranges.state
    pairs = zip(ranges.tasks, ranges.starts, strict=True)
    counts = [count_ranges(source, state, some, starts, reading) for some, starts in pairs]
    assert finish_model(source, state, counts, reading) == whole


def test_a_small_model_is_not_split(source):
    assert isinstance(survey_model(source, READING._replace(split=1 << 30)), bytes)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", 3, "E_EMPTY"),
        (b"GGUF\3", 3, "E_TRUNCATED"),
        (None, 4, "no such file"),
        (named_tensors("a")[:-1], 3, "E_BOUNDS"),
    ],
)
def test_a_model_that_cannot_be_read_has_a_row(tmp_path, content, code, words):
    path = tmp_path / "m.gguf"
    if content is not None:
        path.write_bytes(content)
    model, tensors = read(survey_model(Source("m", str(path)), READING))
    assert (model["source"], model["exit_code"], tensors) == ("m", code, [])
    assert words in model["error"]


def test_a_bug_of_ours_is_a_row_too(source, monkeypatch):
    monkeypatch.setattr(tasks, "scan", lambda *_, **__: 1 / 0)
    model, _ = read(survey_model(source, READING))
    assert (model["exit_code"], model["error"]) == (70, "ZeroDivisionError: division by zero")

    def missing(*_, **__):
        raise MissingExtra("this", "eval")

    monkeypatch.setattr(tasks, "scan", missing)
    with pytest.raises(MissingExtra):
        survey_model(source, READING)


def test_what_is_known_to_be_unreadable_is_not_opened(monkeypatch):
    monkeypatch.setattr(tasks, "open_model", lambda *_: pytest.fail("opened"))
    model, _ = read(survey_model(Source("hf://o/r", "hf://o/r", "0" * 40, "is gated"), READING))
    assert (model["exit_code"], model["error"], model["state"]) == (4, "is gated", "0" * 40)


def test_a_model_that_changed_meanwhile_is_a_row(source):
    ranges = survey_model(source, READING._replace(split=64))
    write(tb.open(source.opens).path, {"a": ("F32", np.zeros(8, np.uint32))})
    for part in (
        count_ranges(source, ranges.state, ranges.tasks[0], ranges.starts[0], READING),
        finish_model(source, ranges.state, [], READING),
    ):
        model, _ = read(part)
        assert model["exit_code"] == 4
        assert "has changed since its header was read" in model["error"]
