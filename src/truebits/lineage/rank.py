"""Several quantizations against one source, without running any: whose weights are nearest to its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import inf

import numpy as np

from truebits.comparing.sides import ITEM_BYTES, Side
from truebits.errors import UsageError
from truebits.files.mapping import Files
from truebits.files.model import Model, Regexes, open_gguf, open_model
from truebits.files.tensor import Tensor
from truebits.lineage.comparison import UNRELATED, Advance
from truebits.lineage.layout import strips, whole
from truebits.lineage.matching import Pair, match
from truebits.lineage.ranking import Error, Ranked, Ranking, TensorRank, summed
from truebits.lineage.source import Expected, reader_of, why_unread
from truebits.precision.batches import Progress, stepper
from truebits.precision.converters import Kind
from truebits.precision.coverage import NOT_SELECTED, Coverage
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.weights import meaning_of
from truebits_native.pool import in_order

FIRST_VALUES = 1 << 12
"""Looked at of every candidate where names tell nothing."""


def rank(
    models: Iterable[Model | str | os.PathLike[str]],
    source: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Compare the weights of several models with those of the one that they were made of.

    Parameters
    ----------
    models : iterable of Model or path-like
        GGUFs, of any uploader.
    source : Model or path-like
        A checkpoint, which may be quantized itself, or a GGUF.
    select, exclude : regex or regexes, optional
        On names of the models' tensors.
    threads, progress
        As for `scan`.

    Returns
    -------
    Ranking

    Raises
    ------
    NotTheSource
        The headers tell that a model is not of this source.
    UsageError
        There is no model.
    SelectionError, ModelFileError, OSError
    """
    opened = [open_gguf(model, remote=True) for model in models]
    if not opened:
        raise UsageError("there is nothing to rank: give a source and its quantizations")
    origin = meaning_of(open_model(source))
    total = sum(tensor.nbytes for model in opened for tensor in model.select(select, exclude))
    advance = stepper(progress, total)
    found = [_ranked(model, origin, select, exclude, threads, advance) for model in opened]
    return Ranking(str(origin.model.path), tuple(sorted(found, key=lambda one: (one.error, one.bits_per_weight))))


def _ranked(
    model: Model, source: Meaning, select: Regexes, exclude: Regexes, threads: int | None, advance: Advance
) -> Ranked:
    chosen = {tensor.name for tensor in model.select(select, exclude)}
    with model.map() as ours, source.model.map() as theirs:
        pairs = [pair for pair in _pairs(model, source, ours, theirs) if pair.tensor.name in chosen]

        def compared(pair: Pair) -> TensorRank:
            return _compared(pair, model, source, ours, theirs)

        tensors = []
        for pair, one in zip(pairs, in_order(compared, pairs, threads), strict=True):
            tensors.append(one)
            advance(pair.tensor.nbytes)
    values, nbytes = (sum(getattr(tensor, key) for tensor in model.tensors) for key in ("values", "nbytes"))
    why = {pair.tensor.name: one.why for pair, one in zip(pairs, tensors, strict=True)}
    coverage = Coverage.merge(
        Coverage.of_tensor(tensor, why.get(tensor.name, NOT_SELECTED))
        for tensor in model.tensors
        if why.get(tensor.name) != MADE
    )
    return Ranked(str(model.path), 8 * nbytes / max(1, values), tuple(tensors), coverage)


MADE = "made by the converter"


def _pairs(model: Model, source: Meaning, ours: Files, theirs: Files) -> Iterator[Pair]:
    """Pair tensors by name, and where names fail by value."""
    if source.model.format == "gguf":
        names = {tensor.name: tensor for tensor in source.model.tensors}
        made = [Pair(tensor, (names[tensor.name],) if tensor.name in names else ()) for tensor in model.tensors]
        pairs = [_laid_out(pair) if pair.sources else pair for pair in made]
    else:
        pairs = list(match(model, source.model, source.swapped).pairs)
    used = {one.name for pair in pairs for one in pair.sources}
    free = [
        tensor
        for tensor in source.model.tensors
        if tensor.name not in used and (tensor.type in ITEM_BYTES or tensor.name in source.quantized)
    ]
    for pair in pairs:
        if not pair.sources and not pair.has(Kind.MADE):
            found = _nearest(Side(pair.tensor, ours), source, theirs, free)
            if found is not None:
                pair = _laid_out(Pair(pair.tensor, (found,), is_renamed=True))
        yield pair


def _laid_out(pair: Pair) -> Pair:
    """Lay a tensor of another name or of a GGUF out as it stands."""
    (source,) = pair.sources
    if source.values != pair.tensor.values:
        return replace(pair, problem=f"it has {pair.tensor.values:,} values, the source {source.values:,}")
    return replace(pair, strips=strips([(source.values,)], whole))


def _nearest(side: Side, source: Meaning, theirs: Files, free: Sequence[Tensor]) -> Tensor | None:
    """Return the one tensor whose first values are near."""
    block, _ = side.block
    count = min(side.tensor.values, max(block, FIRST_VALUES // block * block))
    stored = side.words(0, count, "F32").view("<f4")
    best, found = UNRELATED, None
    for tensor in free:
        if tensor.values == side.tensor.values:
            values = reader_of(source, theirs, tensor).words(0, count, "F32").view("<f4")
            error = _error(stored, values).relative
            best, found = (error, tensor) if error < best else (best, found)
    return found


def _compared(pair: Pair, model: Model, source: Meaning, ours: Files, theirs: Files) -> TensorRank:
    tensor = pair.tensor
    label = pair.sources[0].label if pair.sources else None
    why = _why_not(pair) or why_unread(source, theirs, pair)
    if why is not None:
        return TensorRank(tensor.label, tensor.type, label, None, why)
    side = Side(tensor, ours)
    expected = Expected([reader_of(source, theirs, one) for one in pair.sources], pair)
    errors = []
    for first, count in expected.spans(side.block[0]):
        singles = expected.computed(expected.singles(expected.words(first, count)))
        errors.append(_error(side.words(first, count, "F32").view("<f4"), singles.view("<f4")))
        side.forget(first, count)
        expected.forget(first)
    error = summed(errors)
    if pair.is_unsure and error.relative > UNRELATED:
        return TensorRank(tensor.label, tensor.type, label, None, "what converters do to it is not known")
    return TensorRank(tensor.label, tensor.type, label, error, is_renamed=pair.is_renamed)


def _why_not(pair: Pair) -> str | None:
    if pair.has(Kind.MADE) and not pair.sources:
        return MADE
    if not pair.sources:
        return "the source has no such tensor"
    if pair.problem or pair.has(Kind.COMPUTED):
        return pair.problem or "what converters compute of it is not known"
    return None


def _error(stored: np.ndarray, expected: np.ndarray) -> Error:
    """Add up the squared errors of F32 values; what should be NaN or Inf and is, has none."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = (stored - expected).astype(np.float64)
        squared = float(np.dot(error, error))
        squares = float(np.dot(expected.astype(np.float64), expected.astype(np.float64)))
    if np.isfinite(squared) and np.isfinite(squares):
        return Error(squared, squares)
    ours, theirs = np.isfinite(stored), np.isfinite(expected)
    if not (ours | ~theirs).all():
        return Error(inf, 1.0)
    return _error(np.where(theirs, stored, 0), np.where(theirs, expected, 0))
