r"""The undo log: old bytes, on disk before they are overwritten.

Layout: ``TBUNDO1\n``, u32 length and JSON of what the rewrite is; then for each chunk a record of part
u32, length u32, offset u64, CRC-32 of the old bytes u32, of the new bytes u32, of this record's head u32,
and the old bytes. A record cut short by a crash belongs to a chunk that was not yet overwritten.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from truebits.errors import ModelFileError, Refused
from truebits.rewriting.copy import write_all
from truebits.rewriting.durable import sync_folder

MAGIC = b"TBUNDO1\n"
LENGTH = Struct("<I")
HEAD = Struct("<IIQIII")
LONGEST_RECORD = 64 << 20


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


@dataclass
class UndoLog:
    """An open undo log; `end` is where the next record goes."""

    path: Path
    descriptor: int
    record: dict
    end: int

    def __enter__(self) -> UndoLog:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.descriptor)

    @classmethod
    def open(cls, path: Path, record: dict, finishing: bool) -> UndoLog:
        """Create the log of a rewrite, or go on with it when the rewrite is being finished.

        Raises
        ------
        Refused
            The file exists and is not this rewrite's.
        """
        if finishing:
            try:
                log = cls.read(path, os.O_RDWR)
            except FileNotFoundError as error:
                raise Refused(f"{path} is not there; name the undo file this rewrite began with") from error
            if log.record != record:
                os.close(log.descriptor)
                raise Refused(f"{path} is the undo file of another rewrite; name the one this rewrite began with")
            for found in log.records():
                log.end = found.at + found.length
            os.ftruncate(log.descriptor, log.end)
            return log
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileExistsError as error:
            if not cls._is_unused(path, record):
                raise Refused(f"{path} exists; name an undo file that does not") from error
            path.unlink()
            descriptor = os.open(path, flags, 0o666)
        head = json.dumps(record).encode()
        try:
            write_all(descriptor, MAGIC + LENGTH.pack(len(head)) + head, 0)
            os.fsync(descriptor)
        except BaseException:
            os.close(descriptor)
            path.unlink()
            raise
        sync_folder(path.absolute().parent)
        return cls(path, descriptor, record, len(MAGIC) + LENGTH.size + len(head))

    @classmethod
    def _is_unused(cls, path: Path, record: dict) -> bool:
        """Tell whether the file is what the same rewrite left behind when it was stopped before it wrote."""
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):  # a device and a FIFO have size 0, too
            return False
        if not status.st_size:
            return True
        try:
            with cls.read(path) as log:
                return {**log.record, "undo": record["undo"]} == record and os.fstat(log.descriptor).st_size == log.end
        except (BadUndoFile, OSError):
            return False

    @classmethod
    def read(cls, path: Path, flags: int = os.O_RDONLY) -> UndoLog:
        """Open a log that is there.

        Raises
        ------
        BadUndoFile
            It is not an undo log.
        """
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("it is not a regular file")
            start = os.pread(descriptor, len(MAGIC) + LENGTH.size, 0)
            if start[: len(MAGIC)] != MAGIC:
                raise ValueError("it does not start with TBUNDO1")
            (length,) = LENGTH.unpack(start[len(MAGIC) :])
            record = json.loads(os.pread(descriptor, min(length, os.fstat(descriptor).st_size), len(start)))
            if not isinstance(record, dict) or not isinstance(record.get("operation"), dict):
                raise ValueError("it does not say what was done")
            if any(type(file["part"]) is not int for file in record["files"]):
                raise ValueError("it does not say to which files")
        except Exception as error:
            os.close(descriptor)
            raise BadUndoFile(path, 0, f"not an undo file of truebits: {error}") from error
        return cls(path, descriptor, record, len(start) + length)

    def append(self, part: int, offset: int, old: bytes, new: bytes | bytearray) -> None:
        """Record a chunk; it is on disk when this returns."""
        fields = (part, len(old), offset, zlib.crc32(old), zlib.crc32(new))
        head = HEAD.pack(*fields, zlib.crc32(repr(fields).encode()))
        write_all(self.descriptor, head + old, self.end)
        os.fdatasync(self.descriptor)
        self.end += len(head) + len(old)

    def records(self) -> Iterator[Record]:
        """Yield the whole records, in order, and stop at one that was cut short."""
        at, size = self.end, os.fstat(self.descriptor).st_size
        while size - at >= HEAD.size:
            *fields, check = HEAD.unpack(os.pread(self.descriptor, HEAD.size, at))
            part, length, offset, old_crc, new_crc = fields
            at += HEAD.size
            if zlib.crc32(repr(tuple(fields)).encode()) != check or length > LONGEST_RECORD or length > size - at:
                return
            if zlib.crc32(os.pread(self.descriptor, length, at)) != old_crc:
                return
            yield Record(part, offset, length, old_crc, new_crc, at)
            at += length
