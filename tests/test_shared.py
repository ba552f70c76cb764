"""What all subcommands do."""

from __future__ import annotations

import os

import click
import pytest
from click.testing import CliRunner

import truebits as tb
from truebits.cli.shared import (
    Different,
    Ended,
    NotVerified,
    closed_pipe_is_no_error,
    echo_lines,
    echo_sentences,
    print_table,
)
from truebits.report.table import Table
from truebits.rewriting.beside import marker_path


def test_odd_layout_warns_a_reader_and_stops_a_writer(truebits, full, tmp_path):
    path = tmp_path / "odd.gguf"
    path.write_bytes(full.read_bytes() + b"trailing" * 8)
    shown = truebits("scan", path)
    assert shown.returncode == 0
    assert "warning" in shown.stderr
    assert "E_UNEXPLAINED" in shown.stderr
    written = truebits("truncate", path, tmp_path / "out.gguf", "--bits", 16)
    assert written.returncode == 5
    assert "E_UNEXPLAINED" in written.stderr
    in_place = truebits("truncate", path, "--bits", 16, "--in-place")
    assert in_place.returncode == 5
    assert "--allow layout" in in_place.stderr


@pytest.mark.parametrize(("code", "kind"), [(1, Different), (7, NotVerified)])
def test_endings_have_their_exit_codes(code, kind):
    assert kind.exit_code == code
    assert Ended.of(code).exit_code == code
    assert isinstance(kind(), Ended)


def test_a_reader_that_stops_leaves_the_verdict(capfd):
    def fail():
        with closed_pipe_is_no_error():
            raise BrokenPipeError

    stdout = os.dup(1)
    try:
        fail()
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def test_an_unfinished_rewrite_is_warned_of(tmp_path, truebits):
    path = tb.synth(tmp_path / "m.gguf", size=1 << 12)
    assert truebits("show", path)[2] == ""
    marker_path(path).touch()
    code, _, complaint = truebits("show", path)
    assert code == 0
    assert "warning: a rewrite in place was left unfinished: m.gguf.truebits-unfinished tells which" in complaint


TABLE = Table(("a",), [(1,)])


@pytest.mark.parametrize(("style", "expected"), [("text", "Title\n\n a\n 1\n"), ("csv", "a\n1\n")])
def test_tables_have_a_title_for_people(capsys, style, expected):
    print_table("Title", TABLE, style)
    assert capsys.readouterr().out == expected


def test_no_sentence_is_wider_than_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    echo_sentences("a verdict of more than 20 columns", "", "two\nlines")
    assert capsys.readouterr().out == "a verdict of more\n  than 20 columns\n\ntwo\nlines\n"


@pytest.mark.parametrize("setting", ["", "1"])
def test_findings_are_coloured_on_a_terminal_only(monkeypatch, capsys, setting):
    monkeypatch.setenv("NO_COLOR", setting)
    echo_lines([("error", "bad"), ("warning", "odd"), ("", "fine")])
    assert capsys.readouterr().out == "bad\nodd\nfine\n"
    coloured = CliRunner().invoke(click.command()(lambda: echo_lines([("error", "bad"), ("", "fine")])), color=True)
    assert coloured.output == ("\x1b[31mbad\x1b[0m\nfine\n" if not setting else "bad\nfine\n")
