"""The marker beside a file that says: a rewrite in place began and is not finished."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from truebits.errors import Refused, Unfinished
from truebits.files.part import Part
from truebits.rewriting import durable
from truebits.rewriting.beside import marker_path

LONGEST_MARKER = 64 << 20


def find_marker(path: Path, record: dict[str, Any]) -> dict[str, Any] | None:
    """Return the marker if `record` is a rewrite that was begun on this file, whatever its undo file.

    Raises
    ------
    Unfinished
        Another one was.
    """
    begun = read_marker(path)
    if begun is None:
        return None
    if {**begun, "undo": None} != {**record, "undo": None}:
        marker = marker_path(path).name
        if "operation" not in begun:
            raise Unfinished(
                f"{path}: a rewrite in place was left unfinished, and {marker}, which would say which, cannot be read: "
                "undo it with its undo file; without one, remove the marker and run the same again"
            )
        raise Unfinished(
            f"{path}: another rewrite in place was left unfinished: {json.dumps(begun['operation'])}; "
            f"run that again, or undo it (it is recorded in {marker})"
        )
    return begun


def read_marker(path: Path) -> dict[str, Any] | None:
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
            found = json.loads(file.read(LONGEST_MARKER))
        except (ValueError, RecursionError):
            found = {}
    return found if isinstance(found, dict) else {}


def set_marker(path: Path, record: dict[str, Any]) -> None:
    """Create the marker on disk, whole; one of the same rewrite may be there already."""
    marker, content = marker_path(path), json.dumps(record).encode()
    durable.provisional.add(marker)
    with durable.unnamed(marker.parent) as (descriptor, opened):
        durable.write_all(descriptor, content, 0)
        durable.sync(descriptor)
        with suppress(FileExistsError):
            durable.give_name(descriptor, opened, marker)
    durable.sync_folder(marker.parent)


def is_marked(parts: Iterable[Part]) -> bool:
    """Tell whether any of a model's files has a marker: where none has, nothing has been written."""
    return any(os.path.lexists(marker_path(part.path)) for part in parts)


def clear_marker(path: Path) -> None:
    marker = marker_path(path)
    marker.unlink(missing_ok=True)
    durable.sync_folder(marker.parent)
    durable.provisional.discard(marker)
