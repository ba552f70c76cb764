"""Folders that go afterwards, whatever became of the process that made them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from truebits.rewriting import temporary
from truebits.rewriting.temporary import PREFIX, temporary_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from truebits.rewriting.temporary import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "model.gguf").write_bytes(b"much")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def age(folder):
    os.utime(folder, (0, 0))


def test_it_goes_afterwards(tmp_path):
    def interrupted():
        with temporary_folder(tmp_path) as folder:
            (folder / "a").write_bytes(b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True)
    (left,) = tmp_path.iterdir()
    assert (str(left), done.returncode) == (done.stdout.strip(), -9)
    with temporary_folder(tmp_path):
        assert left.exists()  # it may be young, and its lock not taken yet
    age(left)
    with temporary_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_what_is_in_use_and_what_is_not_ours_stays(tmp_path):
    link, mine = tmp_path / f"{PREFIX}link", tmp_path / "truebits-mine"
    (tmp_path / "elsewhere").mkdir()
    mine.mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"{PREFIX}file").write_bytes(b"x")
    for path in (mine, tmp_path / "elsewhere"):
        (path / "keep").write_bytes(b"x")
        age(path)
    with temporary_folder(tmp_path) as used:
        age(used)
        with temporary_folder(tmp_path):
            assert used.exists()
        assert (mine / "keep").exists()
        assert (link / "keep").exists()
        assert (tmp_path / f"{PREFIX}file").exists()


def test_it_stands_where_temporary_files_are(tmp_path, monkeypatch):
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as folder:
        assert folder.parent == tmp_path
