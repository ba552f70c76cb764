"""What tests of several writers stand on; and signals as they are in a terminal.

A runner that was started in the background ignores Ctrl-C, and so would all children of the tests.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

import truebits as tb
from stopping import SMALL_BLOCK
from truebits.cli import app as cli
from truebits.errors import ModelFileError
from truebits.files.model import open_model
from truebits.precision import batches
from truebits.rewriting import copy as rewrite
from truebits.rewriting import durable
from truebits_native import dispatch

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


STARTED = time.monotonic()


def pytest_runtest_setup(item):
    """Leave out long tests that there is no time for any more, and say so."""
    seconds = float(os.environ.get("TRUEBITS_TEST_SECONDS", "inf"))
    if item.get_closest_marker("slow") and time.monotonic() - STARTED > seconds:
        pytest.skip(f"not run: the {seconds:.0f} s for long tests are over")


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch):
    """Let a test see only the provisional names that it has left itself."""
    monkeypatch.setattr(durable, "provisional", set())


@pytest.fixture
def small_blocks(monkeypatch):
    """Let a writer go through small files in several blocks."""
    monkeypatch.setattr(rewrite, "BLOCK_BYTES", SMALL_BLOCK)


@pytest.fixture
def small_batches(monkeypatch):
    """Let a scan read 4 KiB at a time."""
    monkeypatch.setattr(batches, "BATCH_BYTES", 4_096)


@pytest.fixture
def tiny_disk(tmp_path):
    """Give a file system of 1 MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def opened(tmp_path):
    """Open bytes as a model file."""

    def call(data, name="model.gguf", **limits):
        path = tmp_path / name
        path.write_bytes(data)
        return open_model(path, **limits)

    return call


@pytest.fixture
def refused(opened, tmp_path):
    """Check everything an error promises; `words` (found and allowed values) stand in its message."""

    def call(data, error, code, offset, *words, **limits):
        with pytest.raises(ModelFileError) as caught:
            opened(data, **limits)
        got = caught.value
        assert type(got) is error
        assert got.code == code
        assert got.exit_code == 3
        assert got.path == tmp_path / "model.gguf"
        assert 0 <= got.offset <= len(data)
        assert got.offset == offset
        assert f"{code} at byte {offset}" in str(got)
        for word in words:
            assert re.search(rf"(?<!\w){re.escape(str(word))}(?!\w)", got.message), (word, got.message)
        return got

    return call


@pytest.fixture
def kernels(monkeypatch):
    """Let the Numba kernels do work of any size."""
    monkeypatch.setattr(dispatch, "uses_kernel", lambda *_: True)


@pytest.fixture
def twins(monkeypatch):
    """Let the NumPy twins do work of any size."""
    monkeypatch.setattr(dispatch, "uses_kernel", lambda *_: False)


@pytest.fixture(params=["kernels", "twins"])
def both(request):
    request.getfixturevalue(request.param)


class Done(NamedTuple):
    """What a command ended with: exit code, what it prints, and what it complains of."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def truebits(monkeypatch, capsys):
    """Give a function that runs the command line in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    monkeypatch.setattr("truebits.report.progress.say_compiling", lambda seconds: None)  # whenever that is

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["truebits", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Done(stop.value.code, *capsys.readouterr())

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Give a model of F32 values that need all their bits."""
    return tb.synth(tmp_path_factory.mktemp("full") / "full.gguf", size=1 << 18)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """Give a model of F32 values that are BF16."""
    return tb.synth(tmp_path_factory.mktemp("exact") / "exact.gguf", size=1 << 18, precision="bf16")
