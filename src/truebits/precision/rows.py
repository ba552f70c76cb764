"""Where in a tensor the precision changes: runs of rows that a narrower format holds, exactly.

One pass counts, in each row, the words whose low bits are zero, at memory speed. Only rows of nothing else can be
of a narrower format; these are counted by exponent and trailing zeros, and those that follow each other and need
the same format are judged together, as a tensor is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cache
from itertools import groupby
from math import log2
from typing import Any, NamedTuple

import numpy as np

import truebits_native as native
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES, FLOAT_FORMATS
from truebits.numbers.spelling import find
from truebits.precision.batches import batches
from truebits.precision.bins import FLOAT_LAYOUTS
from truebits.precision.counting import TensorPrecision
from truebits.precision.evidence import Evidence, ladder
from truebits.precision.origin import BITS_WANTED, judge
from truebits.precision.profile import PrecisionProfile
from truebits.precision.tokens import named, tokens_of

LOW_BITS = {"F32": 13, "F16": 3, "F64": 29}
"""Bits that are zero in every normal value of a narrower format: FP16 in F32, BF16 in F16, F32 in F64."""

BYTES_AT_ONCE = 16 << 20


@dataclass(frozen=True)
class RowRun:
    """Rows that follow each other and are exact in one format.

    Attributes
    ----------
    first, last : int
        Numbers of the first row and of the last.
    format : str
    odds_bits : int
        Rows of the storage type look like this by chance once in 2 to the power of it.
    tokens : str or None
        What the rows stand for, where they are an embedding's and the model has its vocabulary: in a line.
    """

    first: int
    last: int
    format: str
    odds_bits: int
    tokens: str | None = None

    @property
    def rows(self) -> int:
        return self.last - self.first + 1

    def of(self, tokens: Sequence[str]) -> Sequence[str]:
        """Return the run's part of what has an entry for each row."""
        return tokens[self.first : self.last + 1]


@dataclass(frozen=True)
class MixedRows:
    """A tensor of which some rows are of a narrower format than the others.

    Attributes
    ----------
    name : str
    type : str
        Storage type.
    rows, row : int
        How many there are, and how many values each has.
    runs : tuple of RowRun
        Ascending. The rows between them are not exact in any narrower format.
    tokens : dict of str to str
        What the rows of each narrower format stand for, as `RowRun.tokens`; empty where that is not known.
    """

    name: str
    type: str
    rows: int
    row: int
    runs: tuple[RowRun, ...]
    tokens: dict[str, str] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Return the number of rows by narrower format, most frequent first."""
        found: dict[str, int] = {}
        for run in self.runs:
            found[run.format] = found.get(run.format, 0) + run.rows
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in a JSON document under ``rows``: `from` and `to` are a run's first row and last."""
        keys = ("from", "to", "format", "odds_bits", "tokens")
        runs = [dict(zip(keys, astuple(run), strict=True)) for run in self.runs]
        return {"axis": 0, "rows": self.rows, "values_per_row": self.row, "tokens": self.tokens, "runs": runs}

    def with_tokens(self, tokens: Sequence[str]) -> MixedRows:
        """Say what the rows stand for; `tokens` has their names, as many as there are."""
        by_format = {
            format: named([token for run in self.runs if run.format == format for token in run.of(tokens)])
            for format in self.counts()
        }
        runs = tuple(replace(run, tokens=named(run.of(tokens))) for run in self.runs)
        return replace(self, runs=runs, tokens=by_format)


