"""A survey's folder: two Parquet tables in the order of their models' names, and parts that are not in them yet.

A part is one model's, and appears under its name when it is whole. `fold` merges parts and tables into new tables and
then removes the parts; both tables are made before either gets its name, and where a part and a table have the same
model, the part is right. So a kill at any moment loses no model that was done, and what the tables hold in the end
depends on the models alone: not on the order in which they were done, nor on who did them, nor on how often it was
interrupted.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from truebits.errors import Refused, UsageError, printable
from truebits.rewriting.durable import fcntl, give_name, unnamed, write_all
from truebits.rewriting.outputs import new_files
from truebits.surveying.tables import COMPRESSION, read_part, schemas

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Table

MODELS, TENSORS, PARTS, LOCK, ASKED = "models.parquet", "tensors.parquet", "parts", ".lock", "survey.json"
PART = ".arrow"

ROWS = 1 << 14
"""Of a table that are written together, and held in memory."""

MOST_PIECES = 64
"""Of a table that wait to be written: a table of one row takes as much memory as one of many."""

MOST_PARTS = 10_000
"""Parts that are folded into the tables when they are so many."""


class Done(NamedTuple):
    """What is known of a model that was surveyed: its state then, and whether it failed."""

    state: str
    failed: bool


class Folder:
    """What a survey has so far.

    Parameters
    ----------
    path : Path
        Made if it is not there.
    asked : dict of str to object
        What is read of each model.

    Raises
    ------
    UsageError
        It has something else, or what was read in another way.
    MissingExtra, OSError
    """

    def __init__(self, path: Path, asked: dict[str, Any]):
        schemas()
        self.path = path
        self.parts: dict[str, Path] = {}
        self.done: dict[str, Done] = {}
        strangers = [one.name for one in path.iterdir() if one.name not in OURS] if path.exists() else []
        if strangers:
            raise UsageError(
                f"{printable(str(path))} has {printable(strangers[0])}: name a folder for the survey alone"
            )
        (path / PARTS).mkdir(parents=True, exist_ok=True)
        if not (path / ASKED).exists():
            self._put(path / ASKED, json.dumps(asked).encode())
        before = _asked(path / ASKED)
        if before != asked:
            told = ", ".join(f"{name} {before.get(name)}" for name in asked if before.get(name) != asked[name])
            raise UsageError(f"{printable(str(path))} has models read with {told}: name another folder")

    @contextmanager
    def opened(self) -> Iterator[Folder]:
        """Read what is done, with nobody else writing; what is done meanwhile is in the tables at the end."""
        import pyarrow.parquet as pq

        with (self.path / LOCK).open("ab") as lock:
            _lock(lock.fileno(), self.path)
            if (self.path / MODELS).exists():
                columns = ["source", "state", "exit_code"]
                for batch in pq.ParquetFile(self.path / MODELS).iter_batches(ROWS, columns=columns):
                    for source, state, code in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                        self.done[source] = Done(state, code != 0)
            for path in sorted((self.path / PARTS).glob(f"*{PART}")):
                try:
                    self._know(path, read_part(path.read_bytes())[0])
                except ValueError:  # cut off when the power was
                    path.unlink()
            try:
                yield self
            finally:
                self.fold()

    def add(self, source: str, part: bytes) -> None:
        """Keep a model's part: no kill loses it. That it reaches the disk is not waited for, but for the tables'."""
        path = self.path / PARTS / f"{sha256(os.fsencode(source)).hexdigest()[:32]}{PART}"
        self._put(path, part)
        self._know(path, read_part(part)[0])
        if len(self.parts) >= MOST_PARTS:
            self.fold()

    @staticmethod
    def _put(path: Path, content: bytes) -> None:
        with unnamed(path.parent) as (descriptor, opened):
            write_all(descriptor, content, 0)
            give_name(descriptor, opened, path, replace=True)

    def _know(self, path: Path, model: dict[str, Any]) -> None:
        self.parts[model["source"]] = path
        self.done[model["source"]] = Done(model["state"], model["exit_code"] != 0)

    def fold(self) -> None:
        """Merge the parts into the tables."""
        if not self.parts and (self.path / MODELS).exists():
            return
        with new_files([self.path / TENSORS, self.path / MODELS], force=True) as (tensors, models):
            writers = [
                _Writer(file.descriptor, schema) for file, schema in zip((models, tensors), schemas(), strict=True)
            ]
            for _, model, rows in heapq.merge(self._folded(), self._unfolded(), key=lambda one: one[0]):
                writers[0].add(model)
                for some in rows:
                    writers[1].add(some)
            for writer in writers:
                writer.close()
        for path in self.parts.values():
            with suppress(FileNotFoundError):
                path.unlink()
        self.parts.clear()

    def _unfolded(self) -> Iterator[tuple[str, Table, Iterator[Table]]]:
        import pyarrow as pa

        for source, path in sorted(self.parts.items()):
            model, tensors = read_part(path.read_bytes())
            yield source, pa.Table.from_pylist([model], schemas()[0]), iter([tensors])

    def _folded(self) -> Iterator[tuple[str, Table, Iterator[Table]]]:
        """Yield the models that the tables have and no part has."""
        if not (self.path / MODELS).exists():
            return
        tensors = _Pieces(_by_source(self.path / TENSORS))
        for source, model in _by_source(self.path / MODELS):
            rows = list(tensors.of(source))
            if source not in self.parts:
                yield source, model, iter(rows)


OURS = (MODELS, TENSORS, PARTS, LOCK, ASKED)


def _asked(path: Path) -> dict[str, Any]:
    try:
        asked = json.loads(path.read_text())
    except ValueError:
        asked = None
    return asked if isinstance(asked, dict) else {}


def _lock(descriptor: int, path: Path) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"{printable(str(path))}: another survey is writing there: wait until it is done") from None


def _by_source(path: Path) -> Iterator[tuple[str, Table]]:
    """Yield the rows of a table by the model they are of; of some models in several pieces."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    batch: RecordBatch
    for batch in pq.ParquetFile(path).iter_batches(ROWS):
        runs, start = pc.run_end_encode(batch.column("source"), run_end_type=pa.int64()), 0
        table = pa.Table.from_batches([batch])
        for source, stop in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            yield source, table.slice(start, stop - start)
            start = stop


