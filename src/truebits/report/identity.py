"""Fingerprints and what became of them, for a reader."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from truebits.comparing.fingerprint import Fingerprint
from truebits.comparing.verify import Verification
from truebits.errors import printable
from truebits.files.tensor import group_of, shape_text
from truebits.precision.coverage import count
from truebits.report.table import Table, terminal_width

MOST = 20
"""Rows of the table of what is not the same."""


def headline(found: Fingerprint) -> str:
    """One line on a fingerprint, which begins as those of sha256sum do."""
    name, kept = printable(Path(found.file).name), found.unquantized
    others = len(found.tensors) - len(kept)
    if found.value is None:
        return f"none  {name}: no F32, F16, BF16 or F64 tensor among {others}; -o csv lists the hash of each"
    left_out = f"; not in it: {count(others, 'tensor')} of block-quantized or integer type" if others else ""
    return (
        f"{found.value}  {name}: {sum(one.values for one in kept):,} values of {count(len(kept), 'tensor')}{left_out}"
    )


def tensors(found: Fingerprint) -> Table:
    """The hash of each tensor."""
    table = Table(("tensor", "type", "shape", "values", "hash of", "hash"))
    for name, type, shape, values, kind, hash in found.tensors:
        table.rows.append((printable(name), type, shape_text(shape), values, kind, hash))
    return table


def verified(found: Verification, style: str) -> str:
    """What became of a model: the tensors that are not the same and, as text, what that comes to."""
    if style != "text":
        return _differences(found).render(style)
    table = _groups(found)
    more = [f"and {len(table.rows) - MOST:,} more rows; -o csv has every tensor"] if len(table.rows) > MOST else []
    rows = [Table(table.columns, table.rows[:MOST]).render(width=terminal_width())] if table.rows else []
    return "\n\n".join([_conclusion(found), *rows, *more])


def _groups(found: Verification) -> Table:
    """What became of tensors that are not the same; those that differ only in numbers stand in one row."""
    members = Counter((group_of(one.name), *one[1:]) for one in found.checks if one.verdict != "same")
    names = {group_of(one.name): one.name for one in found.checks}
    table = Table(("tensors", "n", "verdict", "was", "now", "reason"))
    table.rows = [(printable(group if n > 1 else names[group]), n, *rest) for (group, *rest), n in members.items()]
    return table


def _differences(found: Verification) -> Table:
    table = Table(("tensor", "verdict", "was", "now", "reason"))
    for name, *rest in found.checks:
        if rest[0] != "same":
            table.rows.append((printable(name), *rest))
    return table


def _conclusion(found: Verification) -> str:
    counts = found.counts
    failed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count and verdict != "same")
    if found.verdict == "not verified":
        same = f"of {count(len(found.checks), 'tensor')} {counts['same']} are the same"
        return f"Not verified: {same}, {counts['requantized']} cannot be compared by hash.\n{found.coverage}"
    if failed:
        return f"Not the same model: of {count(len(found.checks), 'tensor')} {counts['same']} are the same, {failed}."
    stored = Counter((check.was, check.now) for check in found.checks if check.was != check.now)
    otherwise = "".join(
        f" {count} of them: same values, stored as {now}, not {was}." for (was, now), count in stored.items()
    )
    if len(found.checks) == 1:
        return f"Same: its 1 tensor is there and holds what it held.{otherwise}"
    return f"Same: all {count(len(found.checks), 'tensor')} are there and hold what they held.{otherwise}"
