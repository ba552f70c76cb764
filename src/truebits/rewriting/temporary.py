"""A folder for files that go afterwards: at once, or, where the process was killed, when the next one makes its own."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from truebits.rewriting.durable import fcntl

PREFIX = "truebits-scratch-"

YOUNG = 60.0
"""Seconds in which a folder may not have its lock yet."""


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder that goes afterwards, and remove those that killed processes have left beside it.

    Parameters
    ----------
    parent : Path, optional
        Where to make it; where temporary files are, if not given.

    Raises
    ------
    OSError
        It cannot be made.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    if fcntl is None:  # nobody can tell whose folder is in use, and so none is swept
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as name:
            yield Path(name)
        return
    _sweep(place)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as name:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):  # a file system without locks: nobody will sweep here
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(descriptor)


def _sweep(place: Path) -> None:
    """Remove folders of this user whose lock nobody holds: their processes have ended without removing them."""
    with suppress(OSError):
        for folder in place.glob(f"{PREFIX}*"):
            with suppress(OSError):
                _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        is_old = time.time() - found.st_mtime > YOUNG
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and is_old:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
