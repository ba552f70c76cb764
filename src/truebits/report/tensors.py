"""Results as one table with a row for each tensor: what a page sorts and filters, and what heat maps show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from truebits.errors import printable
from truebits.report.table import Cell, Table
from truebits.result import Result

if TYPE_CHECKING:
    from truebits.comparing.diff import Diff
    from truebits.experiments.experiment import Experiment, ExperimentSweep
    from truebits.experiments.sensitivity import Sensitivity
    from truebits.lineage.kin import Siblings
    from truebits.lineage.ranking import Ranking
    from truebits.lineage.traces import Trace
    from truebits.precision.report import Report
    from truebits_native.reference import Difference

LOGARITHMIC = 100
"""Figures that are so many times apart, and none negative, are shown on a logarithmic scale."""

MEGABYTE = 8e6
"""Bits."""


class Tensors(NamedTuple):
    """A row per tensor, its name first.

    Attributes
    ----------
    table : Table
    figures : tuple of str
        The columns that a heat map can show, in the order in which they are offered.
    each : bool
        Together they make one picture, a heat map each; else the first is it.
    """

    table: Table
    figures: tuple[str, ...] = ()
    each: bool = False

    def column(self, name: str) -> dict[str, float | None]:
        """Return one figure by tensor; None where there is none, or none that is finite."""
        i = list(self.table.columns).index(name)
        cells = ((str(row[0]), row[i]) for row in self.table.rows)
        return {
            tensor: float(cell) if isinstance(cell, int | float) and isfinite(cell) else None for tensor, cell in cells
        }


def tensors(result: Result) -> Tensors:
    """Return a result's table, without columns that have nothing in them.

    Of a result that does not speak of tensors it is the rows of its document.
    """
    table, figures, each = _TABLES.get(result.verb, _records)(result)
    full = [i for i in range(len(table.columns)) if i == 0 or any(row[i] is not None for row in table.rows)]
    columns = [table.columns[i] for i in full]
    shown = tuple(name for name in figures if name in columns)
    return Tensors(Table(columns, [[row[i] for i in full] for row in table.rows]), shown, each)


def is_logarithmic(figures: Sequence[float]) -> bool:
    """Tell whether figures are so far apart that only a logarithmic scale shows them all."""
    positive = [one for one in figures if one > 0]
    return bool(positive) and min(figures) >= 0 and max(positive) > LOGARITHMIC * min(positive)


def _records(result: Result) -> Tensors:
    records = result.to_records()
    columns = list(dict.fromkeys(key for record in records for key in record))
    return Tensors(Table(columns, [[_told(record.get(column)) for column in columns] for record in records]))


def _told(value: Any) -> Cell:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value) if isinstance(value, bool) else value


def _scanned(report: Report) -> Tensors:
    from truebits.report.grouping import made_from

    columns = ("name", "type", "values", "came from", "bits in use", "BF16 %", "FP16 %", "zero %", "NaN, Inf")
    table = Table(columns)
    for tensor in report.model.tensors:
        start = tensor.label, tensor.type, tensor.values
        if tensor.name in report.blocks:
            of = report.blocks[tensor.name]
            stored = 8 * tensor.nbytes / (tensor.values or 1)
            table.rows.append((*start, made_from(of.made_from), stored, None, None, None, of.special))
        elif tensor.name in report.tensors:
            one = report.tensors[tensor.name]
            is_number = one.nan + one.inf < one.values
            bits = 1 + one.layout.exponent_bits + one.mantissa_bits() if is_number else None
            shares = (100 * count / (one.values or 1) for count in (one.fits("bf16"), one.fits("fp16"), one.zero))
            table.rows.append((*start, str(one.origin), bits, *shares, one.nan + one.inf))
    return Tensors(table, columns[4:])


DIFFERENCE = ("SNR dB", "RMS error", "max abs", "max rel", "max ulp")


def _difference(of: Difference | None) -> tuple[Cell, ...]:
    return (of.snr_db, of.rms, of.max_abs, of.max_rel, of.max_ulp) if of else (None,) * len(DIFFERENCE)


def _compared(found: Diff) -> Tensors:
    table = Table(("name", "types", "values", "differ %", *DIFFERENCE, "problem"))
    for one in found.tensors:
        types = " ".join(dict.fromkeys(one.types))
        share = None if one.problem else 100 * one.changed / (one.values or 1)
        table.rows.append((printable(one.name), types, one.values, share, *_difference(one.difference), one.problem))
    all_differ = all(one.difference is not None and 2 * one.changed > one.values for one in found.tensors)
    return Tensors(table, (*DIFFERENCE, "differ %") if all_differ else ("differ %", *DIFFERENCE))


def _experiment(done: Experiment) -> Tensors:
    if done.diff is not None:
        return _compared(done.diff)
    table = Table(("name", "values", "change %"))
    table.rows = [(printable(one.name), one.values, 100 * one.changed / (one.values or 1)) for one in done.plan.tensors]
    return Tensors(table, ("change %",))


def _swept(found: ExperimentSweep) -> Tensors:
    plans = [(one.to, one.plan) for one in found.candidates if one.plan is not None]
    figures = tuple(f"SNR dB, {to}" for to, _ in plans)
    rows: dict[str, list[Cell]] = {}
    for number, (_, plan) in enumerate(plans):
        for change in plan.tensors:
            row = rows.setdefault(change.name, [printable(change.name), change.values, *[None] * len(plans)])
            row[2 + number] = change.difference.snr_db if change.difference else None
    return Tensors(Table(("name", "values", *figures), list(rows.values())), figures, each=True)


def _sensitive(found: Sensitivity) -> Tensors:
    prices, means = ([f"{what}, {to}" for to in found.formats] for what in ("KL per MB saved", "mean KL"))
    rows: dict[str, list[Cell]] = {}
    for effect in found.effects:
        number = found.formats.index(effect.to)
        empty = [None] * 2 * len(found.formats)
        row = rows.setdefault(effect.group, [printable(effect.group), effect.values, *empty])
        row[2 + number] = None if effect.kl_per_bit is None else effect.kl_per_bit * MEGABYTE
        row[2 + len(found.formats) + number] = effect.kl
    figures = (*prices, *means)
    return Tensors(Table(("name", "values", *figures), list(rows.values())), figures)


def _traced(found: Trace) -> Tensors:
    figures = ("error %", "changed %", "differing %")
    table = Table(("name", "type", "source", "values", "verdict", *figures))
    for one in found.tensors:
        counts = (100 * count / (one.values or 1) for count in (one.changed, one.differing))
        error = None if one.error is None else 100 * one.error
        start = printable(one.name), one.type, one.source_type, one.values, one.described
        table.rows.append((*start, error, *counts))
    return Tensors(table, figures)


def _related(found: Siblings) -> Tensors:
    from truebits.report.siblings import tensors as listed

    return Tensors(listed(found))


def _ranked(found: Ranking) -> Tensors:
    figures = tuple(f"error %, {printable(Path(one.path).name)}" for one in found.models)
    rows: dict[str, list[Cell]] = {}
    for number, model in enumerate(found.models):
        for one in model.tensors:
            row = rows.setdefault(one.name, [printable(one.name), *[None] * len(found.models)])
            row[1 + number] = None if one.error is None else 100 * one.error.relative
    return Tensors(Table(("name", *figures), list(rows.values())), figures, each=True)


_TABLES: dict[str, Callable[[Any], Tensors]] = {
    "scan": _scanned,
    "diff": _compared,
    "experiment": _experiment,
    "experiment-sweep": _swept,
    "sensitivity": _sensitive,
    "trace": _traced,
    "trace-siblings": _related,
    "rank": _ranked,
}
"""By the result's verb."""
