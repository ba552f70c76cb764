"""Tables of what is how far off: after rounding, and between two models."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from truebits.errors import printable
from truebits.files.tensor import group_of
from truebits.report.table import Cell, Scientific, Table, percent
from truebits_native.reference import Difference, merged

if TYPE_CHECKING:
    from truebits.comparing.diff import Diff, TensorDiff
    from truebits.rewriting.fakequant import Trial
    from truebits.rewriting.operation import Rewrite, TensorChange

ERRORS = ("flushed", "saturated", "max abs", "max rel", "max ulp", "RMS error", "SNR dB")


def rounded(result: Rewrite, by_tensor: bool) -> Table:
    """Changed values and their errors, by tensor or by group of tensors that go to one format."""
    members: dict[tuple[str, str], list[TensorChange]] = {}
    for change in result.tensors:
        name = change.name if by_tensor else group_of(change.name)
        members.setdefault((name, change.to or ""), []).append(change)
    measured = result.difference is not None
    table = Table(("tensors", "n", "to", "values", "change", "share", *(ERRORS if measured else ())))
    for (name, to), changes in members.items():
        table.rows.append((printable(name), len(changes), to, *_sums(changes, measured)))
    if len(members) > 1:
        table.rows.append(("all", len(result.tensors), None, *_sums(result.tensors, measured)))
    return table


def _sums(changes: Sequence[TensorChange], measured: bool) -> tuple[Cell, ...]:
    values, changed = sum(one.values for one in changes), sum(one.changed for one in changes)
    whole = merged(one.difference for one in changes if one.difference is not None)
    return values, changed, percent(changed, values), *(errors(whole) if measured else ())


def errors(of: Difference) -> tuple[Cell, ...]:
    """The error figures of `ERRORS`."""
    largest = Scientific(of.max_abs), Scientific(of.max_rel), of.max_ulp
    return of.flushed, of.saturated, *largest, Scientific(of.rms), of.snr_db


def trials(found: Sequence[Trial]) -> Table:
    """What each format would do to one model, side by side."""
    table = Table(("format", "bits", "change", "share", *ERRORS))
    for trial in found:
        of = trial.difference
        figures = (of.changed, percent(of.changed, of.values), *errors(of)) if of else (None,) * (2 + len(ERRORS))
        table.rows.append((trial.to, trial.bits, *figures))
    return table


def diff(found: Diff) -> Table:
    """The tensors that differ, and all of them together."""
    table = Table(("tensor", "types", "values", "differ", "share", *FIGURES))
    for tensor in found.tensors:
        if not tensor.is_same:
            of = tensor.difference
            kinds = tensor.types[0] if tensor.types[0] == tensor.types[1] else " ".join(tensor.types)
            share = percent(tensor.changed, tensor.values)
            table.rows.append((tensor.name, kinds, tensor.values, tensor.changed, share, *_compared(of)))
    if len(table.rows) > 1:
        share = percent(found.changed, found.values)
        table.rows.append(("all", None, found.values, found.changed, share, *_compared(found.total)))
    return table


FIGURES = ("max abs", "max rel", "max ulp", "MSE", "SNR dB", "cosine")


def _compared(of: Difference | None) -> tuple[Cell, ...]:
    if of is None:
        return (None,) * len(FIGURES)
    cosine = f"{of.cosine:.9f}" if isfinite(of.cosine) else None
    return Scientific(of.max_abs), Scientific(of.max_rel), of.max_ulp, Scientific(of.mse), of.snr_db, cosine


def places(found: Diff, most: int = 20) -> Table:
    """Where tensors differ first, and where most."""
    table = Table(("tensor", "", "index", "value in a", "in b", "word in a", "in b"))
    for tensor in [tensor for tensor in found.tensors if tensor.first is not None][:most]:
        for kind, place in (("first", tensor.first), ("worst", tensor.worst)):
            if place is not None:
                values = f"{place.a:.9g}", f"{place.b:.9g}"
                table.rows.append((tensor.name, kind, place.at, *values, place.word_a, place.word_b))
    return table


def differences(found: Diff) -> list[str]:
    """Everything that tables of values do not say, a sentence each; and the verdict."""
    lines = [
        f"{name} is only in {printable(side)}"
        for side, names in ((found.a, found.only_a), (found.b, found.only_b))
        for name in names
    ]
    lines += [f"{tensor.name}: {_odd(tensor)}" for tensor in found.tensors if _odd(tensor)]
    lines += [f"{one.key}: {_said(one.a)} and {_said(one.b)}" for one in found.metadata]
    tensors = len(found.tensors)
    if found.is_same:
        return [f"The same: {tensors:,} tensors with {found.values:,} values, byte for byte, and all metadata."]
    if found.verdict == "not verified":
        return [
            *lines,
            f"Not verified: {len(found.unknown):,} of {tensors:,} tensors could not be compared.",
            str(found.coverage),
        ]
    differing = sum(not tensor.is_same for tensor in found.tensors)
    return [*lines, f"Different: {differing:,} of {tensors:,} tensors, {found.changed:,} of {found.values:,} values."]


def _odd(tensor: TensorDiff) -> str | None:
    """Say what the values do not."""
    if tensor.problem is None and tensor.types[0] != tensor.types[1]:
        return f"{tensor.types[0]} and {tensor.types[1]}, compared as the values they mean"
    if tensor.problem is None and not (tensor.is_same or tensor.changed):
        return "the same values from other bytes"
    return tensor.problem


def _said(value: str | None) -> str:
    return "not there" if value is None else value
