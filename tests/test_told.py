"""What is said of each result besides its figures."""

import pytest

import truebits as tb
from models import write
from truebits.report.sections import Section
from truebits.report.table import Table
from truebits.report.told import _TOLD, told
from truebits.result import Result
from words import finite_words


@pytest.fixture
def paths(tmp_path):
    shape = (4, 256)
    return [
        write(
            tmp_path / f"{name}.gguf",
            {"a.weight": ("F32", finite_words("F32", shape, seed)), "n": ("F16", finite_words("F16", 256))},
        )
        for name, seed in (("one", 0), ("two\x1b", 1))
    ]


def results(paths):
    return {
        "scan": tb.scan(paths[1]),
        "check": tb.check(paths[1]),
        "diff": tb.diff(*paths),
        "trace-siblings": tb.siblings(paths),
        "rank": tb.rank([paths[1]], paths[0]),
    }


def test_every_result_is_told_safely(paths):
    for verb, result in results(paths).items():
        got = told(result)
        assert result.verb == verb
        assert got.of
        assert got.lines
        said = [got.of, *(line for _, line in got.lines), got.measured]
        parts = [part for section in got.sections for part in section.parts]
        said += [part for part in parts if isinstance(part, str)]
        said += [line for part in parts if isinstance(part, Table) for line in part.render().splitlines()]
        assert all(line.isprintable() for line in said), verb
        assert all(isinstance(section, Section) for section in got.sections)


def test_verdicts_come_first(paths):
    found = results(paths)
    assert told(found["diff"]).lines == [("", "Different: 1 of 2 tensors, 1,024 of 1,280 values.")]
    assert told(found["rank"]).lines[0][1] == f"{found['rank'].conclusion}."
    assert told(tb.diff(paths[0], paths[0])).lines[0][1].startswith("The same: 2 tensors")


def test_errors_are_marked(tmp_path):
    words = finite_words("F32", (4, 256))
    words.flat[3] = 0x7FC00000
    path = write(tmp_path / "nan.gguf", {"a.weight": ("F32", words)})
    assert "error" in {kind for kind, _ in told(tb.scan(path)).lines}
    assert told(tb.check(path)).lines[0][0] == "error"


def test_of_any_other_result_its_summary_is_told(paths):
    found = tb.fingerprint(paths[0])
    assert told(found).lines == [("", found.summary)]


def test_verbs_are_those_of_results():
    public = (getattr(tb, name) for name in tb.__all__)
    verbs = {one.verb for one in public if isinstance(one, type) and issubclass(one, Result)}
    assert set(_TOLD) <= verbs


def test_a_survey_is_told_by_its_tables(paths, tmp_path):
    pytest.importorskip("pyarrow")
    found = tb.survey(paths, out=tmp_path / "tables")
    got = told(found)
    assert got.of == "2 models"
    assert [section.heading for section in got.sections[:2]] == ["By stored as", "By architecture"]
    assert any("could not be read" in line or line.startswith("Read: 2 models") for _, line in got.lines)