class _Pieces:
    """The pieces of a table, drawn model by model."""

    def __init__(self, pieces: Iterator[tuple[str, Table]]):
        self.pieces = pieces
        self.next = next(pieces, None)

    def of(self, source: str) -> Iterator[Table]:
        """Yield the pieces of a model; those of models before it are left out."""
        while self.next is not None and self.next[0] <= source:
            name, piece = self.next
            self.next = next(self.pieces, None)
            if name == source:
                yield piece


class _Writer:
    """Writes a table in groups of `ROWS` rows, however its rows come."""

    def __init__(self, descriptor: int, schema: Any):
        import pyarrow.parquet as pq

        self.file = os.fdopen(os.dup(descriptor), "wb")
        self.writer = pq.ParquetWriter(self.file, schema, compression=COMPRESSION)
        self.waiting: list[Table] = []
        self.rows = 0

    def add(self, rows: Table) -> None:
        self.waiting.append(rows)
        self.rows += rows.num_rows
        if len(self.waiting) > MOST_PIECES:
            self.waiting = [_joined(self.waiting)]
        while self.rows >= ROWS:
            self._write(ROWS)

    def _write(self, count: int) -> None:
        whole = _joined(self.waiting)
        self.writer.write_table(_joined([whole.slice(0, count)]), row_group_size=ROWS)
        self.waiting, self.rows = [whole.slice(count)], self.rows - count

    def close(self) -> None:
        if self.rows:
            self._write(self.rows)
        self.writer.close()
        self.file.close()


def _joined(pieces: list[Table]) -> Table:
    """Return pieces as one: what is one in memory is written alike, however it came."""
    import pyarrow as pa

    return pa.concat_tables(pieces).combine_chunks()
