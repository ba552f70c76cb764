"""What `scan --blocks` adds: codes, scales, and what tensors were quantized to before."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from truebits.errors import printable
from truebits.files.tensor import group_of
from truebits.precision.blocks import BlockProfile
from truebits.precision.origin import Origin
from truebits.precision.report import Report
from truebits.report.table import Cell, Table
from truebits.report.text import conclusion as conclusion_on_floats

NOTHING = ("direct", "constant", "ambiguous")
"""Verdicts that name no format."""


class BlockRow(NamedTuple):
    """Tensors of one name and type; `profile` is None for floating-point ones."""

    name: str
    type: str
    tensors: int
    profile: BlockProfile | None
    verdicts: tuple[Origin, ...]


def rows_of(report: Report, by_tensor: bool) -> list[BlockRow]:
    """One row for each tensor, or for each group of tensors and each storage type."""
    members: dict[tuple[str, str], list[str]] = {}
    for name, type in _types(report).items():
        members.setdefault((name if by_tensor else group_of(name), type), []).append(name)
    return [_row(report, name, type, names) for (name, type), names in members.items()]


def _types(report: Report) -> dict[str, str]:
    """Storage types of the tensors that have a verdict, in the file's order."""
    names = {*report.blocks, *report.made_from}
    return {tensor.name: tensor.type for tensor in report.model.tensors if tensor.name in names}


def _row(report: Report, name: str, type: str, names: list[str]) -> BlockRow:
    profiles = [report.blocks[name] for name in names if name in report.blocks]
    verdicts = tuple(_verdicts(report)[name] for name in names)
    whole = BlockProfile.merge(profiles) if profiles else None
    return BlockRow(printable(name), type, len(names), whole, verdicts)


def _verdicts(report: Report) -> dict[str, Origin]:
    return {**report.made_from, **{name: one.made_from for name, one in report.blocks.items()}}


def _origins(row: BlockRow) -> str:
    """The verdicts of a row: ``q4_0``, or ``direct 20, q4_0 2``."""
    counts = Counter(verdict.format for verdict in row.verdicts).most_common()
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{format} {count}" for format, count in counts)


def codes(report: Report, by_tensor: bool) -> Table:
    """How many of its codes each block uses, and what its scales are."""
    table = Table(
        (
            *("tensors", "type", "n", "blocks", "codes used", "typical", "dead", "degenerate", "Inf/NaN"),
            *("scales", "made from"),
        )
    )
    for row in rows_of(report, by_tensor):
        of = row.profile
        if of is None:
            figures: tuple[Cell, ...] = (None,) * 7
        else:
            reach = "{:.3g} .. {:.3g}".format(*of.scale_range) if of.scale_range else "-"
            typical = f"{of.typical} of {of.possible}" if of.groups else "-"
            figures = of.blocks, f"{of.codes} of {of.levels}", typical, of.dead, of.degenerate, of.special, reach
        table.rows.append((row.name, row.type, row.tensors, *figures, _origins(row)))
    return table


def counts(report: Report, by_tensor: bool) -> Table:
    """The same as plain numbers, for CSV."""
    keys = ("blocks", "groups", "sampled_groups", "codes", "levels", "possible", "typical", "dead", "degenerate")
    scales = ("special_scales", "zero_scales", "negative_scales", "scale_exponent")
    table = Table(("tensors", "type", "n", *keys, *scales, "least_scale", "greatest_scale", "made_from"))
    for row in rows_of(report, by_tensor):
        answers = row.profile.answers() if row.profile else {}
        reach = row.profile.scale_range if row.profile else None
        figures = [answers.get(key) for key in (*keys, *scales)]
        table.rows.append((row.name, row.type, row.tensors, *figures, *(reach or (None, None)), _origins(row)))
    return table


def conclusion(report: Report) -> str:
    """What a scan with blocks comes to, in sentences."""
    lines = [conclusion_on_floats(report)] if report.tensors else []
    for format, names in _by_verdict(report).items():
        first = names[0]
        lines.append(
            f"{len(names)} of {len(_verdicts(report))} tensors hold values of {format.upper()}; "
            f"{printable(first)}: {_verdicts(report)[first].reason}."
        )
    special = sum(one.special for one in report.blocks.values())
    if special:
        lines.append(f"{special:,} scales are Inf or NaN: the values of their blocks are lost.")
    if len(lines) == (1 if report.tensors else 0):
        lines.append("No tensor shows that it was quantized to a coarser format before.")
    blocks = sum(one.blocks for one in report.blocks.values())
    sampled = sum(one.sampled_blocks for one in report.blocks.values())
    if sampled < blocks:
        lines.append(
            f"Scales are those of all {blocks:,} blocks; codes used, typical, dead and degenerate are of "
            f"{sampled:,} of them, at equal distances."
        )
    return "\n".join(lines)


def _by_verdict(report: Report) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, verdict in _verdicts(report).items():
        if verdict.format not in NOTHING:
            found.setdefault(verdict.format, []).append(name)
    return found
