"""The calls that a writer makes to the operating system, with what stands in where it has no such thing.

Linux has all of it. macOS has no nameless files, no `posix_fallocate` and no copies inside the kernel, and its
`fsync` stops at the disk's own cache. Windows cannot sync a folder.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL, c_int, c_int64, c_uint
from functools import cache
from pathlib import Path
from threading import Event

try:
    import fcntl as fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SYNC_FILE_RANGE_WRITE = 2
"""linux/fs.h: start writing, do not wait."""

FICLONE = 0x40049409
"""linux/fs.h: share the blocks of another file, where the file system can."""

AT_FDCWD = -100
RENAME_NOREPLACE = 1
"""linux/fs.h: a name that is taken is an error."""

COPY_BYTES = 64 << 20
"""Copied inside the kernel at a time: Ctrl-C has to wait for one."""

NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
"""What opening one says where the file system has none."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What writing says where the disk, a quota or a limit of file sizes is full."""

NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY)

CLOSED_IN_CHILDREN = getattr(os, "O_CLOEXEC", 0)
BYTES_AS_THEY_ARE = getattr(os, "O_BINARY", 0)
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)

provisional: set[Path] = set()
"""Names that are to go again: temporary files, and markers of rewrites that are under way."""


def left_behind() -> list[Path]:
    """Return the provisional names that are there: what an interruption has left."""
    return sorted(path for path in provisional if os.path.lexists(path))


@cache
def _c() -> CDLL | None:
    return CDLL(None, use_errno=True) if os.name == "posix" else None


# --- to disk


def sync(descriptor: int) -> None:
    """Bring a file to disk. A failure is final: the kernel may have dropped the pages that it could not write."""
    if fcntl is not None and hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync alone leaves the data in the disk's cache
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_data(descriptor: int) -> None:
    """Bring a file's bytes to disk, and of what is known about it only what is needed to read them."""
    os.fdatasync(descriptor) if hasattr(os, "fdatasync") else sync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a new or removed name in a folder durable."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | CLOSED_IN_CHILDREN)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def start_writeback(descriptor: int, offset: int, nbytes: int) -> None:
    """Let the disk begin with what is written, so that the last sync has little left to wait for.

    Only a head start: whether it worked is for `sync` to say.
    """
    if hasattr(_c(), "sync_file_range"):
        _c().sync_file_range(descriptor, c_int64(offset), c_int64(nbytes), SYNC_FILE_RANGE_WRITE)  # type: ignore[union-attr]


