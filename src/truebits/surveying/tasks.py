"""What a worker of a survey does: read a model and return its part of the tables; of a large one, count some ranges."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import truebits_native as native
from truebits.errors import MissingExtra
from truebits.files.mapping import FileChanged
from truebits.files.model import Model, open_model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.precision.counting import Counts, count_words
from truebits.precision.scan import scan
from truebits.quantizers.weights import meaning_of
from truebits.surveying.rows import failed_row, model_row, tensor_rows
from truebits.surveying.sources import Source, state_of
from truebits.surveying.tables import part_of
from truebits_native.types import LAYOUTS as BLOCK_LAYOUTS


class Reading(NamedTuple):
    """How models are read.

    Attributes
    ----------
    select, exclude : list of str
    blocks : bool or None
        As of `scan`.
    threads : int or None
        Of each worker.
    split : int or None
        Of a local model with more bytes than this in unquantized tensors, so many at a time are counted.
    remote : mapping of str to object
        Settings of `truebits.files.remote`.
    """

    select: list[str]
    exclude: list[str]
    blocks: bool | None
    threads: int | None
    split: int | None
    remote: Mapping[str, Any]


class Ranges(NamedTuple):
    """A model that is too large for one worker: its state, and ranges of tensors for one each.

    A range of a tensor is a `Tensor` of its name; `starts` has the number of its first value.
    """

    state: str
    tasks: list[list[Tensor]]
    starts: list[list[int]]


Outcome = bytes | Ranges

VALUES_OF_A_BLOCK = 256
"""Of most block types that large tensors have."""

seen: dict[str, int] = {}
"""Words that this process has counted, or is about to, and blocks, by the kind of work."""


def survey_model(source: Source, reading: Reading) -> Outcome:
    """Scan a model; return its part, be it that it could not be read, or the ranges to count of a large one.

    Raises
    ------
    MissingExtra
        It takes a package that is not installed.
    """
    state = source.state or ""
    try:
        _prepare(reading)
        if source.problem:
            return part_of(failed_row(source.name, state, source.problem))
        if not source.opens.startswith(("http:", "https:", "s3:", "gs:")):
            state = state_of(source)
        model = open_model(source.opens)
        if model.is_remote:
            state = source.state or _state_at_server(model)
        elif reading.split is not None:
            ranges = _ranges(model, state, reading)
            if len(ranges.tasks) > 1:
                return ranges
        return _part(source, state, model, reading, None)
    except MissingExtra:
        raise
    except Exception as error:
        return part_of(failed_row(source.name, state, error))


def count_ranges(
    source: Source, state: str, tensors: list[Tensor], starts: list[int], reading: Reading
) -> Counts | bytes:
    """Count the words of one task of a large model; return the model's part where that cannot be done."""
    try:
        counts = count_words(_same(source, state), tensors, reading.threads)
        first, begun = {}, set()
        for tensor, start in zip(tensors, starts, strict=True):
            first[tensor.name] = {kind: start + at for kind, at in counts.first.get(tensor.name, {}).items()}
            begun |= set() if start else {tensor.name}
        return Counts(counts.pieces, first, counts.swapped & begun)
    except Exception as error:
        return part_of(failed_row(source.name, state, error))


def finish_model(source: Source, state: str, counts: Sequence[Counts], reading: Reading) -> bytes:
    """Return the part of a model whose ranges are counted."""
    try:
        return _part(source, state, _same(source, state), reading, Counts.merge(counts))
    except Exception as error:
        return part_of(failed_row(source.name, state, error))


def _prepare(reading: Reading) -> None:
    if reading.remote:
        from truebits.files.remote import SETTINGS

        for name, value in reading.remote.items():
            setattr(SETTINGS, name, value)


def _state_at_server(model: Model) -> str:
    from truebits.files.remote import state_when_opened

    return state_when_opened([part.path for part in model.parts])


def _same(source: Source, state: str) -> Model:
    """Open a model that was opened before, elsewhere."""
    if state_of(source) != state:
        raise FileChanged(errno.ESTALE, "has changed since its header was read", source.name)
    return open_model(source.opens)


def _part(source: Source, state: str, model: Model, reading: Reading, counts: Counts | None) -> bytes:
    if counts is None:
        _expect(model, reading)
    chosen = reading.select, reading.exclude
    report = scan(model, *chosen, blocks=reading.blocks, threads=reading.threads, counts=counts)
    return part_of(model_row(source.name, state, report), tensor_rows(source.name, report))


def _expect(model: Model, reading: Reading) -> None:
    """Get kernels into memory once this worker's models together are worth it, though no single one is."""
    kinds = {"profiles": FLOAT_BYTES, "blocks": BLOCK_LAYOUTS if reading.blocks else ()}
    for kind, types in kinds.items():
        words = sum(tensor.values for tensor in model.tensors if tensor.type in types)
        seen[kind] = seen.get(kind, 0) + (words // VALUES_OF_A_BLOCK if kind == "blocks" else words)
        native.expect_work(kind, seen[kind])


def _ranges(model: Model, state: str, reading: Reading) -> Ranges:
    """Cut the unquantized tensors of a model into tasks of so many bytes."""
    most = left = reading.split or 0
    found = Ranges(state, [[]], [[]])
    selected = meaning_of(model).model.select(reading.select, reading.exclude)
    plain = [tensor for tensor in selected if tensor.type in FLOAT_BYTES]
    for tensor, start in (one for whole in plain for one in _cut(whole, most)):
        if tensor.nbytes > left and found.tasks[-1]:
            found.tasks.append([])
            found.starts.append([])
            left = most
        found.tasks[-1].append(tensor)
        found.starts[-1].append(start)
        left -= tensor.nbytes
    return found


def _cut(tensor: Tensor, most: int) -> Iterator[tuple[Tensor, int]]:
    """Yield the ranges of a tensor, each as a tensor, with the number of its first value."""
    size = FLOAT_BYTES[tensor.type]
    step = max(1, most // size)
    for start in range(0, max(1, tensor.values), step):
        values = min(step, tensor.values - start)
        yield tensor._replace(offset=tensor.offset + start * size, nbytes=values * size, values=values), start
