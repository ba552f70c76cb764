"""Model -> words: a model's tensors in batches, each for one kernel call over all its byte ranges.

The file is mapped. Between batches the progress moves, Ctrl-C is answered, the file is checked to be still the
same, and the pages read are unmapped, so that memory does not grow with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np

from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits_native.chunks import cut
from truebits_native.types import LAYOUTS as BLOCK_LAYOUTS

BATCH_BYTES = 32 << 20
"""Read per kernel call: about a millisecond of work when the file is in memory."""

RUN_GAP = 1 << 20
"""Ranges nearer than this are announced and unmapped together."""

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


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
    """

    tensors: tuple[Tensor, ...]
    words: np.ndarray
    starts: np.ndarray
    stops: np.ndarray


def batches(model: Model, tensors: Iterable[Tensor], progress: Progress | None = None) -> Iterator[Batch]:
    """Yield the tensors' words batch by batch, in file order within each storage type.

    The words of a block type are bytes; a batch has whole blocks.
    """
    tensors = sorted(tensors, key=attrgetter("part", "type", "offset"))
    total = sum(tensor.nbytes for tensor in tensors)
    done = 0
    for part, of_part in groupby(tensors, key=attrgetter("part")):
        with model.parts[part].map() as file:
            for type, of_type in groupby(of_part, key=attrgetter("type")):
                for batch, nbytes in _batches_of_type(file, list(of_type), *_units(type)):
                    yield batch
                    done += nbytes
                    if progress is not None:
                        progress(done, total)


def _units(type: str) -> tuple[int, int]:
    """Return how many bytes a word of a type has, and what a batch may not cut through."""
    if type in FLOAT_BYTES:
        return FLOAT_BYTES[type], FLOAT_BYTES[type]
    return 1, BLOCK_LAYOUTS[type].nbytes


def _batches_of_type(file: MappedFile, tensors: list[Tensor], item: int, unit: int) -> Iterator[tuple[Batch, int]]:
    starts = np.array([tensor.offset for tensor in tensors], np.int64)
    stops = starts + np.array([tensor.nbytes for tensor in tensors], np.int64)
    owner, begin, end = cut(starts, stops, BATCH_BYTES // unit * unit)
    if not owner.size:
        return
    sizes = end - begin
    filled = (np.cumsum(sizes) - sizes) // BATCH_BYTES
    splits = np.flatnonzero(np.diff(filled)) + 1
    for which in np.split(np.arange(owner.size), splits):
        runs = list(_runs(begin[which], end[which]))
        file.check()
        for start, stop in runs:
            file.expect(start, stop)
        owners = tuple(tensors[i] for i in owner[which].tolist())
        yield _batch(file, owners, begin[which], end[which], item), int(sizes[which].sum())
        for start, stop in runs:
            file.forget(start, stop)


def _batch(file: MappedFile, tensors: tuple[Tensor, ...], begin: np.ndarray, end: np.ndarray, item: int) -> Batch:
    """View the ranges in words; where the file does not align them, copy them."""
    dtype = np.dtype(f"<u{item}")
    if not (begin % item).any():
        words = np.frombuffer(file.data, dtype, count=file.identity.size // item)
        return Batch(tensors, words, begin // item, end // item)
    ranges = zip(begin.tolist(), end.tolist(), strict=True)
    words = np.concatenate([np.frombuffer(file.data, np.uint8, b - a, a) for a, b in ranges]).view(dtype)
    words.flags.writeable = False
    lengths = (end - begin) // item
    stops = np.cumsum(lengths)
    return Batch(tensors, words, stops - lengths, stops)


def _runs(begin: np.ndarray, end: np.ndarray) -> Iterator[tuple[int, int]]:
    """Join ranges that lie close together."""
    breaks = np.flatnonzero(begin[1:] > end[:-1] + RUN_GAP) + 1
    firsts, lasts = np.append(0, breaks), np.append(breaks, begin.size) - 1
    return zip(begin[firsts].tolist(), end[lasts].tolist(), strict=True)