def mixed_rows(model: Model, tensors: Sequence[TensorPrecision], threads: int | None = None) -> dict[str, MixedRows]:
    """Find the runs of each tensor that has rows of several formats.

    Parameters
    ----------
    model : Model
    tensors : sequence of TensorPrecision
        Those without a row's worth of narrower values are not read again.
    threads : int, optional

    Returns
    -------
    dict of str to MixedRows
        By tensor name.

    Raises
    ------
    OSError
        As `scan`.
    """
    found = {}
    for one in tensors:
        row = model.row(one.tensor)
        if may_be_mixed(one, row):
            runs = tuple(_runs(model, one.tensor, row, threads))
            if runs and sum(run.rows for run in runs) < one.values // row:
                found[one.tensor.name] = MixedRows(one.tensor.name, one.type, one.values // row, row, runs)
    embeddings = tokens_of(
        model, [(tensor, found[tensor.name].rows) for tensor in model.tensors if tensor.name in found]
    )
    return {name: of.with_tokens(embeddings[name]) if name in embeddings else of for name, of in found.items()}


def may_be_mixed(one: TensorPrecision, row: int) -> bool:
    """Tell from a tensor's counts whether a row of it can be of a narrower format, and another not."""
    if one.type not in LOW_BITS or len(one.tensor.shape) < 2 or not row or one.values == row:
        return False
    return row <= one.low_zero(LOW_BITS[one.type]) and one.origin.format == FLOAT_FORMATS[one.type]


def _runs(model: Model, tensor: Tensor, row: int, threads: int | None) -> Iterator[RowRun]:
    candidates = np.flatnonzero(_low_zero(model, tensor, row, threads) == row)
    cost = 2 * log2(tensor.values // row)
    for members in _same_format(_counted(model, tensor, row, candidates, threads)):
        whole = PrecisionProfile.of(
            tensor.type, np.concatenate([one.bins for one in members]), np.concatenate([one.counts for one in members])
        )
        evidence = Evidence.of(whole)
        origin = judge(evidence)
        if origin.format in ladder(tensor.type)[:-1]:
            bits = evidence.bits[origin.format, FLOAT_FORMATS[tensor.type]]
            if bits - cost >= BITS_WANTED:
                yield RowRun(members[0].number, members[-1].number, origin.format, bits)


def _low_zero(model: Model, tensor: Tensor, row: int, threads: int | None) -> np.ndarray:
    """Count, in each row, the words whose low bits are zero."""
    counts = np.zeros(tensor.values // row, np.int64)
    mask, at = (1 << LOW_BITS[tensor.type]) - 1, 0
    for batch in batches(model, [tensor]):
        for start, stop in zip(batch.starts.tolist(), batch.stops.tolist(), strict=True):
            inner = np.arange((at // row + 1) * row, at + stop - start, row) - at + start
            starts, stops = np.append(start, inner), np.append(inner, stop)
            found = native.matching_counts(batch.words, starts, stops, mask, 0, threads)
            counts[at // row : at // row + found.size] += found
            at += stop - start
    return counts


class _Row(NamedTuple):
    """One row: its number, the narrowest format that holds it (its place among `ladder`), and its counts."""

    number: int
    format: int
    bins: np.ndarray
    counts: np.ndarray


def _counted(model: Model, tensor: Tensor, row: int, numbers: np.ndarray, threads: int | None) -> Iterator[_Row]:
    """Count the values of rows."""
    item = FLOAT_BYTES[tensor.type]
    table = _misfits(tensor.type)
    with model.parts[tensor.part].map() as file:
        at_once = max(1, BYTES_AT_ONCE // (row * item))
        for some in np.split(numbers, np.searchsorted(numbers, range(at_once, tensor.values // row, at_once))):
            if not some.size:
                continue
            file.check()
            first, last = int(some[0]), int(some[-1]) + 1
            start, size = tensor.offset + first * row * item, (last - first) * row * item
            file.expect_all([(start, start + size)])
            data = np.frombuffer(file.data, np.uint8, size, start)
            words = np.require(data, requirements="A").view(f"<u{item}")
            starts = (some - first) * row
            bins, counts, splits = native.profiles(words, starts, starts + row, tensor.type, threads)
            misfits = np.add.reduceat(table[bins] * counts[:, None], splits[:-1])
            narrowest = (misfits == 0).argmax(axis=1)
            for number, format, a, b in zip(some.tolist(), narrowest.tolist(), splits, splits[1:], strict=False):
                yield _Row(number, format, bins[a:b], counts[a:b])
            file.forget(tensor.offset + first * row * item, tensor.offset + last * row * item)


@cache
def _misfits(type: str) -> np.ndarray:
    """Values that a format of the type's `ladder` does not hold, by bin; int64 of shape (bins, formats)."""
    layout = FLOAT_LAYOUTS[type]
    held = [layout.fits(find(name)) | layout.is_nan for name in ladder(type)]
    return (~np.stack(held, axis=1)).astype(np.int64)


def _same_format(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    """Put together rows that follow each other and need the same format."""
    for _, run in groupby(enumerate(rows), lambda item: (item[1].number - item[0], item[1].format)):
        yield [row for _, row in run]
