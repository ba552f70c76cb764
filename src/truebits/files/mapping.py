"""A regular file, opened once and mapped read-only."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LONG_RANGE = 8 << 20

READING = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
"""How files are opened to be read: never waiting for the other end of a pipe; with what the system has of it."""


class Identity(NamedTuple):
    """What tells one state of one file from another."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class FileChanged(OSError):
    """Somebody else wrote to the file while it was being read."""


REMOTE: dict[Path, type[MappedFile]] = {}
"""The files that stand for remote ones, and what maps them."""


def map_file(path: Path, expected: Identity | None = None) -> MappedFile:
    """Map a file, or what stands for a remote one."""
    return REMOTE.get(path, MappedFile)(path, expected)


class MappedFile:
    """The bytes of a regular file, through a private read-only mapping.

    A file that shrinks while it is mapped kills the process that reads the lost part: `check`
    before each batch of work keeps that window small.

    Parameters
    ----------
    path : Path
    expected : Identity, optional
        Refuse the file if it is not, any more, the one seen earlier.

    Raises
    ------
    OSError
        Missing, unreadable, or not a regular file (a folder, a FIFO: opening never blocks).
    FileChanged
    """

    def __init__(self, path: Path, expected: Identity | None = None):
        self.path = path
        self.descriptor = os.open(path, READING)
        try:
            status = os.fstat(self.descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, "is a folder, not a model file", str(path))
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "is not a regular file", str(path))
            self.identity = Identity.of(status)
            if expected is not None and self.identity != expected:
                raise FileChanged(errno.ESTALE, "has changed since its header was read", str(path))
            empty = self.identity.size == 0
            self.data: mmap.mmap | bytes = b"" if empty else _mapped(self.descriptor)
        except BaseException:
            os.close(self.descriptor)
            raise

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file. Arrays over the mapping keep it alive until they go."""
        os.close(self.descriptor)

    def check(self) -> None:
        """Raise `FileChanged` if the file is not what it was when it was opened."""
        if Identity.of(os.fstat(self.descriptor)) != self.identity:
            raise FileChanged(errno.ESTALE, "was changed by another process while it was read", str(self.path))

    def expect(self, start: int, stop: int) -> None:
        """Say that a byte range will be read whole: of a remote file, nothing else can be.

        A long range asks for huge pages: a cold read then fills the page cache in 2 MiB pieces and
        the mapping needs one fault for each, which more than doubles the speed of every later scan.
        A short one is only read ahead.
        """
        long = stop - start >= LONG_RANGE
        self._advise("MADV_HUGEPAGE" if long else "MADV_WILLNEED", start, stop)

    def expect_all(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Say which byte ranges will be read, as far as one knows: a remote file gets them all at once."""

    @property
    def known(self) -> int:
        """How many bytes from the start can be read: all, but of a remote file."""
        return self.identity.size

    def grow(self) -> None:
        """Let more bytes from the start be `known`."""

    def forget(self, start: int, stop: int) -> None:
        """Unmap a byte range's pages (they stay in the page cache), so that memory stays flat."""
        self._advise("MADV_DONTNEED", start, stop)

    def _advise(self, name: str, start: int, stop: int) -> None:
        advice = getattr(mmap, name, None)
        if advice is None:  # macOS has no huge pages to ask for, Windows no advice at all
            return
        start -= start % mmap.PAGESIZE
        stop = min(stop, self.identity.size)
        if stop > start and isinstance(self.data, mmap.mmap):
            with suppress(OSError):  # advice only: a kernel without huge pages says EINVAL
                self.data.madvise(advice, start, stop - start)


def _mapped(descriptor: int) -> mmap.mmap:
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)  # Windows


Files = Mapping[int, MappedFile]
"""Mapped files of a model, by the number of the part."""
