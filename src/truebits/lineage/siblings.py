"""Several GGUFs of one model, from different sources: which tensors differ, and what each went through.

The first is what the others are compared with. Unquantized tensors are compared by their values, whatever
type these are stored in; where they differ, it is tried whether one side is the other, rounded. Quantized
tensors of one type are compared by their bytes, those of different types not at all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np

import truebits_native as native
from truebits.comparing.diff import Side, spans
from truebits.errors import UsageError, printable
from truebits.files.model import Model, open_gguf
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.lineage.ways import BF16, CLIPPED, CLIPPED_TEXT, FP16, Cast, same
from truebits.precision.origin import Origin
from truebits.precision.scan import Progress, Regexes, scan
from truebits.precision.undone import Change, change_of


class Kin(StrEnum):
    """What a tensor is to its namesake in the first model."""

    SAME = "same"
    ROUNDED = "rounded"
    FINER = "finer"
    OTHER_VALUES = "other values"
    OTHER_BYTES = "other bytes"
    OTHER_SHAPE = "other shape"
    OTHER_TYPE = "other type"
    ABSENT = "absent"
    EXTRA = "extra"

    @property
    def is_explained(self) -> bool:
        """It can be of the same checkpoint."""
        return self in (Kin.SAME, Kin.ROUNDED, Kin.FINER, Kin.OTHER_BYTES, Kin.OTHER_TYPE)


WAYS = (
    (FP16, "FP16"),
    (CLIPPED, f"FP16, {CLIPPED_TEXT}"),
    (BF16, "BF16"),
    (Cast("bf16", "truncate"), "BF16, truncated"),
    (Cast("fp16", "truncate"), "FP16, truncated"),
)
"""Roundings that are tried."""


STRAYS = (Kin.OTHER_SHAPE, Kin.ABSENT, Kin.EXTRA)


class Relation(NamedTuple):
    """A tensor against its namesake in the first model.

    Attributes
    ----------
    kin : Kin
    detail : str
        The format rounded to.
    """

    kin: Kin
    detail: str = ""

    def __str__(self) -> str:
        if self.kin is Kin.ROUNDED:
            return f"rounded to {self.detail}"
        return f"finer: the first is it, rounded to {self.detail}" if self.kin is Kin.FINER else str(self.kin)


@dataclass(frozen=True)
class TensorKin:
    """One tensor in all models.

    Attributes
    ----------
    name : str
    types : tuple of str or None
        By model; None where it is absent.
    relations : tuple of Relation
        Of each model but the first.
    values : int
    """

    name: str
    types: tuple[str | None, ...]
    relations: tuple[Relation, ...]
    values: int

    @property
    def is_plain(self) -> bool:
        """It is unquantized in the first model."""
        return self.types[0] in FLOAT_BYTES


@dataclass(frozen=True)
class Sibling:
    """One of the models.

    Attributes
    ----------
    path : str
    origins : dict of str to Origin
        Of its unquantized tensors, by storage type.
    """

    path: str
    origins: dict[str, Origin]


@dataclass(frozen=True)
class Siblings:
    """What `siblings` found.

    Attributes
    ----------
    models : tuple of Sibling
        As they were given.
    tensors : tuple of TensorKin
        Those of the first in its order, then those that it does not have.
    """

    models: tuple[Sibling, ...]
    tensors: tuple[TensorKin, ...] = field(repr=False)

    @property
    def is_explained(self) -> bool:
        """All can be of one checkpoint: nothing differs but by rounding or quantization."""
        return all(relation.kin.is_explained for tensor in self.tensors for relation in tensor.relations)

    def counts(self, number: int) -> dict[Relation, int]:
        """Count the relations of the unquantized tensors of one model, from 1, to those of the first."""
        found = Counter(tensor.relations[number - 1] for tensor in self.tensors if tensor.is_plain)
        return dict(found.most_common())

    def conclusion(self, number: int) -> str:
        """Say in a sentence what a model, from 1, is to the first."""
        counts = self.counts(number)
        plain = sum(counts.values())
        if not plain:
            return "nothing can be told: the first model has no unquantized tensor"
        told = ", ".join(f"{count:,} of {plain:,} {relation}" for relation, count in counts.items())
        strays = sum(tensor.relations[number - 1].kin in STRAYS for tensor in self.tensors)
        if strays:
            told += f"; {strays:,} tensors absent, extra or of another shape"
            return f"another revision, or changed after the conversion: {told}"
        kins = {relation.kin for relation in counts}
        if kins == {Kin.SAME}:
            return f"the same checkpoint: all {plain:,} unquantized tensors hold the same values"
        if all(kin.is_explained for kin in kins):
            return f"the same checkpoint by another way: {told}"
        return f"another revision, or changed after the conversion: {told}"


def siblings(
    models: Iterable[Model | str | os.PathLike[str]],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Siblings:
    """Compare several GGUFs of one model with the first of them.

    Parameters
    ----------
    models : iterable of Model or path-like
        Two or more.
    select, exclude : regex or regexes, optional
        Which tensors of each.
    threads, progress
        As for `scan`.

    Returns
    -------
    Siblings

    Raises
    ------
    UsageError
        There are less than two, or one is no GGUF.
    SelectionError, ModelFileError, OSError
    """
    opened = [open_gguf(model) for model in models]
    if len(opened) < 2:
        raise UsageError("there is nothing to compare: give two models or more")
    chosen = [{tensor.name: tensor for tensor in model.select(select, exclude)} for model in opened]
    native.expect_work("rounding", sum(tensor.values for tensor in chosen[0].values()))
    members = tuple(
        Sibling(str(model.path), scan(model, select, exclude, threads=threads).origins() if _plain(tensors) else {})
        for model, tensors in zip(opened, chosen, strict=True)
    )
    tensors = tuple(_kins(opened, chosen, threads, progress))
    return Siblings(members, tensors)


def _plain(tensors: dict[str, Tensor]) -> bool:
    return any(tensor.type in FLOAT_BYTES for tensor in tensors.values())


def _kins(
    models: Sequence[Model], chosen: Sequence[dict[str, Tensor]], threads: int | None, progress: Progress | None
) -> Iterator[TensorKin]:
    """Compare tensor after tensor."""
    architecture = models[0].architecture
    total, done = sum(tensor.nbytes for tensor in chosen[0].values()), 0
    for name in dict.fromkeys(name for tensors in chosen for name in tensors):
        sides = [
            Side(model, tensors[name]) if name in tensors else None
            for model, tensors in zip(models, chosen, strict=True)
        ]
        change = change_of(architecture, name)
        relations = tuple(_relation(sides[0], other, change, threads) for other in sides[1:])
        there = next(side.tensor for side in sides if side)
        yield TensorKin(
            printable(name), tuple(side.tensor.type if side else None for side in sides), relations, there.values
        )
        done += sides[0].tensor.nbytes if sides[0] else 0
        if progress is not None:
            progress(done, total)


def _relation(first: Side | None, other: Side | None, change: Change | None, threads: int | None) -> Relation:
    """Tell what a tensor is to the first model's."""
    if first is None or other is None:
        missing = Kin.ABSENT if first else Kin.EXTRA if other else Kin.SAME
        return Relation(missing)
    a, b = first.tensor, other.tensor
    if a.shape != b.shape:
        return Relation(Kin.OTHER_SHAPE)
    plain = [side.tensor.type in FLOAT_BYTES for side in (first, other)]
    if not any(plain) and a.type == b.type:
        return Relation(Kin.SAME if _same_bytes(first, other) else Kin.OTHER_BYTES)
    return _of_values(first, other, change, threads) if all(plain) else Relation(Kin.OTHER_TYPE)


