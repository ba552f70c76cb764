"""Take a rewrite in place back: nothing is called restored that a digest does not prove."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truebits.errors import Refused, Unfinished, VerificationFailed
from truebits.files.model import open_local
from truebits.files.part import Part
from truebits.files.types import FLOAT_BYTES
from truebits.rewriting.copy import DIGEST_BYTES, digest
from truebits.rewriting.durable import sync, write_all
from truebits.rewriting.inplace import check_allowed, describe
from truebits.rewriting.locks import locked
from truebits.rewriting.marker import clear_marker, is_marked, read_marker, set_marker
from truebits.rewriting.undolog import BadUndoFile, Contents, Record, UndoLog


@dataclass(frozen=True)
class Undone:
    """What `undo` put back.

    Attributes
    ----------
    chunks, nbytes : int
        Written to the model.
    operation : dict[str, Any]
        What was undone.
    is_proved : bool
        The files are what they were before the rewrite, by the SHA-256 taken then. Where not, it was forced.
    """

    chunks: int
    nbytes: int
    operation: dict[str, Any]
    is_proved: bool


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
        Restore what can be restored, even where the model was changed since, or a part of the undo file is damaged.
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
        The undo file is another model's, the model was changed since, or with these records it would not be what
        it was. Nothing has been written.
    """
    model, allowed = open_local(path), {*allow, "layout"}
    with ExitStack() as stack:
        log = stack.enter_context(UndoLog.read(Path(undo_file)))
        before = {int(number): digest for number, digest in log.record["undo"]["before"].items()}
        if not all(number in range(len(model.parts)) for number in before):
            raise Refused(f"{undo_file} is not of {path}: it names {len(before)} files")
        parts = {number: model.parts[number] for number in before}
        for part in parts.values():
            check_allowed(part, allowed)
        descriptors = {n: stack.enter_context(locked(part, allowed)) for n, part in parts.items()}
        if describe(parts, descriptors, log.record["operation"], log.record["undo"]) != log.record:
            raise Refused(f"{undo_file} is not of {path}: size or header differ")
        contents = log.contents()
        _check_inside(parts, contents.records, log)
        undoing = {**log.record, "operation": {"verb": "undo", "of": log.record["operation"]}}
        begun = [_begun(part.path, (log.record, undoing)) for part in parts.values()]
        if not any(begun) and not force:
            _check_contents(contents.records, descriptors, path)
        chunks = {n: _oldest(contents.records, n) for n in parts}
        after = {n: _digest_after(log, chunks[n], descriptors[n], parts[n].identity.size) for n in parts}
        if after != before and not force:
            raise Refused(f"{path}: {_missing(contents, log)}; nothing was written. --force restores what is there")
        try:
            for part in parts.values():
                set_marker(part.path, undoing)
            for n in parts:
                _restore(log, chunks[n], descriptors[n])
                if digest(descriptors[n], [(0, parts[n].identity.size)]) != after[n]:
                    raise VerificationFailed(f"{parts[n].path}: what was restored is not what was written")
        except BaseException as error:
            if not is_marked(parts.values()):
                raise
            raise Unfinished(
                f"{path}: undoing was left unfinished ({type(error).__name__}: {error}); run the same again"
            ) from error
        for part in parts.values():
            clear_marker(part.path)
    written = [record for records in chunks.values() for record in records]
    return Undone(len(written), sum(record.length for record in written), log.record["operation"], after == before)


def _missing(contents: Contents, log: UndoLog) -> str:
    """Say why the records do not make the model what it was."""
    told = f"with what {log.path.name} holds it would not be as it was before the rewrite: "
    if contents.damaged:
        at, nbytes = contents.damaged[0]
        more = f" and in {len(contents.damaged) - 1} more places" if len(contents.damaged) > 1 else ""
        where = f"at byte {at} ({nbytes} bytes){more}"
        return f"{told}the undo file is damaged {where}; {len(contents.records)} of its records are whole"
    if contents.promised is None:
        return f"{told}the undo file is cut short after {len(contents.records)} records"
    return f"{told}the model has other bytes that were changed since"


def _oldest(records: list[Record], part: int) -> list[Record]:
    """Return the records of a file by offset: of each chunk the first, which holds what it was at the beginning."""
    first: dict[int, Record] = {}
    for record in records:
        if record.part == part:
            first.setdefault(record.offset, record)
    return sorted(first.values(), key=lambda record: record.offset)


def _digest_after(log: UndoLog, records: list[Record], descriptor: int, size: int) -> str:
    """Return what `digest` will say of the file once these records are written to it."""
    whole = hashlib.sha256()
    waiting = list(reversed(records))
    for start in range(0, size, DIGEST_BYTES):
        stop = min(start + DIGEST_BYTES, size)
        block = bytearray(os.pread(descriptor, stop - start, start))
        while waiting and waiting[-1].offset < stop:
            record = waiting[-1]
            low, high = max(start, record.offset), min(stop, record.offset + record.length)
            block[low - start : high - start] = os.pread(log.descriptor, high - low, record.at + low - record.offset)
            if record.offset + record.length > stop:
                break
            waiting.pop()
        whole.update(hashlib.sha256(block).digest())
    return whole.hexdigest()


def _restore(log: UndoLog, records: list[Record], descriptor: int) -> None:
    """Write the old bytes back."""
    for record in records:
        write_all(descriptor, os.pread(log.descriptor, record.length, record.at), record.offset)
    sync(descriptor)


def _begun(path: Path, expected: Iterable[dict[str, Any]]) -> bool:
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
