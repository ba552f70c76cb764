"""Tables of what is how far off: after rounding, and between two models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite, isnan
from typing import TYPE_CHECKING

from truebits.errors import printable
from truebits.files.tensor import group_of
from truebits.precision.coverage import count
from truebits.report.table import Cell, Scientific, Table, percent
from truebits_native.reference import Difference, merged

if TYPE_CHECKING:
    from truebits.comparing.diff import Diff, TensorDiff
    from truebits.files.model import Model
    from truebits.rewriting.operation import Rewrite, TensorChange
    from truebits.rewriting.trials import Trial

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


def brief(table: Table) -> Table:
    """Return a table of `rounded` in the columns that a screen has room for, without those that say nothing."""
    if ERRORS[-1] not in table.columns:
        return table
    told = {name: [row[at] for row in table.rows] for at, name in enumerate(table.columns)}
    same = ["to"] if len({*told.get("to", ())} - {None}) == 1 else []
    never = [name for name in ("flushed", "saturated") if not any(told.get(name, ()))]
    return table.without([*NOT_BRIEF, "RMS error", *same, *never])


def _sums(changes: Sequence[TensorChange], measured: bool) -> tuple[Cell, ...]:
    values, changed = sum(one.values for one in changes), sum(one.changed for one in changes)
    whole = merged(one.difference for one in changes if one.difference is not None)
    return values, changed, percent(changed, values), *(errors(whole) if measured else ())


def errors(of: Difference) -> tuple[Cell, ...]:
    """The error figures of `ERRORS`."""
    largest = Scientific(of.max_abs), Scientific(of.max_rel), of.max_ulp
    return of.flushed, of.saturated, *largest, Scientific(of.rms), of.snr_db


NOT_BRIEF = ("differ", "change", "max rel", "max ulp", "MSE", "cosine")
"""Columns that a screen has no room for."""

MOST_PLACES = 5
"""Tensors of which a screen says where they differ."""


def nearest(found: Sequence[Trial]) -> str:
    """Say which of several formats is nearest to the values, which farthest, and which cannot take them."""
    able = sorted(
        (one for one in found if one.difference), key=lambda one: -one.difference.snr_db if one.difference else 0
    )
    told = [
        f"{which}: {one.to}, {one.bits:.2f} bits per weight, SNR {one.difference.snr_db:.1f} dB."
        for which, one in zip(("Nearest", "Farthest"), (able[0], able[-1]) if able[1:] else able, strict=False)
        if one.difference and one.bits is not None
    ]
    told += [f"{one.to}: n/a: {printable(one.problem)}" for one in found if one.problem]
    return "\n".join(told)


def touched(found: Sequence[Trial], model: Model) -> str:
    """Say how much of a model a sweep's formats round."""
    able = [one for one in found if one.difference is not None]
    of = max(able, key=lambda one: one.tensors, default=None)
    if of is None or of.difference is None:
        return f"No format can take the tensors that are selected; bits are those of all {len(model.tensors):,}."
    tensors = f"{of.tensors:,} of {len(model.tensors):,} tensors are rounded"
    told = f"{tensors}, {percent(of.difference.values, model.values)} of the weights; bits are of the whole model."
    fewer = [one for one in able if one.tensors < of.tensors]
    if fewer:
        left = count(of.tensors - fewer[0].tensors, "tensor")
        told += f"\nOf these {', '.join(one.to for one in fewer)} left {left} of one dimension, as llama.cpp does."
    return told


def trials(found: Sequence[Trial]) -> Table:
    """What each format would do to one model, side by side."""
    table = Table(("format", "bits", "change", "share", *ERRORS))
    for trial in found:
        of = trial.difference
        figures = (of.changed, percent(of.changed, of.values), *errors(of)) if of else (None,) * (2 + len(ERRORS))
        table.rows.append((trial.to, trial.bits, *figures))
    return table


def diff(found: Diff, by_tensor: bool) -> Table:
    """What differs, by tensor or by group of tensors, and all of it together."""
    members: dict[tuple[str, str], list[TensorDiff]] = {}
    for tensor in found.tensors:
        if not tensor.is_same:
            name = tensor.name if by_tensor else group_of(tensor.name)
            members.setdefault((name, " ".join(dict.fromkeys(tensor.types))), []).append(tensor)
    table = Table((*(("tensor",) if by_tensor else ("tensors", "n")), "types", "values", "differ", "share", *FIGURES))
    for (name, kinds), of in members.items():
        table.rows.append((printable(name), *(() if by_tensor else (len(of),)), kinds, *_totals(of)))
    if len(table.rows) > 1:
        differing = sum(map(len, members.values()))
        table.rows.append(("all", *(() if by_tensor else (differing,)), None, *_totals(found.tensors)))
    return table


def _totals(tensors: Sequence[TensorDiff]) -> tuple[Cell, ...]:
    """Values, how many differ, and the figures of those that were measured."""
    values, changed = sum(one.values for one in tensors), sum(one.changed for one in tensors)
    measured = [one.difference for one in tensors if one.difference is not None]
    if not measured and any(one.problem for one in tensors):  # not compared is not equal
        return values, *(None,) * (2 + len(FIGURES))
    return values, changed, percent(changed, values), *_compared(merged(measured) if measured else None)


FIGURES = ("max abs", "max rel", "max ulp", "MSE", "SNR dB", "cosine")


