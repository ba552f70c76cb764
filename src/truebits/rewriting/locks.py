"""Who else is in a file: locks against other writers, and a look at who has it open."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from truebits.errors import Refused
from truebits.files.mapping import FileChanged, Identity
from truebits.files.part import Part
from truebits.rewriting.durable import fcntl as fcntl

UNKNOWN = "another process"
"""Whoever has a file open and is not found."""

TRIES, PAUSE = 5, 0.05
"""How often somebody unknown is looked for, and the seconds in between."""


@contextmanager
def locked(part: Part, allow: set[str]) -> Iterator[int]:
    """Open a file for writing, with nobody else in it."""
    path = part.path
    nofollow = 0 if "symlink" in allow else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | nofollow)
    try:
        if Identity.of(os.fstat(descriptor)) != part.identity:
            raise FileChanged(errno.ESTALE, "has changed since its header was read", str(path))
        _lock(descriptor, path)
        if "open" not in allow and (who := _holder(descriptor)):
            raise Refused(f"{path} is open in {who}; close it, or --allow open")
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Take both kinds of lock: `flock` and the open-file-description lock do not see each other."""
    whole_file = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if hasattr(fcntl, "F_OFD_SETLK"):
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, whole_file)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
            raise Refused(f"{path} is locked by another process: wait until it is done") from error
        if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
            raise


def _holder(descriptor: int) -> str | None:
    """Say who else has the file open or mapped; None if nobody has, or only this process (a `numpy.memmap`).

    A write lease is asked for and given back: the kernel refuses it while the file is open anywhere else, here too.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    who = None
    for _ in range(TRIES):
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            who = _found_in_proc(descriptor) if error.errno == errno.EAGAIN else None
            if who != UNKNOWN:
                return who
            time.sleep(PAUSE)  # a process that was killed has ended before the kernel has closed its files
        else:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            return None
    return who


def _found_in_proc(descriptor: int) -> str | None:
    """Look for who has the file: where this process has it and none that may be looked at, that is all."""
    file, own = os.fstat(descriptor), str(os.getpid())
    for entry in Path("/proc").iterdir() if Path("/proc/self/maps").exists() else ():
        if entry.name.isdecimal() and entry.name != own:
            try:
                if _has(entry, file):
                    return f"another process ({entry.name})"
            except OSError:  # it has ended, or is another user's
                continue
    return None if _has(Path("/proc/self"), file, besides=descriptor) else UNKNOWN


def _has(process: Path, file: os.stat_result, besides: int | None = None) -> bool:
    """Tell whether a process has a file open or mapped."""
    if not process.exists():
        return False
    mapped = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x} {file.st_ino}"
    with (process / "maps").open(encoding="utf-8", errors="replace") as maps:
        if any(" ".join(line.split(maxsplit=5)[3:5]) == mapped for line in maps):
            return True
    for opened in (process / "fd").iterdir():
        try:
            if opened.name != str(besides) and os.path.samestat(opened.stat(), file):
                return True
        except FileNotFoundError:  # closed meanwhile
            continue
    return False
