"""The marker beside a file that says: a rewrite in place began and is not finished."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

from truebits.errors import Refused, Unfinished
from truebits.rewriting.durable import sync_folder

SUFFIX = ".truebits-unfinished"
LONGEST_FILE_NAME = 255

NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
"""What opening one says where the file system has none."""


def marker_path(path: Path) -> Path:
    """Return the marker's path: beside the file, and short enough for any file system."""
    path = path.resolve()
    name = path.name + SUFFIX
    if len(os.fsencode(name)) > LONGEST_FILE_NAME:
        from hashlib import sha256

        name = sha256(os.fsencode(path.name)).hexdigest()[:32] + SUFFIX
    return path.with_name(name)


def find_marker(path: Path, record: dict) -> dict | None:
    """Return the marker if `record` is a rewrite that was begun on this file, whatever its undo file.

    Raises
    ------
    Unfinished
        Another one was.
    """
    begun = read_marker(path)
    if begun is None:
        return None
    if {**begun, "undo": record["undo"]} != record:
        raise Unfinished(
            f"{path}: another rewrite in place was left unfinished: {json.dumps(begun.get('operation'))}; "
            f"run that again, or undo it (it is recorded in {marker_path(path).name})"
        )
    return begun


def read_marker(path: Path) -> dict | None:
    """Return what an unfinished rewrite recorded; None if there is none."""
    marker = marker_path(path)
    try:
        descriptor = os.open(marker, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(f"{marker} is not a regular file")
        try:
            found = json.loads(file.read())
        except ValueError:
            found = {}
    return found if isinstance(found, dict) else {}


def set_marker(path: Path, record: dict) -> None:
    """Create the marker on disk, whole; one of the same rewrite may be there already.

    It has no name before it is complete, so that a kill leaves nothing behind; where the file system knows no
    nameless files, it has another name first.
    """
    marker, content = marker_path(path), json.dumps(record).encode()
    try:
        descriptor = os.open(marker.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in NO_NAMELESS_FILES:
            raise
        _set_by_rename(marker, content)
    else:
        with os.fdopen(descriptor, "wb") as file:
            _write_through(file, content)
            try:  # with a directory, whichever, Python calls linkat, which follows the link in /proc
                os.link(f"/proc/self/fd/{descriptor}", marker, src_dir_fd=descriptor)
            except FileExistsError:
                pass
            except OSError:  # no /proc, or no links
                _set_by_rename(marker, content)
    sync_folder(marker.parent)


def _set_by_rename(marker: Path, content: bytes) -> None:
    temporary = marker.with_name(f".{os.urandom(6).hex()}.truebits")
    try:
        with temporary.open("xb") as file:
            _write_through(file, content)
        if not marker.exists():
            temporary.rename(marker)
    finally:
        temporary.unlink(missing_ok=True)


def _write_through(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def clear_marker(path: Path) -> None:
    marker = marker_path(path)
    marker.unlink(missing_ok=True)
    sync_folder(marker.parent)
