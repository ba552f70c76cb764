"""The marker beside a file that says: a rewrite in place began and is not finished."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from truebits.errors import Refused, Unfinished
from truebits.files.folder import sync_folder

SUFFIX = ".truebits-unfinished"
LONGEST_FILE_NAME = 255


def marker_path(path: Path) -> Path:
    """Return the marker's path: beside the file, and short enough for any file system."""
    name = path.name + SUFFIX
    if len(os.fsencode(name)) > LONGEST_FILE_NAME:
        from hashlib import sha256

        name = sha256(os.fsencode(path.name)).hexdigest()[:32] + SUFFIX
    return path.resolve().with_name(name)


def find_marker(path: Path, record: dict) -> bool:
    """Tell whether `record` is a rewrite that was begun on this file.

    Raises
    ------
    Unfinished
        Another one was.
    """
    begun = read_marker(path)
    if begun is None:
        return False
    if begun != record:
        raise Unfinished(
            f"{path}: another rewrite in place was left unfinished: {json.dumps(begun.get('operation'))}; "
            f"run that again, or undo it (it is recorded in {marker_path(path).name})"
        )
    return True


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
            found = json.loads(file.read(1 << 20))
        except ValueError:
            found = {}
    return found if isinstance(found, dict) else {}


def set_marker(path: Path, record: dict) -> None:
    """Create the marker on disk; one of the same rewrite may be there already."""
    marker = marker_path(path)
    with suppress(FileExistsError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(marker, flags, 0o666)
        try:
            os.write(descriptor, json.dumps(record).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(marker.parent)


def clear_marker(path: Path) -> None:
    marker = marker_path(path)
    marker.unlink(missing_ok=True)
    sync_folder(marker.parent)
