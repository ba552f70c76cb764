"""JSON nobody vouches for, read where it stands.

One pass over the bytes, token by token: only what is asked for is decoded and kept, nesting is counted
and not followed blindly, a key that stands twice is an error, and every error knows its byte.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from truebits import errors
from truebits.errors import ModelFileError, printable

SPACE = re.compile(rb"[ \t\n\r]*+")
STRING = re.compile(rb'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"', re.DOTALL)
INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?![0-9.eE])")
LITERAL = re.compile(rb"(?:-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+|true|false|null)(?![\w.+-])")

COMMA = ord(",")

MOST_DIGITS = 20
MOST_NESTED = 32
MOST_MEMBERS = 1 << 19
MOST_SKIPPED = 1 << 16


class JsonText:
    """A walk over JSON text; `at` is the byte offset of the next token.

    Parameters
    ----------
    data : mmap.mmap or bytes
        The whole file.
    path : Path
        For errors.
    start, stop : int
        Where the text stands in the file.
    """

    def __init__(self, data: mmap.mmap | bytes, path: Path, start: int, stop: int):
        self.data = data
        self.path = path
        self.at = start
        self.stop = stop
        self.skipped = 0
        self.whole: re.Match[bytes] | None = None

    def fail(self, error: type[ModelFileError], offset: int, message: str) -> NoReturn:
        raise error(self.path, offset, message)

    def expected(self, what: str, error: type[ModelFileError]) -> NoReturn:
        """Refuse the next token, which is not `what`."""
        found = printable(self.data[self.at : min(self.at + 20, self.stop)])
        self.fail(error, self.at, f"expected {what}, found {found or 'the end'}")

    def skip_space(self) -> int:
        if self.at < self.stop and self.data[self.at] <= 32:
            match = SPACE.match(self.data, self.at, self.stop)
            assert match is not None
            self.at = match.end()
        return self.at

    def take(self, byte: bytes) -> bool:
        """Step over a byte if it comes next."""
        at = self.skip_space()
        if at < self.stop and self.data[at : at + 1] == byte:
            self.at = at + 1
            return True
        return False

    def members(
        self,
        error: type[ModelFileError] = errors.BadJson,
        twice: type[ModelFileError] = errors.DuplicateKey,
        usual: re.Pattern[bytes] | None = None,
    ) -> Iterator[tuple[int, str]]:
        """Yield offset and key of each member of an object; the caller reads the value.

        `error` is raised if it is no object, `twice` if a key comes again. A member that is written as `usual`
        has it, with its key in ASCII as the first group, is read in one step: the match is in `whole`, the value
        read. Of 20,000 members that takes a fifth of the time.
        """
        if not self.take(b"{"):
            self.expected("an object", error)
        seen: set[str] = set()
        more = not self.take(b"}")
        while more:
            self.whole = whole = usual.match(self.data, self.at, self.stop) if usual else None
            if whole:
                at, key, self.at = whole.start(1) - 1, whole[1].decode(), whole.end()
            else:
                at, key = self.skip_space(), self.string()
            if key in seen:
                self.fail(twice, at, f"{printable(key[:64])} stands twice")
            if len(seen) == MOST_MEMBERS:
                self.fail(errors.LimitExceeded, at, f"more than {MOST_MEMBERS} members in one object")
            seen.add(key)
            if not whole and not self.take(b":"):
                self.expected("a colon", errors.BadJson)
            yield at, key
            if self.at < self.stop and self.data[self.at] == COMMA:
                self.at += 1
            else:
                more = self.goes_on(b"}")

    def elements(self, error: type[ModelFileError] = errors.BadJson) -> Iterator[int]:
        """Yield the offset of each element of a list; the caller reads it. `error` if it is no list."""
        if not self.take(b"["):
            self.expected("a list", error)
        more = not self.take(b"]")
        while more:
            yield self.skip_space()
            more = self.goes_on(b"]")

    def goes_on(self, closing: bytes) -> bool:
        """Step over a comma or what closes an object or list; tell which it was."""
        if self.take(b","):
            return True
        if not self.take(closing):
            self.expected(f"a comma or {closing.decode()}", errors.BadJson)
        return False

    def string(self, error: type[ModelFileError] = errors.BadJson) -> str:
        """Read a string; raises `error` if it is none, `BadText` if it is not Unicode."""
        start = self.skip_space()
        match = STRING.match(self.data, start, self.stop)
        if match is None:
            self.expected("a string", error)
        raw = self.data[start : match.end()]
        try:
            text = raw[1:-1].decode() if b"\\" not in raw else json.loads(raw.decode())
            text.encode()
        except UnicodeError:
            self.fail(errors.BadText, start, f"{printable(raw[:64])} is not Unicode: invalid UTF-8 or half a surrogate")
        except ValueError:
            self.fail(errors.BadJson, start, f"{printable(raw[:64])} holds an escape that JSON does not have")
        self.at = match.end()
        return text

    def integer(self, error: type[ModelFileError]) -> int:
        """Read a whole number; raises `error` if it is none, or a ridiculous one."""
        start = self.skip_space()
        match = INTEGER.match(self.data, start, self.stop)
        if match is None:
            self.expected("a whole number", error)
        if match.end() - start > MOST_DIGITS:
            self.fail(error, start, f"a number of {match.end() - start} digits, allowed are {MOST_DIGITS}")
        self.at = match.end()
        return int(match[0])

    def skip(self, depth: int = 0) -> None:
        """Step over any value, checking that it is one."""
        at = self.skip_space()
        self.skipped += 1
        if depth > MOST_NESTED or self.skipped > MOST_SKIPPED:
            message = f"more than {MOST_SKIPPED} values that nobody needs, or nested more than {MOST_NESTED} deep"
            self.fail(errors.LimitExceeded, at, message)
        first = self.data[at : at + 1] if at < self.stop else b""
        if first == b"{":
            for _ in self.members():
                self.skip(depth + 1)
        elif first == b"[":
            for _ in self.elements():
                self.skip(depth + 1)
        elif first == b'"':
            self.string()
        else:
            match = LITERAL.match(self.data, at, self.stop)
            if match is None:
                self.expected("a value", errors.BadJson)
            self.at = match.end()

    def end(self) -> None:
        """Refuse anything but space after the value."""
        if self.skip_space() != self.stop:
            self.expected("nothing more", errors.BadJson)
