"""Model -> words: a model's tensors in batches, each for one kernel call over all its byte ranges.

The file is mapped. Between batches the progress moves, Ctrl-C is answered, the file is checked to be still the
same, and the pages read are unmapped, so that memory does not grow with the file. Each of several threads works on a
batch of its own: it takes the faults of what it counts, and nobody waits for the slowest of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TypeVar

import numpy as np

from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits_native import pool
from truebits_native.chunks import cut
from truebits_native.types import LAYOUTS as BLOCK_LAYOUTS

BATCH_BYTES = 32 << 20
"""Most that is read per kernel call: some milliseconds of work when the file is in memory."""

LEAST_BATCH_BYTES = 4 << 20
"""Below this, what a call costs shows."""

MAPPED_BYTES = 256 << 20
"""Most that all threads have mapped at a time."""

RUN_GAP = 1 << 20
"""Ranges nearer than this are announced and unmapped together."""

Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def stepper(progress: Progress | None, total: int) -> Callable[..., None]:
    """Return what is called with how much more is done, 1 if not said, and tells a progress of it."""
    done = 0

    def step(more: int = 1) -> None:
        nonlocal done
        done = min(done + more, total)
        if progress is not None:
            progress(done, total)

    return step


@dataclass(frozen=True)
class Batch:
    """Ranges of one storage type in one file, for one kernel call.

    Attributes
    ----------
    tensors : tuple of Tensor
        One for each range; a long tensor goes through several batches.
    words : ndarray
        Read-only view of the mapping, in words of the type's size.
    starts, stops : ndarray of int64
        In words.
    firsts : ndarray of int64
        Words that come before each range in its tensor.
    file : MappedFile
    runs : list of (int, int)
        The bytes of the file that are read.
    """

    tensors: tuple[Tensor, ...]
    words: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    firsts: np.ndarray
    file: MappedFile
    runs: list[tuple[int, int]]

    @property
    def nbytes(self) -> int:
        return int((self.stops - self.starts).sum()) * self.words.itemsize

    def forget(self) -> None:
        """Unmap what was read."""
        for start, stop in self.runs:
            self.file.forget(start, stop)


def over_batches(
    work: Callable[[Batch], Result],
    model: Model,
    tensors: Sequence[Tensor],
    threads: int | None,
    progress: Progress | None,
    is_large: bool,
) -> Iterator[tuple[Batch, Result]]:
    """Do `work` on the tensors' batches, and yield each with its result, in the order of `batches`.

    Parameters
    ----------
    work : callable
        Where the work is large it runs on threads of the pool, a batch on each.
    model, tensors
    threads : int, optional
        All cores if not given.
    progress : callable, optional
    is_large : bool
        As `truebits_native.expect_work` says.
    """
    total, several = sum(tensor.nbytes for tensor in tensors), pool.allowed(threads)
    size = min(total // (pool.RUNS * several), MAPPED_BYTES // several)

    def counted(batch: Batch) -> tuple[Batch, Result]:
        result = work(batch)
        batch.forget()
        return batch, result

    drawn, step = batches(model, tensors, size), stepper(progress, total)
    for batch, result in pool.in_order(counted, drawn, threads) if is_large else map(counted, drawn):
        yield batch, result
        step(batch.nbytes)


def batches(model: Model, tensors: Iterable[Tensor], size: int = BATCH_BYTES) -> Iterator[Batch]:
    """Yield the tensors' words batch by batch, in file order within each storage type.

    The words of a block type are bytes; a batch has whole blocks. `size`, in bytes, is kept within limits.
    """
    size = min(max(size, LEAST_BATCH_BYTES), BATCH_BYTES)
    tensors = sorted(tensors, key=attrgetter("part", "type", "offset"))
    model.expect(tensors)
    for part, of_part in groupby(tensors, key=attrgetter("part")):
        with model.parts[part].map() as file:
            for type, of_type in groupby(of_part, key=attrgetter("type")):
                yield from _batches_of_type(file, list(of_type), *_units(type), size)


def _units(type: str) -> tuple[int, int]:
    """Return how many bytes a word of a type has, and what a batch may not cut through."""
    if type in FLOAT_BYTES:
        return FLOAT_BYTES[type], FLOAT_BYTES[type]
    return 1, BLOCK_LAYOUTS[type].nbytes


def _batches_of_type(file: MappedFile, tensors: list[Tensor], item: int, unit: int, size: int) -> Iterator[Batch]:
    starts = np.array([tensor.offset for tensor in tensors], np.int64)
    stops = starts + np.array([tensor.nbytes for tensor in tensors], np.int64)
    owner, begin, end = cut(starts, stops, max(size // unit, 1) * unit)
    if not owner.size:
        return
    sizes = end - begin
    filled = (np.cumsum(sizes) - sizes) // size
    splits = np.flatnonzero(np.diff(filled)) + 1
    for which in np.split(np.arange(owner.size), splits):
        file.check()
        runs = list(_runs(begin[which], end[which]))
        for start, stop in runs:
            file.expect(start, stop)
        owners = tuple(tensors[i] for i in owner[which].tolist())
        firsts = (begin[which] - starts[owner[which]]) // item
        yield Batch(owners, *_words(file, begin[which], end[which], item), firsts, file, runs)


def _words(
    file: MappedFile, begin: np.ndarray, end: np.ndarray, item: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """View the ranges in words; where the file does not align them, copy them."""
    dtype = np.dtype(f"<u{item}")
    if not (begin % item).any():
        words = np.frombuffer(file.data, dtype, count=file.identity.size // item)
        return words, begin // item, end // item
    ranges = zip(begin.tolist(), end.tolist(), strict=True)
    words = np.concatenate([np.frombuffer(file.data, np.uint8, b - a, a) for a, b in ranges]).view(dtype)
    words.flags.writeable = False
    lengths = (end - begin) // item
    stops = np.cumsum(lengths)
    return words, stops - lengths, stops


def _runs(begin: np.ndarray, end: np.ndarray) -> Iterator[tuple[int, int]]:
    """Join ranges that lie close together."""
    breaks = np.flatnonzero(begin[1:] > end[:-1] + RUN_GAP) + 1
    firsts, lasts = np.append(0, breaks), np.append(breaks, begin.size) - 1
    return zip(begin[firsts].tolist(), end[lasts].tolist(), strict=True)
