"""Several models of one checkpoint, as a table and sentences."""

from __future__ import annotations

from pathlib import Path

from truebits.errors import printable
from truebits.files.tensor import group_of
from truebits.lineage.kin import Siblings, TensorKin
from truebits.report.table import Table

MOST = 20
"""Tensors that are told of one by one; the rest is counted."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def letter(number: int) -> str:
    """Return what a model is called in tables: A, B, ..., Z, then its number."""
    return LETTERS[number] if number < len(LETTERS) else str(number + 1)


def models(found: Siblings) -> Table:
    """The files, and where the precision of their unquantized tensors came from."""
    table = Table(("model", "file", "unquantized", "came from"))
    for number, one in enumerate(found.models):
        for type, origin in one.origins.items() or [("-", None)]:
            file = printable(Path(one.path).name)
            table.rows.append((letter(number), file, type, str(origin) if origin else "-"))
    return table


def groups(found: Siblings) -> Table:
    """Tensors by group, with their type in each model and what they are to the first one's."""
    members: dict[tuple[str, ...], list[TensorKin]] = {}
    for one in found.tensors:
        key = group_of(one.name), *(type or "-" for type in one.types), *map(str, one.relations)
        members.setdefault(key, []).append(one)
    letters = [letter(number) for number in range(len(found.models))]
    table = Table(("tensors", "n", "values", *letters, *(f"{name} to A" for name in letters[1:])))
    for (group, *rest), of in members.items():
        table.rows.append((group, len(of), sum(one.values for one in of), *rest))
    return table


def tensors(found: Siblings) -> Table:
    """Every tensor for itself, for CSV."""
    letters = [letter(number) for number in range(len(found.models))]
    table = Table(("tensor", "values", *letters, *(f"{name}_to_A" for name in letters[1:])))
    table.rows = [(one.name, one.values, *one.types, *map(str, one.relations)) for one in found.tensors]
    return table


def conclusions(found: Siblings) -> list[str]:
    """What each model but the first is to it."""
    return [f"{letter(number)}: {found.conclusion(number)}." for number in range(1, len(found.models))]


def remarks(found: Siblings) -> list[str]:
    """What differs in each tensor, and what was read."""
    told = [
        f"{one.name}: {letter(number + 1)} has {relation.kin}: {relation.detail}"
        for one in found.tensors
        for number, relation in enumerate(one.relations)
        if relation.kin.is_fault and relation.detail
    ]
    more = [f"{len(told) - MOST:,} more tensors differ"] if len(told) > MOST else []
    return [*told[:MOST], *more, str(found.coverage)]
