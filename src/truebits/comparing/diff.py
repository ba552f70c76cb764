"""Model against model: which values differ, by how much, and where.

What is measured, and how, `truebits.comparing.measure` has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, NamedTuple

import truebits_native as native
from truebits.comparing.measure import Both, Place
from truebits.comparing.sides import ITEM_BYTES, side_of
from truebits.errors import UsageError, printable, shortened
from truebits.files.model import Model, Regexes, open_model
from truebits.files.tensor import Tensor, shape_text
from truebits.numbers.figures import error_figures
from truebits.precision.batches import Progress, stepper
from truebits.precision.coverage import Coverage
from truebits.quantizers.blocks import has_values
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.weights import meaning_of
from truebits.result import Result, finite
from truebits_native.reference import Difference, merged

METRICS = ("changed", "max_abs", "max_rel", "max_ulp", "mse", "rms")
"""What a gate can limit: less is better, 0 is the same."""

STORAGE_KEYS = ("general.file_type", "general.quantization_version")
"""Metadata that tells of nothing but the types of the tensors."""

NAMESAKES = 0.5
"""Of the tensors of two architectures, so many must have one name and shape for a comparison to tell anything."""


@dataclass(frozen=True)
class TensorDiff:
    """One tensor in both models.

    Attributes
    ----------
    name : str
    types : (str, str)
    shapes : (tuple of int, tuple of int)
        Both with their dimensions in the order of the first side's file.
    values : int
        Of the first side.
    difference : Difference or None
        None where the bytes are equal, or where values cannot be compared.
    first, worst : Place or None
        The first value that differs, and the first of those with the largest error.
    problem : str or None
        Why values cannot be compared.
    """

    name: str
    types: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    values: int
    difference: Difference | None = None
    first: Place | None = None
    worst: Place | None = None
    problem: str | None = None

    @property
    def changed(self) -> int:
        """Values that differ."""
        return self.difference.changed if self.difference else 0

    @property
    def is_same(self) -> bool:
        """Type, shape and every byte are the same: only what differs in bytes is measured."""
        is_alike = self.types[0] == self.types[1] and self.shapes[0] == self.shapes[1]
        return is_alike and self.difference is None and self.problem is None

    @property
    def is_different(self) -> bool:
        """Some value, or the shape, is another."""
        return bool(self.changed) or (self.problem is not None and not self.is_unknown)

    @property
    def is_unknown(self) -> bool:
        """The types differ, and one of them has no values that could be compared: they may be the same."""
        return self.problem is not None and self.types[0] != self.types[1] and self.shapes[0] == self.shapes[1]


class KeyDiff(NamedTuple):
    """A metadata key whose value differs; None where a side does not have it."""

    key: str
    a: str | None
    b: str | None


@dataclass(frozen=True, repr=False)
class Diff(Result):
    """What `diff` found.

    Attributes
    ----------
    a, b : str
        Paths.
    tensors : tuple of TensorDiff
        Those in both, in the first model's order.
    only_a, only_b : tuple of str
        Names of tensors that the other side does not have.
    metadata : tuple of KeyDiff
    coverage : Coverage
        What was compared of the first model's tensors.
    """

    verb = "diff"

    a: str
    b: str
    tensors: tuple[TensorDiff, ...] = field(repr=False)
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    metadata: tuple[KeyDiff, ...] = ()
    coverage: Coverage = field(repr=False, default_factory=Coverage)

    @property
    def is_same(self) -> bool:
        """Tensors and metadata are the same."""
        return self.verdict == "same"

    @property
    def verdict(self) -> str:
        """Say what all comes to.

        ``same`` byte for byte, metadata too; ``same values``, stored otherwise; ``different``; or ``not verified``
        where only what could not be compared may differ.
        """
        if not (self.only_a or self.only_b or self.metadata) and all(tensor.is_same for tensor in self.tensors):
            return "same"
        keys = {one.key for one in self.metadata} - {*STORAGE_KEYS}
        if self.only_a or self.only_b or keys or any(tensor.is_different for tensor in self.tensors):
            return "different"
        return "not verified" if self.unknown else "same values"

    @property
    def values(self) -> int:
        """Values in tensors that both have."""
        return sum(tensor.values for tensor in self.tensors)

    @property
    def changed(self) -> int:
        return sum(tensor.changed for tensor in self.tensors)

    @property
    def total(self) -> Difference:
        """Figures over all tensors that differ."""
        return merged(tensor.difference for tensor in self.tensors if tensor.difference is not None)

    def over(self, metric: str, limit: float) -> list[str]:
        """Say what is above a limit, or differs and cannot be measured; nothing if the gate is passed.

        What may be the same and cannot be compared is neither: see `unknown`.

        Raises
        ------
        UsageError
            No such metric, or a limit that could never be exceeded, or only by mistake.
        """
        check_limit(metric, limit)
        failed = [
            f"{name} is only in {printable(side)}"
            for side, names in ((self.a, self.only_a), (self.b, self.only_b))
            for name in names
        ]
        for tensor in self.tensors:
            if tensor.problem and not tensor.is_unknown:
                failed.append(f"{tensor.name}: {tensor.problem}")
            elif tensor.difference is not None and not figure(tensor.difference, metric) <= limit:
                failed.append(
                    f"{tensor.name}: {metric} is {figure(tensor.difference, metric):.6g}, more than {limit:g}"
                )
        return failed

    @property
    def unknown(self) -> tuple[TensorDiff, ...]:
        """The tensors that may be the same and cannot be compared."""
        return tuple(tensor for tensor in self.tensors if tensor.is_unknown)

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        tensors = [
            {
                "name": tensor.name,
                "types": tensor.types,
                "shapes": tensor.shapes,
                "values": tensor.values,
                "changed": tensor.changed,
                "same": tensor.is_same,
                "problem": tensor.problem,
                **error_figures(tensor.difference),
                "first": finite(tensor.first._asdict()) if tensor.first else None,
                "worst": finite(tensor.worst._asdict()) if tensor.worst else None,
            }
            for tensor in self.tensors
        ]
        return {
            "a": self.a,
            "b": self.b,
            "same": self.is_same,
            "verdict": self.verdict,
            "coverage": self.coverage.to_dict(),
            "only_a": self.only_a,
            "only_b": self.only_b,
            "metadata": [key._asdict() for key in self.metadata],
            "tensors": tensors,
            "total": {"values": self.values, "changed": self.changed, **error_figures(self.total)},
        }

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return f"{self.verdict}: {self.changed:,} of {self.values:,} values"


def check_limit(metric: str, limit: float) -> None:
    """Raise `UsageError` for a gate that lets nothing or everything pass."""
    if metric not in METRICS:
        raise UsageError(f"no metric is called {metric!r}; there are {', '.join(METRICS)}")
    if not isfinite(limit) or limit < 0:
        raise UsageError(f"a limit of {limit} for {metric} lets nothing or everything pass: give 0 or more")


def figure(of: Difference, metric: str) -> float:
    """Return one of `METRICS`."""
    return float(getattr(of, metric))


def diff(
    a: Model | str | os.PathLike[str],
    b: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Diff:
    """Compare two models tensor by tensor.

    Parameters
    ----------
    a, b : Model or path-like
    select, exclude : regex or regexes, optional
        Which tensors of each.
    threads, progress
        As for `scan`.

    Returns
    -------
    Diff

    Raises
    ------
    SelectionError, ModelFileError, OSError
    """
    meant = [meaning_of(open_model(side)) for side in (a, b)]
    ours, theirs = (of.model for of in meant)
    unread = meant[0].not_read | meant[1].not_read
    chosen = [{tensor.name: tensor for tensor in side.select(select, exclude)} for side in (ours, theirs)]
    both = [(tensor, chosen[1][name]) for name, tensor in chosen[0].items() if name in chosen[1]]
    _check_architectures(ours, theirs)
    native.expect_work("rounding", sum(old.values for old, new in both if {old.type, new.type} <= ITEM_BYTES.keys()))
    step, found = stepper(progress, sum(tensor.nbytes for tensor, _ in both)), []
    for old, new in both:
        found.append(_compared(meant, old, new, unread.get(old.name), threads))
        step(old.nbytes)
    only = [tuple(tensor.label for name, tensor in chosen[i].items() if name not in chosen[1 - i]) for i in (0, 1)]
    not_read = dict.fromkeys(chosen[0].keys() - chosen[1].keys(), "the other side has none of this name")
    not_read |= {old.name: of.problem for (old, _), of in zip(both, found, strict=True) if of.problem}
    coverage = Coverage.of(ours.tensors, not_read, chosen[0].keys())
    metadata = tuple(_metadata(ours, theirs))
    return Diff(str(ours.path), str(theirs.path), tuple(found), only[0], only[1], metadata, coverage)


def _check_architectures(ours: Model, theirs: Model) -> None:
    """Raise `UsageError` for two models of which nothing could be said but that they are others."""
    a, b = ours.architecture, theirs.architecture
    if a is None or b is None or a == b:
        return
    shapes = {tensor.name: tensor.shape for tensor in theirs.tensors}
    alike = sum(shapes.get(tensor.name) == tensor.shape for tensor in ours.tensors)
    if alike < NAMESAKES * len(ours.tensors):
        raise UsageError(
            f"{printable(str(ours.path))} is a {printable(a)} and {printable(str(theirs.path))} a {printable(b)}: "
            f"{alike:,} of {len(ours.tensors):,} tensors have a namesake of their shape, there is nothing to compare"
        )


def _compared(meant: Sequence[Meaning], a: Tensor, b: Tensor, unread: str | None, threads: int | None) -> TensorDiff:
    """Compare one tensor with its namesake; `unread` says why its values cannot be."""
    if meant[0].model.format != meant[1].model.format:  # GGUF has the fastest dimension first, safetensors last
        b = b._replace(shape=b.shape[::-1])
    same = TensorDiff(a.label, (a.type, b.type), (a.shape, b.shape), a.values)
    if a.shape != b.shape:
        shapes = (shape_text(tensor.shape) for tensor in (a, b))
        return replace(same, problem=f"its shapes differ: {' and '.join(shapes)}")
    with side_of(meant[0], a) as ours, side_of(meant[1], b) as theirs:
        for file, tensor in (*ours.stored, *theirs.stored):
            file.expect(tensor.offset, tensor.offset + tensor.nbytes)
        both = Both(ours, theirs, threads)
        if not both.is_quantized and both.same_bytes():
            return same
        problem = unread or (None if both.is_quantized else _problem(a, b))
        if problem:
            return replace(same, problem=problem)
        measured = both.measured()
        is_same = both.is_quantized and not measured.difference.changed and both.same_bytes()
        return same if is_same else replace(same, **measured._asdict())


def _problem(a: Tensor, b: Tensor) -> str | None:
    """Say why the values of two tensors that differ in bytes cannot be compared."""
    for tensor in (a, b):
        if tensor.type not in ITEM_BYTES and (tensor.opaque or not has_values(tensor.type)):
            differ = "the bytes differ, and " if a.type == b.type else ""
            return f"{differ}{tensor.type} has no values that could be compared"
    return None


def _metadata(ours: Model, theirs: Model) -> Iterator[KeyDiff]:
    """Yield the keys whose values differ, of the first file of each model."""
    a, b = ours.parts[0], theirs.parts[0]
    with a.map() as left, b.map() as right:
        for key in dict.fromkeys([*a.header.keys, *b.header.keys]):
            sides = [(part, file) for part, file in ((a, left), (b, right)) if key in part.header.keys]
            raw = [part.raw_value(file.data, key) for part, file in sides]
            if len(raw) == 1 or raw[0] != raw[1]:
                texts = {id(part): _shown(part.header.value(file.data, key)) for part, file in sides}
                yield KeyDiff(printable(key), texts.get(id(a)), texts.get(id(b)))


def _shown(value: float | str | bool | None) -> str:
    return "an array" if value is None else shortened(str(value))
