"""What a ranking found, as tables and sentences."""

from __future__ import annotations

from pathlib import Path

from truebits.errors import printable
from truebits.lineage.ranking import Ranked, Ranking
from truebits.report.table import Cell, Table


def models(found: Ranking) -> Table:
    """The models, the nearest first."""
    table = Table(("model", "bits per weight", "error", "worst tensor", "its error", "not compared"))
    for one in found.models:
        worst = one.worst
        at: tuple[Cell, ...] = (worst.name, _share(worst.error.relative)) if worst and worst.error else (None, None)
        missing = one.coverage.tensors - one.coverage.tensors_read
        table.rows.append((_name(one), f"{one.bits_per_weight:.2f}", _share(one.error), *at, missing))
    return table


def groups(found: Ranking) -> Table:
    """The error of each group of tensors in each model."""
    table = Table(("tensors", *(_name(one) for one in found.models)))
    by_model = [one.groups for one in found.models]
    for name in dict.fromkeys(name for of in by_model for name in of):
        table.rows.append((printable(name), *(_share(of[name]) if name in of else None for of in by_model)))
    return table


def tensors(found: Ranking) -> Table:
    """Every tensor of every model for itself, for CSV."""
    table = Table(("model", "tensor", "type", "source", "relative_error", "not_compared"))
    for model in found.models:
        for one in model.tensors:
            error = one.error.relative if one.error else None
            table.rows.append((_name(model), one.name, one.type, one.source, error, one.why))
    return table


def remarks(found: Ranking) -> list[str]:
    """What was found under other names, and what was read."""
    lines = []
    for one in found.models:
        renamed = [tensor for tensor in one.tensors if tensor.is_renamed]
        if renamed:
            first = f"{renamed[0].name} is {renamed[0].source}"
            lines.append(f"{_name(one)}: {len(renamed):,} under another name, found by their values: {first}")
        if not one.coverage.is_complete:
            lines.append(f"{_name(one)}: {one.coverage}")
    return lines or [str(found.models[0].coverage)]


def _name(one: Ranked) -> str:
    return printable(Path(one.path).name)


def _share(error: float) -> str:
    return f"{100 * error:.3g} %"
