"""Results on disk as they come, so that what is interrupted goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from truebits.errors import UsageError, printable
from truebits.rewriting.durable import sync_data

SCHEMA = "truebits.journal/1"
BEGINNING = json.dumps({"schema": SCHEMA})[:-1].encode()
"""Of its first line, which may be cut off; what begins otherwise is no journal, and somebody's."""


class Journal:
    """A file of one JSON object a line: what the results depend on, then the results.

    Parameters
    ----------
    path : path-like or None
        None for a journal that is not kept.

    Attributes
    ----------
    about : dict or None
        What its results depend on; None where there are none yet.
    results : list of dict

    Raises
    ------
    UsageError
        The file is something else.
    OSError
    """

    def __init__(self, path: str | os.PathLike[str] | None):
        self.path = None if path is None else Path(path)
        self.about: dict[str, Any] | None = None
        self.results: list[dict[str, Any]] = []
        if self.path is not None and self.path.exists():
            data = self.path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]  # a line that was cut off is measured again
            if not whole and data[: len(BEGINNING)] != BEGINNING[: len(data)]:
                self._refuse()
            self.about, *self.results = self._parsed(whole) or [None]
            if len(whole) < len(data):
                os.truncate(self.path, len(whole))

    def _parsed(self, data: bytes) -> list[Any]:
        try:
            lines = [json.loads(line) for line in data.splitlines()]
            if not lines or (lines[0]["schema"] == SCHEMA and all(isinstance(line, dict) for line in lines)):
                return lines
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UsageError(f"{printable(str(self.path))} is no journal of truebits: give another name")

    def begin(self, about: dict[str, Any]) -> None:
        """Say what the results depend on.

        Raises
        ------
        UsageError
            Those that are there depend on something else.
        """
        if self.about is None:
            self.about = {"schema": SCHEMA, **about}
            self._write(self.about)
        differ = [key for key, value in about.items() if self.about.get(key) != value]
        if differ:
            raise UsageError(
                f"{printable(str(self.path))} has results for another {' and '.join(differ)}: "
                "give another name, or remove it"
            )

    def add(self, result: dict[str, Any]) -> None:
        """Keep a result, on disk when this returns."""
        self.results.append(result)
        self._write(result)

    def _write(self, line: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                sync_data(file.fileno())
