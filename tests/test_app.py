"""The command line, by running it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

import truebits as tb
from models import finish
from running import run
from truebits import errors
from truebits.cli import app as cli
from truebits.cli import shared
from truebits.rewriting import durable


def test_help_names_every_exit_code_and_is_quick():
    done = run("--help")
    assert done.returncode == 0
    for code in (*range(9), 70, 130):
        assert f"{code} " in done.stdout.split("Exit codes:")[1]


@pytest.mark.parametrize("command", ["--help", "show", "scan"])
def test_small_work_imports_no_numba(command, exact):
    arguments = [command] if command == "--help" else [command, str(exact)]
    code = (
        "import sys; sys.argv = ['truebits', *sys.argv[1:]]\n"
        "from truebits.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'numba', 'gguf', 'tqdm'} | ({'numpy'} if sys.argv[1] in ('--help', 'show') else set())\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def refusals(folder: Path, full: Path) -> list[tuple[list, int, str]]:
    """Arguments, exit code, and what the one line on stderr must name."""
    (folder / "empty.gguf").touch()
    (folder / "page.gguf").write_text("<!DOCTYPE html><html>")
    (folder / "cut.gguf").write_bytes(full.read_bytes()[:3000])
    (folder / "there.gguf").touch()
    os.mkfifo(folder / "fifo.gguf")
    (folder / "link.gguf").symlink_to(full)
    (folder / "folder").mkdir()
    return [
        (["scan", "missing.gguf"], 4, "missing.gguf"),
        (["scan", "folder"], 4, "folder"),
        (["scan", "fifo.gguf"], 4, "fifo.gguf"),
        (["scan", "empty.gguf"], 3, "E_EMPTY at byte 0"),
        (["scan", "page.gguf"], 3, "HTML"),
        (["scan", "cut.gguf"], 3, "E_BOUNDS at byte"),
        (["scan", full, "-l", "nothing_like_it"], 2, "nothing_like_it"),
        (["scan", full, "-l", "("], 2, "regular expression"),
        (["scan", full, "--bits-view", "no.such"], 2, "no.such"),
        (["scan", full, "--low-bits-only", "--bits", "32"], 2, "1 to 31"),
        (["truncate", full, "out.gguf", "--bits", "0"], 2, "1 to 31"),
        (["truncate", full, "out.gguf", "--bits", "32"], 2, "1 to 31"),
        (["truncate", full, full, "--bits", "16"], 2, "--in-place"),
        (["truncate", full, "--bits", "16"], 2, "--in-place"),
        (["truncate", full, "out.gguf", "--bits", "16", "--undo-file", "u"], 2, "--in-place"),
        (["truncate", full, "there.gguf", "--bits", "16"], 5, "--force"),
        (["truncate", "link.gguf", "--bits", "16", "--in-place"], 5, "--allow symlink"),
        (["truncate", full, "no/such/folder.gguf", "--bits", "16"], 4, "no/such"),
        (["undo", full, "--undo-file", "page.gguf"], 3, "E_UNDO"),
        (["undo", full, "--undo-file", "missing"], 4, "missing"),
        (["scan", "a/" * 3000], 4, "File name too long"),
        (["synth", "there.gguf"], 5, "--force"),
        (["synth", "new.gguf", "--precision", "bf17"], 2, "bf16"),
        (["synth", "new.gguf", "--size", "many"], 2, "many"),
    ]


def test_bad_input_gets_one_line_and_its_exit_code(full, tmp_path, monkeypatch, truebits):
    monkeypatch.chdir(tmp_path)
    for arguments, expected, named in refusals(tmp_path, full):
        before = {path.name for path in tmp_path.iterdir()}
        code, _, complaint = truebits(*arguments)
        assert code == expected, (arguments, complaint)
        assert named in complaint, (arguments, complaint)
        assert "Traceback" not in complaint
        assert len(complaint.strip().splitlines()) == 1 or "Usage:" in complaint, complaint
        assert {path.name for path in tmp_path.iterdir()} == before


def test_names_from_files_reach_the_terminal_escaped(tmp_path, truebits):
    path = tmp_path / "evil.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("\x1b[31mred\u202e", np.ones(4, np.float32))
    finish(writer)
    for arguments in (
        ["show", path, "--by-tensor"],
        ["scan", path, "--by-tensor", "--wide"],
        ["scan", path, "--json"],
        ["scan", path, "-l", "x"],
    ):
        printed = "".join(truebits(*arguments)[1:])
        assert "\x1b" not in printed, arguments
        assert "\u202e" not in printed, arguments
        assert "x1b[31mred" in printed or "u001b[31mred" in printed, arguments


def test_a_reader_that_stops_reading_is_no_error(full):
    command = f"{sys.executable} -m truebits scan {full} --json --by-tensor | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


def writes_into(process, folder):
    """Tell whether a process has written to a file of this folder, which need not have a name yet."""
    opened = Path(f"/proc/{process}/fd").iterdir()
    return any(str(folder) in str(file.readlink()) and file.stat().st_size for file in opened if file.is_symlink())


@pytest.mark.parametrize("arguments", [["scan", "MODEL"], ["scan", "MODEL", "--json"], ["show", "MODEL"], ["--help"]])
def test_a_reader_that_is_gone_before_the_first_line_is_no_error(full, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "truebits", *(str(full) if one == "MODEL" else one for one in arguments)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_writing_leaves_nothing(number, tmp_path):
    out = tmp_path / "big.gguf"
    command = [sys.executable, "-m", "truebits", "synth", str(out), "--size", "4GiB"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not writes_into(child.pid, tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(number)
    _, message = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyError("x" * 5_000), 70, "truebits: a bug of ours (TRUEBITS_TRACEBACK=1 shows where): KeyError: 'xxx"),
        (MemoryError(), 4, "truebits: out of memory"),
        (SystemExit(9), 9, ""),
        (shared.NotVerified(), 7, ""),
        (shared.Different(), 1, ""),
        (errors.EvaluationFailed("llama.cpp died"), 8, "truebits: llama.cpp died"),
        (OSError(28, "No space left", "a\x1b"), 4, r"truebits: a\x1b: No space left"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_each_way_to_end_has_its_exit_code(truebits, full, monkeypatch, raised, code, line):
    """An exception of any kind, raised in the middle of a scan."""

    def fail(*_, **__):
        raise raised

    monkeypatch.setattr("truebits.precision.scan.scan", fail)
    got = truebits("scan", full)
    assert got.returncode == code
    assert got.stderr.lstrip().startswith(line)
    assert len(got.stderr) <= 1_000
    assert "Traceback" not in got.stderr
    monkeypatch.setenv("TRUEBITS_TRACEBACK", "1")
    told = truebits("scan", full)
    assert told.returncode == code
    assert ("Traceback" in told.stderr) == (code == 70)


def test_every_command_has_help_of_its_own(truebits):
    for name in cli.app.commands:
        code, told, complaint = truebits(name, "--help")
        assert (code, complaint) == (0, "")
        assert told.startswith("Usage: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nobodys"], "No such command"), (["scan"], "Missing argument"), (["scan", "x", "--bits", "0"], "--bits")],
)
def test_wrong_usage(truebits, arguments, words):
    code, _, complaint = truebits(*arguments)
    assert code == 2
    assert words in complaint


def test_the_version(truebits):
    assert truebits("--version")[1] == f"truebits, version {tb.__version__}\n"


def test_an_interruption_that_python_drops_comes_again():
    program = (
        "import sys, time\n"
        "from truebits.cli.app import app, main\n"
        "class Dropping:\n"
        "    def __del__(self): raise KeyboardInterrupt\n"
        "@app.command()\n"
        "def wait():\n"
        "    Dropping()\n"
        "    time.sleep(120)\n"
        "sys.argv = ['truebits', 'wait']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (130, "truebits: interrupted; nothing is left half done")


def test_what_an_interruption_leaves_is_named(tmp_path, monkeypatch):
    assert cli._what_is_left() == "nothing is left half done"
    left = tmp_path / ".x.truebits"
    left.touch()
    durable.provisional.add(left)
    assert cli._what_is_left() == f"left behind: {left}"


@pytest.mark.parametrize(
    ("name", "near"), [("scna", "scan"), ("fingerprint", "scan --fingerprint"), ("info", "show"), ("xyzzy", None)]
)
def test_a_verb_that_is_none_names_what_is_near(name, near):
    done = run(name, "model.gguf")
    assert done.returncode == 2
    assert f"No such command '{name}'." in done.stderr
    assert (f"Did you mean {near}" in done.stderr) is bool(near)


@pytest.mark.parametrize("verb", ["scan", "check", "show", "diff", "trace", "truncate", "eval"])
def test_an_empty_name_is_not_the_folder_where_we_are(verb, exact):
    done = run(verb, "", str(exact), *(["--text", str(exact)] if verb == "eval" else []), cwd=exact.parent)
    assert done.returncode == 2
    assert "the name is empty" in done.stderr
