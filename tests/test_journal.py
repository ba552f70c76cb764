"""Results on disk as they come."""

from __future__ import annotations

import pytest

from truebits.errors import UsageError
from truebits.experiments import journal
from truebits.experiments.journal import Journal


@pytest.mark.parametrize(
    "contents",
    [
        *("x\n", "[]\n", '{"schema": "else"}\n', '{"schema": "truebits.journal/1"}\n3\n', "[" * 9999 + "\n"),
        *("a line of notes, without its end", "{}", '{"schema": "truebits.journal/12', " "),
    ],
)
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, contents):
    path = tmp_path / "journal"
    path.write_text(contents)
    with pytest.raises(UsageError, match="is no journal of truebits"):
        Journal(path)
    assert path.read_text() == contents


def test_a_result_is_on_disk_before_the_next(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(journal, "sync_data", lambda file: synced.append((tmp_path / "j").read_text().count("\n")))
    kept = Journal(tmp_path / "j")
    kept.begin({"n_ctx": 8})
    kept.add({"group": "a"})
    assert synced == [1, 2]


ABOUT = {"n_ctx": 8, "text": "ü"}


def test_what_was_kept_is_read(tmp_path):
    first = Journal(tmp_path / "j")
    assert (first.about, first.results) == (None, [])
    first.begin(ABOUT)
    first.add({"group": "a"})
    first.add({"group": "b"})
    again = Journal(tmp_path / "j")
    again.begin(ABOUT)
    assert again.results == first.results == [{"group": "a"}, {"group": "b"}]


def test_results_for_something_else_are_refused(tmp_path):
    Journal(tmp_path / "j").begin(ABOUT)
    with pytest.raises(UsageError, match="has results for another n_ctx and threads"):
        Journal(tmp_path / "j").begin(ABOUT | {"n_ctx": 9, "threads": 1})


def test_whatever_is_cut_off_is_measured_again(tmp_path):
    path = tmp_path / "j"
    kept = Journal(path)
    kept.begin(ABOUT)
    kept.add({"group": "a"})
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        got = Journal(path)
        assert (got.about is not None) == (size >= len(lines[0]))
        assert got.results == ([{"group": "a"}] if size == len(whole) else [])
        assert whole.startswith(path.read_bytes())
        got.begin(ABOUT)
        got.add({"group": "b"})
        assert Journal(path).results == [*got.results]


def test_a_journal_that_is_not_kept(tmp_path):
    journal = Journal(None)
    journal.begin(ABOUT)
    journal.add({"group": "a"})
    assert journal.results == [{"group": "a"}]