def _same_bytes(first: Side, other: Side) -> bool:
    return all(np.array_equal(*pair) for pair in _pieces(first, other, None))


def _pieces(first: Side, other: Side, type: str | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield both sides piece by piece: as words of a type, or as bytes."""
    with ExitStack() as stack:
        files = [stack.enter_context(side.map()) for side in (first, other)]
        for at, count in spans(first.tensor.values, first.block[0]):
            sides = list(zip((first, other), files, strict=True))
            if type is None:
                yield first.bytes(files[0], at, count), other.bytes(files[1], at, count)
            else:
                yield first.words(files[0], at, count, type), other.words(files[1], at, count, type)
            for side, file in sides:
                file.check()
                side.forget(file, at, count)


def _of_values(first: Side, other: Side, change: Change | None, threads: int | None) -> Relation:
    """Tell what unquantized values are to others."""
    is_double = "F64" in (first.tensor.type, other.tensor.type)
    if is_double:
        equal = all(np.array_equal(*pair) for pair in _pieces(first, other, "F64"))
        return Relation(Kin.SAME if equal else Kin.OTHER_VALUES)
    if all(same(a, b).all() for a, b in _pieces(first, other, "F32")):
        return Relation(Kin.SAME)
    left = [(kin, cast, detail) for kin in (Kin.ROUNDED, Kin.FINER) for cast, detail in WAYS]
    for a, b in _pieces(first, other, "F32"):
        left = [
            (kin, cast, detail)
            for kin, cast, detail in left
            if _explains(cast, *((a, b) if kin is Kin.ROUNDED else (b, a)), change, threads)
        ]
        if not left:
            return Relation(Kin.OTHER_VALUES)
    kin, _, detail = left[0]
    return Relation(kin, detail)


def _explains(cast: Cast, fine: np.ndarray, coarse: np.ndarray, change: Change | None, threads: int | None) -> bool:
    """Tell whether F32 words are others, rounded: as they stand, or before a converter changed them."""
    rounded = fine.copy()
    cast.apply(rounded, threads)
    if same(rounded, coarse).all():
        return True
    return change is not None and _explains_before(cast, fine, coarse, change, threads)


def _explains_before(cast: Cast, fine: np.ndarray, coarse: np.ndarray, change: Change, threads: int | None) -> bool:
    """Tell whether values were rounded before a converter changed them, which hides their last bits."""
    stored = fine.view("<f4")
    found = np.zeros(fine.size, bool)
    for step in (-1, 0, 1):
        with np.errstate(all="ignore"):  # what no converter can have written
            hidden = stored.astype(np.float64) + step * np.spacing(np.abs(stored)).astype(np.float64)
            source = change.back(hidden).astype("<f4").view(np.uint32)
            cast.apply(source, threads)
            again = change.forth(source.view("<f4")).astype("<f4").view(np.uint32)
        found |= same(again, coarse)
    return bool(found.all())
