"""What a trace found, as tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from truebits.errors import printable
from truebits.files.tensor import group_of
from truebits.lineage.traces import TensorTrace, Trace
from truebits.lineage.ways import Verdict
from truebits.precision.coverage import count
from truebits.report.table import Cell, Table

MOST = 20
"""Names of one kind that are listed at most; the rest is counted."""


NOT_BRIEF = ("of", "word", "expected word")
"""Columns of `places` that a screen has no room for."""


def groups(found: Trace) -> Table:
    """Tensors by group, and what became of them."""
    members: dict[tuple[str, ...], list[TensorTrace]] = {}
    for tensor in found.tensors:
        key = group_of(tensor.name), tensor.type or "-", tensor.source_type or "-", tensor.summary
        members.setdefault(key, []).append(tensor)
    table = Table(("tensors", "n", "type", "source", "values", "changed", "error", "verdict"))
    for (group, type, source, verdict), of in members.items():
        values, changed = sum(one.values for one in of), sum(one.changed for one in of)
        errors = [one.error for one in of if one.error is not None]
        worst = f"{max(errors):.2g}" if errors else "-"
        table.rows.append((printable(group), len(of), type, source, values, changed, worst, verdict))
    return table


def brief(found: Trace) -> Table:
    """The same in the columns that a screen has room for."""
    nothing = not any(one.changed for one in found.tensors)
    return groups(found).without(["values", *(["changed"] if nothing else [])])


def tensors(found: Trace) -> Table:
    """Every tensor for itself, for CSV."""
    table = Table(
        (
            *("tensor", "type", "source_type", "source", "values", "verdict", "detail", "transforms"),
            *("changed", "differing", "first_index", "value", "expected", "relative_error"),
        )
    )
    for one in found.tensors:
        sources = (
            f"{one.sources[0]} and {len(one.sources) - 1} more" if len(one.sources) > 1 else ", ".join(one.sources)
        )
        place = (one.first.at, f"{one.first.a:.9g}", f"{one.first.b:.9g}") if one.first else (None, None, None)
        what = one.name, one.type, one.source_type, sources, one.values, str(one.verdict), one.detail
        table.rows.append((*what, ", ".join(one.transforms), one.changed, one.differing, *place, one.error))
    return table


def places(found: Trace) -> Table:
    """What is altered, and where it differs first."""
    table = Table(("altered", "differ", "of", "index", "value", "expected", "word", "expected word", "why"))
    for one in [one for one in found.tensors if one.verdict is Verdict.ALTERED][:MOST]:
        place = one.first
        where: tuple[Cell, ...] = (None,) * 5
        if place is not None:
            where = place.at, f"{place.a:.9g}", f"{place.b:.9g}", place.word_a, place.word_b
        table.rows.append((one.name, one.differing, one.values, *where, one.detail or "-"))
    return table


def remarks(found: Trace) -> list[str]:
    """Everything else, a sentence each; last what was read."""
    lines = []
    if not found.is_known:
        lines.append(
            f"what converters do to {found.architecture} is not in truebits' table: values are compared as they are"
        )
    if found.unmatched:
        names = _listed(found.unmatched)
        lines.append(
            f"{count(len(found.unmatched), 'tensor')} of the checkpoint: what became of it is not known: {names}"
        )
    reasons: dict[str, list[str]] = {}
    for one in found.left_out:
        reasons.setdefault(one.why, []).append(one.name)
    lines += [f"not in the GGUF, {why}: {_listed(names)}" for why, names in reasons.items()]
    for tensor in found.tensors:
        if tensor.left_out:
            which = "first" if "position" in tensor.name else "last"
            lines.append(f"{tensor.name}: the {which} {tensor.left_out:,} rows of the checkpoint are not in the GGUF")
    for verdict in (Verdict.MISSING, Verdict.EXTRA):
        of = [one.name for one in found.tensors if one.verdict is verdict]
        if of:
            lines.append(f"{verdict}: {_listed(of)}")
    lines += [f"{one.name}: {one.detail}" for one in found.tensors if one.verdict is Verdict.MISSING and one.detail]
    altered = found.counts.get(Verdict.ALTERED, 0)
    if altered > MOST:
        lines.append(f"{altered - MOST:,} more tensors are altered")
    return [*lines, str(found.coverage)]


def verdict(found: Trace) -> str:
    """What the trace comes to."""
    return f"{found.conclusion[0].upper()}{found.conclusion[1:]}."


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:MOST])}{', ...' if len(names) > MOST else ''}"
