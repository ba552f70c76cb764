"""Who else is in a file."""

import errno
import fcntl
import subprocess
import sys

import numpy as np
import pytest

import truebits as tb
from truebits.errors import Refused
from truebits.files.model import open_model
from truebits.rewriting.locks import locked


@pytest.fixture
def path(tmp_path):
    return tb.synth(tmp_path / "model.gguf", size=1 << 16)


def lock(path, allow=()):
    with locked(open_model(path).parts[0], set(allow)) as descriptor:
        return descriptor


def test_a_memmap_of_this_process_is_nobody_else(path):
    view = np.memmap(path, np.uint8, "r")
    with path.open("rb"):
        assert lock(path) > 2
    assert view.size == path.stat().st_size


HOLD = {
    "open": "file = open(sys.argv[1], 'rb')",
    "map": "import mmap; f = open(sys.argv[1], 'rb'); view = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()",
}


@pytest.mark.parametrize("how", HOLD)
def test_another_process_is_named(path, how):
    code = f"import sys; {HOLD[how]}; print('there', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "there\n"
        with pytest.raises(Refused, match=rf"open in another process \({other.pid}\); close it, or --allow open"):
            lock(path)
        assert lock(path, ["open"]) > 2
        other.communicate("")
    assert lock(path) > 2


def test_a_second_writer_is_refused(path):
    part = open_model(path).parts[0]
    with locked(part, set()), pytest.raises(Refused, match="locked by another process"):
        lock(path)


@pytest.mark.parametrize("times", [2, 99])
def test_a_killed_process_whose_files_are_not_closed_yet_is_waited_for(path, monkeypatch, times):
    """The kernel says that somebody has the file, and nobody is found: for a moment, or for good."""
    ask, refusals = fcntl.fcntl, iter(range(times))

    def fcntl_of(descriptor, what, *argument):
        if (what, *argument) == (fcntl.F_SETLEASE, fcntl.F_WRLCK) and next(refusals, None) is not None:
            raise BlockingIOError(errno.EAGAIN, "somebody has it")
        return ask(descriptor, what, *argument)

    monkeypatch.setattr(fcntl, "fcntl", fcntl_of)
    if times == 2:
        assert lock(path) > 2
    else:
        with pytest.raises(Refused, match="open in another process; close it"):
            lock(path)