def _compared(of: Difference | None) -> tuple[Cell, ...]:
    if of is None:
        return (None,) * len(FIGURES)
    cosine = f"{of.cosine:.9f}" if isfinite(of.cosine) else None
    ratio = None if isnan(of.snr_db) else of.snr_db  # only the blocks that differ were looked at
    return Scientific(of.max_abs), Scientific(of.max_rel), of.max_ulp, Scientific(of.mse), ratio, cosine


def places(found: Diff, most: int = 20) -> Table:
    """Where tensors differ first, and where most."""
    table = Table(("tensor", "", "index", "value in a", "in b", "word in a", "in b"))
    for tensor in [tensor for tensor in found.tensors if tensor.first is not None][:most]:
        for kind, place in (("first", tensor.first), ("worst", tensor.worst)):
            if place is not None:
                values = f"{place.a:.9g}", f"{place.b:.9g}"
                table.rows.append((tensor.name, kind, place.at, *values, place.word_a, place.word_b))
    return table


def verdict(found: Diff) -> str:
    """What the comparison comes to."""
    tensors, values = len(found.tensors), found.values
    if found.verdict == "same":
        return f"The same: {count(tensors, 'tensor')} with {count(values, 'value')}, byte for byte, and all metadata."
    if found.verdict == "same values":
        return (
            f"The same values, stored otherwise: {', '.join(_stored(found)) or 'only metadata tells of other types'}."
        )
    if found.verdict == "not verified":
        return f"Not verified: {len(found.unknown):,} of {tensors:,} tensors could not be compared."
    if not found.tensors:
        here, there = len(found.only_a), len(found.only_b)
        return f"Nothing in common: {count(here, 'tensor')} here, {there:,} there, and no name is in both."
    if not found.changed:
        return f"Different: {', '.join(_apart(found))}."
    differing = sum(tensor.is_different for tensor in found.tensors)
    told = f"Different: {differing:,} of {tensors:,} tensors, {found.changed:,} of {values:,} values."
    alike = sum(not (one.is_same or one.is_different or one.is_unknown) for one in found.tensors)
    return told + (f" {alike:,} more: the same values, stored otherwise." if alike else "")


def _apart(found: Diff) -> Iterator[str]:
    """Say what differs where no two values that were compared do."""
    other = [tensor for tensor in found.tensors if tensor.is_different]
    if other:
        have = "has" if len(other) == 1 else "have"
        what = (
            "another shape" if all(one.shapes[0] != one.shapes[1] for one in other) else "other bytes, or another shape"
        )
        yield f"{len(other):,} of {count(len(found.tensors), 'tensor')} {have} {what}"
    if alone := len(found.only_a) + len(found.only_b):
        yield f"{count(alone, 'tensor')} {'is' if alone == 1 else 'are'} in one of the two only"
    if not (other or alone):
        yield f"only the metadata, and the values of {count(len(found.tensors), 'tensor')} do not"


def _stored(found: Diff) -> list[str]:
    """Say how many tensors hold their values otherwise, and how."""
    kinds = Counter(tensor.types for tensor in found.tensors if not tensor.is_same)
    return [
        f"{count(number, 'tensor')} {f'{a} here, {b} there' if a != b else f'{a} from other bytes'}"
        for (a, b), number in kinds.items()
    ]


def differences(found: Diff, most: int = 20) -> list[str]:
    """Everything that tables of values do not say, a sentence each; of a kind no more than `most`."""
    only = [
        f"{one} {'are' if several else 'is'} only in {printable(side)}"
        for side, names in ((found.a, found.only_a), (found.b, found.only_b))
        for one, several in _grouped(names)
    ]
    by_problem: dict[str, list[str]] = {}
    for tensor in found.tensors:
        if tensor.problem:
            by_problem.setdefault(tensor.problem, []).append(tensor.name)
    problems = [f"{one}: {problem}" for problem, names in by_problem.items() for one, _ in _grouped(names)]
    kinds = Counter(one.types for one in found.tensors if one.problem is None and one.types[0] != one.types[1])
    as_values = [
        f"{count(number, 'tensor')} {a} here, {b} there: compared as the values they mean"
        for (a, b), number in kinds.items()
    ]
    alike = [one for one in found.tensors if not (one.is_same or one.changed or one.problem)]
    same_values = [f"{one.name}: the same values from other bytes" for one in alike if one.types[0] == one.types[1]]
    keys = [f"{one.key}: {_said(one.a)} and {_said(one.b)}" for one in found.metadata]
    if not found.tensors and keys:
        keys = [f"{count(len(keys), 'key')} of the metadata {'differs' if len(keys) == 1 else 'differ'}"]
    lines: list[str] = []
    if only and not found.tensors:
        lines = ["a GGUF's tensors have other names than its checkpoint's: `truebits trace` knows both"]
    for of in (only, problems, as_values, same_values, keys):
        lines += [*of[:most], *([f"and {len(of) - most:,} more such"] if len(of) > most else [])]
    return [*lines, *([] if found.coverage.is_complete else [str(found.coverage)])]


def _grouped(names: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield names, those that differ only in numbers as one, and whether there are several."""
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(group_of(name), []).append(name)
    for group, of in members.items():
        yield printable(f"{len(of):,} x {group}" if len(of) > 1 else of[0]), len(of) > 1


def _said(value: str | None) -> str:
    return "not there" if value is None else value
