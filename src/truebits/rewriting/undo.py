"""Take a rewrite in place back."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from truebits.errors import Refused, Unfinished, VerificationFailed
from truebits.files.model import open_gguf
from truebits.files.part import Part
from truebits.files.types import FLOAT_BYTES
from truebits.rewriting.copy import write_all
from truebits.rewriting.inplace import check_allowed, describe, locked
from truebits.rewriting.marker import clear_marker, read_marker, set_marker
from truebits.rewriting.undolog import BadUndoFile, Record, UndoLog


@dataclass(frozen=True)
class Undone:
    """What `undo` put back: `chunks` of the file, `nbytes` in all, of `operation`."""

    chunks: int
    nbytes: int
    operation: dict


def undo(
    path: str | os.PathLike[str], undo_file: str | os.PathLike[str], *, force: bool = False, allow: Iterable[str] = ()
) -> Undone:
    """Restore the exact bytes a rewrite in place has overwritten, finished or not.

    Parameters
    ----------
    path : path-like
        The model that was rewritten.
    undo_file : path-like
        What the rewrite recorded. It is kept.
    force : bool
        Restore even where the model holds neither the old nor the new bytes.
    allow : iterable of str
        As for `truncate`.

    Returns
    -------
    Undone

    Raises
    ------
    BadUndoFile
        Not an undo file, or one that reaches outside the model's float tensors.
    Refused
        The undo file is another model's, or the model was changed since.
    """
    model, allowed = open_gguf(path), {*allow, "layout"}
    with ExitStack() as stack:
        log = stack.enter_context(UndoLog.read(Path(undo_file)))
        numbers = [file["part"] for file in log.record["files"]]
        if not all(number in range(len(model.parts)) for number in numbers):
            raise Refused(f"{undo_file} is not of {path}: it names {len(numbers)} files")
        parts = {number: model.parts[number] for number in numbers}
        for part in parts.values():
            check_allowed(part, allowed)
        descriptors = {n: stack.enter_context(locked(part, allowed)) for n, part in parts.items()}
        if describe(parts, descriptors, log.record["operation"], log.record.get("undo")) != log.record:
            raise Refused(f"{undo_file} is not of {path}: size or header differ")
        records = list(log.records())
        _check_inside(parts, records, log)
        undoing = {**log.record, "operation": {"verb": "undo", "of": log.record["operation"]}}
        begun = [_begun(part.path, (log.record, undoing)) for part in parts.values()]
        if not any(begun) and not force:
            _check_contents(records, descriptors, path)
        try:
            for part in parts.values():
                set_marker(part.path, undoing)
            _restore(log, records, descriptors, path)
        except BaseException as error:
            raise Unfinished(
                f"{path}: undoing was left unfinished ({type(error).__name__}: {error}); run the same again"
            ) from error
        for part in parts.values():
            clear_marker(part.path)
    return Undone(len(records), sum(record.length for record in records), log.record["operation"])


def _begun(path: Path, expected: Iterable[dict]) -> bool:
    """Tell whether the rewrite, or its undoing, was left unfinished."""
    marker = read_marker(path)
    if marker is not None and marker not in expected:
        raise Unfinished(f"{path}: another rewrite was left unfinished; undo that one first")
    return marker is not None


def _check_inside(parts: dict[int, Part], records: list[Record], log: UndoLog) -> None:
    """Refuse records that would write anywhere but into float tensors: an undo file is input, too."""
    ranges = defaultdict(list)
    for number, part in parts.items():
        floats = (tensor for tensor in part.header.tensors if tensor.type in FLOAT_BYTES)
        ranges[number] = [(tensor.offset, tensor.offset + tensor.nbytes) for tensor in floats]
    for record in records:
        start, stop = record.offset, record.offset + record.length
        if not any(low <= start and stop <= high for low, high in ranges[record.part]):
            raise BadUndoFile(log.path, record.at, f"bytes {start} to {stop} are not inside a float tensor")


def _check_contents(records: list[Record], descriptors: dict[int, int], path: str | os.PathLike[str]) -> None:
    known: dict[tuple[int, int], set[int]] = defaultdict(set)
    for record in records:
        known[record.part, record.offset] |= {record.old_crc, record.new_crc}
    for record in records:
        found = zlib.crc32(os.pread(descriptors[record.part], record.length, record.offset))
        if found not in known[record.part, record.offset]:
            raise Refused(
                f"{path}: bytes at {record.offset} were changed after the rewrite; --force restores the old ones"
            )


def _restore(log: UndoLog, records: list[Record], descriptors: dict[int, int], path: str | os.PathLike[str]) -> None:
    """Write the old bytes back, the latest record first, so that a chunk ends as it first was."""
    first = {}
    for record in reversed(records):
        write_all(descriptors[record.part], os.pread(log.descriptor, record.length, record.at), record.offset)
        first[record.part, record.offset] = record
    for descriptor in descriptors.values():
        os.fsync(descriptor)
    for record in first.values():
        found = zlib.crc32(os.pread(descriptors[record.part], record.length, record.offset))
        if found != record.old_crc:
            raise VerificationFailed(f"{path}: bytes at {record.offset} were not restored")
