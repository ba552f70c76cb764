"""Reports in sections."""

import pytest

from truebits.report.sections import Section, render
from truebits.report.table import Table

PARTS = [Section("One", ["A sentence.", Table(("a",), [(1,)])]), Section("Nothing", [])]


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("text", "ONE\n\nA sentence.\n\n a\n 1\n\nNOTHING"),
        ("md", "## One\n\nA sentence.\n\n|  a |\n| -: |\n|  1 |\n\n## Nothing"),
    ],
)
def test_render(style, expected):
    assert render(PARTS, style) == expected
    assert render([], style) == ""


def test_sentences_fit_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    sections = [Section("One", ["A sentence that is longer than that.\nAnother."])]
    assert render(sections, "text").splitlines()[2:] == ["A sentence that is", "  longer than that.", "Another."]
    assert render(sections, "md").splitlines()[2] == "A sentence that is longer than that."
