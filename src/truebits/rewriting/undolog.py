r"""The undo log: old bytes, on disk before they are overwritten.

Layout: ``TBUNDO2\n``, u32 length and JSON of what the rewrite is, SHA-256 of all that; then for each chunk a record:
``TBREC\n``, part u16, length u32, offset u64, CRC-32 of the new bytes u32, CRC-32 of this head and of the old bytes
u32, and the old bytes; at the end ``TBEND\n``, the number of records u64 and the CRC-32 of both.

The JSON has, for each file, a digest of all its bytes before the rewrite: only with it `undo` says that a file is as
it was. The log only grows. What is no whole record, cut short by a crash or rotten, is stepped over and told of.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

from truebits.errors import ModelFileError, Refused
from truebits.rewriting.durable import CLOSED_IN_CHILDREN, NO_LINKS, sync, sync_data, sync_folder, write_all

MAGIC = b"TBUNDO2\n"
LENGTH = Struct("<I")
RECORD = b"TBREC\n"
HEAD = Struct("<6sHIQII")
END = Struct("<6sQI")
END_MARK = b"TBEND\n"
LONGEST_HEAD = 64 << 20
LONGEST_RECORD = 64 << 20
SEARCH_BYTES = 1 << 20


class BadUndoFile(ModelFileError):
    code = "E_UNDO"


class Record(NamedTuple):
    """One overwritten chunk; `at` is where its old bytes stand in the log."""

    part: int
    offset: int
    length: int
    old_crc: int
    new_crc: int
    at: int


class Damage(NamedTuple):
    """A stretch of the log that holds no whole record."""

    at: int
    nbytes: int


@dataclass
class Contents:
    """What a log holds.

    Attributes
    ----------
    records : list of Record
        The whole ones, in order.
    damaged : list of Damage
    promised : int or None
        Number of records, by the end mark; None where there is none.
    """

    records: list[Record] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    promised: int | None = None


@dataclass
class UndoLog:
    """An open undo log; `end` is where the next record goes."""

    path: Path
    descriptor: int
    record: dict[str, Any]
    start: int
    end: int

    def __enter__(self) -> UndoLog:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.descriptor)

    @classmethod
    def open(cls, path: Path, record: dict[str, Any], finishing: bool) -> UndoLog:
        """Create the log of a rewrite, or go on with it when the rewrite is being finished.

        Raises
        ------
        Refused
            The file exists and is not this rewrite's.
        """
        if finishing:
            return cls._go_on(path, record)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINKS | CLOSED_IN_CHILDREN
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileExistsError as error:
            if not cls._is_unused(path, record):
                raise Refused(f"{path} exists; name an undo file that does not") from error
            path.unlink()
            descriptor = os.open(path, flags, 0o666)
        body = json.dumps(record).encode()
        head = MAGIC + LENGTH.pack(len(body)) + body
        head += hashlib.sha256(head).digest()
        try:
            write_all(descriptor, head, 0)
            sync(descriptor)
        except BaseException:
            os.close(descriptor)
            path.unlink()
            raise
        sync_folder(path.absolute().parent)
        return cls(path, descriptor, record, len(head), len(head))

    @classmethod
    def _go_on(cls, path: Path, record: dict[str, Any]) -> UndoLog:
        try:
            log = cls.read(path, os.O_RDWR)
        except FileNotFoundError as error:
            raise Refused(f"{path} is not there; name the undo file this rewrite began with") from error
        if log.record != record:
            os.close(log.descriptor)
            raise Refused(f"{path} is the undo file of another rewrite; name the one this rewrite began with")
        log.end = os.fstat(log.descriptor).st_size
        return log

    @classmethod
    def _is_unused(cls, path: Path, record: dict[str, Any]) -> bool:
        """Tell whether the file is what the same rewrite left behind when it was stopped before it wrote.

        That is: a head and nothing after it; or a piece of a head, or the zeros that a crash leaves of one.
        """
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):  # a device and a FIFO have size 0, too
            return False
        try:
            with cls.read(path) as log:
                is_same = {**log.record, "undo": record["undo"]} == record
                return is_same and os.fstat(log.descriptor).st_size == log.start
        except BadUndoFile:
            return status.st_size <= LONGEST_HEAD and _is_piece_of_a_head(path.read_bytes())
        except OSError:
            return False

    @classmethod
    def read(cls, path: Path, flags: int = os.O_RDONLY) -> UndoLog:
        """Open a log that is there.

        Raises
        ------
        BadUndoFile
            It is not an undo log, or its head is damaged.
        """
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | CLOSED_IN_CHILDREN)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is not a regular file")
            first = os.pread(descriptor, len(MAGIC) + LENGTH.size, 0)
            if len(first) < len(MAGIC) + LENGTH.size or first[: len(MAGIC)] != MAGIC:
                raise ValueError("it does not start with TBUNDO2")
            (length,) = LENGTH.unpack(first[len(MAGIC) :])
            if length > min(LONGEST_HEAD, status.st_size):
                raise ValueError("its head is cut short")
            body = os.pread(descriptor, length, len(first))
            start = len(first) + length + 32
            if os.pread(descriptor, 32, start - 32) != hashlib.sha256(first + body).digest():
                raise ValueError("its head is damaged")
            record = json.loads(body)
            if not isinstance(record, dict) or not isinstance(record.get("operation"), dict):
                raise ValueError("it does not say what was done")
            if any(type(file["part"]) is not int for file in record["files"]):
                raise ValueError("it does not say to which files")
            if sorted(record["undo"]["before"]) != sorted(str(file["part"]) for file in record["files"]):
                raise ValueError("it does not say what the files were before")
        except Exception as error:
            os.close(descriptor)
            raise BadUndoFile(path, 0, f"not an undo file of truebits: {error}") from error
        return cls(path, descriptor, record, start, start)

    def append(self, part: int, offset: int, old: bytes, new: bytes | bytearray) -> None:
        """Record a chunk; it is on disk when this returns."""
        fields = RECORD, part, len(old), offset, zlib.crc32(new)
        check = zlib.crc32(old, zlib.crc32(HEAD.pack(*fields, 0)))
        write_all(self.descriptor, HEAD.pack(*fields, check) + old, self.end)
        sync_data(self.descriptor)
        self.end += HEAD.size + len(old)

    def discard(self) -> None:
        """Remove the log of a rewrite that has written nothing."""
        with suppress(OSError):
            if self.end == self.start:
                self.path.unlink()

    def finish(self) -> None:
        """Mark the end: the rewrite is whole, and so is its log."""
        write_all(self.descriptor, _end(len(self.contents().records)), self.end)
        sync(self.descriptor)
        self.end += END.size

    def contents(self) -> Contents:
        """Read every record, and what is none, to the end mark or to the end of the file."""
        found = Contents()
        at, size = self.start, os.fstat(self.descriptor).st_size
        while at < size:
            record = self._record_at(at, size)
            if record is not None:
                found.records.append(record)
                at = record.at + record.length
            elif (count := self._promised_at(at)) is not None:
                found.promised = count
                break
            else:
                after = self._next(at + 1, size)
                found.damaged.append(Damage(at, after - at))
                at = after
        return found

    def _record_at(self, at: int, size: int) -> Record | None:
        head = os.pread(self.descriptor, HEAD.size, at)
        if len(head) < HEAD.size:
            return None
        *fields, check = HEAD.unpack(head)
        mark, part, length, offset, new_crc = fields
        if mark != RECORD or length > min(LONGEST_RECORD, size - at - HEAD.size):
            return None
        old = os.pread(self.descriptor, length, at + HEAD.size)
        if zlib.crc32(old, zlib.crc32(HEAD.pack(*fields, 0))) != check:
            return None
        return Record(part, offset, length, zlib.crc32(old), new_crc, at + HEAD.size)

    def _promised_at(self, at: int) -> int | None:
        """Return the number of records that an end mark here promises; None if there is none."""
        found = os.pread(self.descriptor, END.size, at)
        if len(found) < END.size:
            return None
        count: int = END.unpack(found)[1]
        return count if found == _end(count) else None

    def _next(self, at: int, size: int) -> int:
        """Return where the next whole record or the end mark is: at the file's end if there is none."""
        for place in self._marks(at, size):
            if self._record_at(place, size) is not None or self._promised_at(place) is not None:
                return place
        return size

    def _marks(self, at: int, size: int) -> Iterator[int]:
        """Yield where the marks of a record or of the end stand."""
        while at < size:
            block = os.pread(self.descriptor, SEARCH_BYTES + len(RECORD) - 1, at)
            places = sorted(place for mark in (RECORD, END_MARK) for place in _places(block, mark))
            yield from (at + place for place in places)
            at += SEARCH_BYTES


def _places(block: bytes, mark: bytes) -> Iterator[int]:
    place = block.find(mark)
    while 0 <= place < SEARCH_BYTES:
        yield place
        place = block.find(mark, place + 1)


def _end(count: int) -> bytes:
    """Return the end mark of so many records."""
    return END.pack(END_MARK, count, zlib.crc32(END.pack(END_MARK, count, 0)))


def _is_piece_of_a_head(data: bytes) -> bool:
    if not data.strip(b"\0"):
        return True
    first, length = data[: len(MAGIC)], data[len(MAGIC) : len(MAGIC) + LENGTH.size]
    if not MAGIC.startswith(first):
        return False
    whole = LENGTH.unpack(length)[0] if len(length) == LENGTH.size else len(data)
    return len(data) <= len(MAGIC) + LENGTH.size + whole + 32
