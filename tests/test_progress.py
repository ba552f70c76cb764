"""Progress: on a terminal, after a while, and never in the way."""

import io
import os
import pty
import subprocess
import sys
import termios
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import truebits as tb
from running import run
from truebits import data
from truebits.cli.app import app
from truebits.report import progress
from truebits.report.progress import in_notebook, progress_bar, say_compiling
from truebits_native import dispatch


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(dispatch, "on_compile", None)


def test_nobody_sees_a_bar_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar("scan") as advance:
        assert advance is None


def bar(monkeypatch, patience, steps):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "PATIENCE", patience)
    with progress_bar("scan") as advance:
        for step in steps:
            advance(*step)
    return terminal.getvalue()


def test_a_bar_on_a_terminal(monkeypatch):
    got = bar(monkeypatch, -1, [(0, 4_000_000), (2_000_000, 4_000_000), (1_000_000, 4_000_000), (4_000_000, 4_000_000)])
    assert "scan" in got
    assert "4.00M" in got


def test_quick_work_has_none(monkeypatch):
    assert bar(monkeypatch, 60, [(1, 2), (2, 2)]) == ""


def test_an_error_closes_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "PATIENCE", -1)
    with pytest.raises(ZeroDivisionError), progress_bar("scan") as advance:  # noqa: PT012
        advance(1, 2)
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.4, ""), (3.2, "compiling a kernel, once for this machine: about 3 s\n")]
)
def test_compiling_is_told_of(monkeypatch, seconds, expected):
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    with progress_bar("scan"):
        dispatch.on_compile(seconds)
    assert terminal.getvalue() == expected


def test_a_stderr_that_is_closed_is_no_error(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    say_compiling(5)


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        (None, False),
        (SimpleNamespace(get_ipython=lambda: None), False),
        (SimpleNamespace(get_ipython=lambda: SimpleNamespace(config={})), False),
        (SimpleNamespace(get_ipython=lambda: SimpleNamespace(config={"IPKernelApp": {}})), True),
    ],
)
def test_in_a_notebook(monkeypatch, shell, expected):
    if shell is None:
        monkeypatch.delitem(sys.modules, "IPython", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "IPython", shell)
    assert in_notebook() == expected


def test_who_asks_for_quiet_sees_no_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "PATIENCE", 0)
    monkeypatch.setattr(progress, "is_quiet", True)
    with progress_bar("scan") as advance:
        assert advance is None
    say_compiling(10)
    assert terminal.getvalue() == ""


def test_the_command_is_quiet_once():
    done = CliRunner().invoke(app, ["scan", "-q", "-t", "1", str(data.MODEL)])
    assert done.exit_code == 0
    assert not progress.is_quiet


def test_progress_shows_on_a_terminal_only(tmp_path):
    path = tb.synth(tmp_path / "model.gguf", size=1 << 20)
    code = (
        "import truebits.report.progress as progress, truebits.cli.app as cli, truebits.precision.scan\n"
        "import sys; progress.PATIENCE = -1\n"
        f"sys.argv = ['truebits', 'scan', {str(path)!r}]\n"
        "cli.main()\n"
    )
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=terminal, text=True)
    os.close(terminal)
    seen = os.read(main, 1 << 16).decode()
    os.close(main)
    assert done.returncode == 0
    assert "scan" in seen
    assert "/1.05M" in seen
    assert run("scan", path).stderr == ""