def write_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write until all is written: one call may write less."""
    view = memoryview(data)
    while view:
        written = write_at(descriptor, view, offset)
        view, offset = view[written:], offset + written


def write_at(descriptor: int, data: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.write(descriptor, data)


# --- copies


def reserve(source: int, out: int, size: int) -> bool:
    """Clone a file into an empty one where the file system can (True), else claim the room: a full disk shows now."""
    try:
        if fcntl is not None and hasattr(os, "posix_fallocate"):
            fcntl.ioctl(out, FICLONE, source)
            return True
    except OSError:
        pass
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(out, 0, size)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
    return False


def copy_inside(source: int, out: int, start: int, stop: int, interrupted: Event) -> int:
    """Copy bytes unchanged, inside the kernel where it can; return where it stopped."""
    while start < stop and hasattr(os, "copy_file_range") and not interrupted.is_set():
        try:
            copied = os.copy_file_range(source, out, min(stop - start, COPY_BYTES), start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, *NOT_SUPPORTED):
                raise
            break
        if not copied:
            break
        start += copied
    return start


# --- names


@contextmanager
def unnamed(folder: Path) -> Iterator[tuple[int, Path]]:
    """Open a new file that has no name, so that a kill leaves nothing; elsewhere, with a provisional one.

    Yields
    ------
    descriptor : int
        Open for reading and writing; closed at the end.
    path : Path
        By which it can be opened again.
    """
    descriptor = _nameless(folder)
    if descriptor is not None:
        try:
            yield descriptor, Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    path = folder / f".{os.urandom(6).hex()}.truebits"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINKS | CLOSED_IN_CHILDREN | BYTES_AS_THEY_ARE
    with removed_at_the_end(path):
        descriptor = os.open(path, flags, 0o666)
        try:
            yield descriptor, path
        finally:
            with suppress(OSError):  # closed before it was renamed, where open files cannot be
                os.close(descriptor)


def _nameless(folder: Path) -> int | None:
    """Open a file without a name, if this file system has such and a name can be given to it later."""
    if not hasattr(os, "O_TMPFILE") or not os.path.lexists("/proc/self/fd"):
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in NO_NAMELESS_FILES:
            return None
        raise


@contextmanager
def removed_at_the_end(path: Path) -> Iterator[None]:
    """Remove a provisional name whatever happens, if it is still there."""
    provisional.add(path)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
        provisional.discard(path)


@contextmanager
def unnamed_folder(path: Path) -> Iterator[Path]:
    """Give a folder under a provisional name; it gets its own if the block ends well, unless that is taken.

    Raises
    ------
    FileExistsError
        The name is taken, be it since a moment ago.
    """
    folder = path.parent / f".{os.urandom(6).hex()}.truebits"
    provisional.add(folder)
    try:
        folder.mkdir()
        yield folder
        sync_folder(folder)
        _rename_to_free(folder, path)
    finally:
        if folder.exists():
            shutil.rmtree(folder)
        provisional.discard(folder)
    sync_folder(path.parent)


def give_name(descriptor: int, opened: Path, path: Path, replace: bool = False) -> None:
    """Give a file that is whole its name.

    Parameters
    ----------
    descriptor, opened
        From `unnamed`.
    path : Path
    replace : bool
        Take the place of a file of that name.

    Raises
    ------
    FileExistsError
        The name is taken, be it since a moment ago, and not to be replaced.
    """
    if opened.parent != path.parent and opened.parent == Path("/proc/self/fd"):
        try:
            if not replace:
                _link(descriptor, path)
                return
            temporary = path.parent / f".{os.urandom(6).hex()}.truebits"
            with removed_at_the_end(temporary):
                _link(descriptor, temporary)
                temporary.replace(path)
            return
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EPERM, errno.EXDEV, *NOT_SUPPORTED):
                raise
            _copy_to_name(descriptor, path, replace)
            return
    if os.name == "nt":  # no file is renamed there while it is open
        os.close(descriptor)
    if replace:
        opened.replace(path)
    else:
        _rename_to_free(opened, path)


def _link(descriptor: int, path: Path) -> None:
    """Name a nameless file: with a folder, whichever, Python calls linkat, which follows the link in /proc."""
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)


def _copy_to_name(descriptor: int, path: Path, replace: bool) -> None:
    """Copy a nameless file that cannot be linked (a file system without links) to one with a name."""
    temporary = path.parent / f".{os.urandom(6).hex()}.truebits"
    with removed_at_the_end(temporary), temporary.open("xb") as file, os.fdopen(os.dup(descriptor), "rb") as whole:
        whole.seek(0)
        while block := whole.read(COPY_BYTES):
            file.write(block)
        file.flush()
        os.fchmod(file.fileno(), os.fstat(descriptor).st_mode & 0o7777)
        sync(file.fileno())
        temporary.replace(path) if replace else _rename_to_free(temporary, path)


def _rename_to_free(old: Path, new: Path) -> None:
    """Rename, but never over a name that is taken."""
    renameat2 = getattr(_c(), "renameat2", None)
    if renameat2 is not None:
        paths = os.fsencode(old), os.fsencode(new)
        if renameat2(c_int(AT_FDCWD), paths[0], c_int(AT_FDCWD), paths[1], c_uint(RENAME_NOREPLACE)) == 0:
            return
        import ctypes

        number = ctypes.get_errno()
        if number not in NOT_SUPPORTED:
            raise OSError(number, os.strerror(number), str(new))
    if os.name == "nt":
        old.rename(new)  # there it is an error where the name is taken
        return
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno == errno.EEXIST or os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from error
        old.rename(new)  # no links either: the moment between the look and the renaming remains
