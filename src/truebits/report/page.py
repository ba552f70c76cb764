"""A result as one self-contained HTML page: verdict, pictures, tables, heat map of layer x tensor.

Nothing is fetched. Names from files reach the page as JSON and as text, never as HTML.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truebits.errors import MissingExtra
from truebits.experiments.experiment import ExperimentSweep
from truebits.files.tensor import Tensor
from truebits.precision.report import Report
from truebits.report.heatmap import grid
from truebits.report.tensors import Tensors, is_logarithmic, tensors
from truebits.report.told import told
from truebits.result import Result, finite

if TYPE_CHECKING:
    from truebits.precision.counting import TensorPrecision

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""A count as one character: 0 for none, else its bits."""


def render(result: Result) -> str:
    """Return a result's page.

    Raises
    ------
    MissingExtra
        jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError:
        raise MissingExtra("An HTML page", "html") from None
    environment = Environment(loader=PackageLoader("truebits", "report"), autoescape=True)
    said = told(result)
    lines = [line for _, line in said.lines]
    sections = [
        (section.heading, [part for part in section.parts if not _is_said(part, lines)]) for section in said.sections
    ]
    embedded = json.dumps(finite(_data(result)), allow_nan=False).replace("<", "\\u003c")
    return environment.get_template("page.html.j2").render(
        title=" · ".join(filter(None, (said.of, f"truebits {result.verb}"))),
        lines=said.lines,
        sections=[(heading, parts) for heading, parts in sections if parts],
        data=embedded,
    )


def write(result: Result, path: Path) -> None:
    """Write a result's page to a file."""
    path.write_text(render(result), encoding="utf-8")


def _is_said(part: Any, lines: list[str]) -> bool:
    """Tell whether a part has nothing new: a table without rows, or a sentence of the verdict."""
    return any(part in line for line in lines) if isinstance(part, str) else not part.rows


def _data(result: Result) -> dict[str, Any]:
    """Return what the page's script draws."""
    found = tensors(result)
    data = {"columns": list(found.table.columns), "rows": [list(row) for row in found.table.rows], **_heat(found)}
    if isinstance(result, Report):
        shown = [tensor for tensor in result.model.tensors if tensor.name in result.tensors]
        data |= {"pictures": [_picture(result, tensor) for tensor in shown], "strips": _strips(result)}
    if isinstance(result, ExperimentSweep):
        data["points"] = _points(result)
    return data


def _heat(found: Tensors) -> dict[str, Any]:
    """Return the heat map's rows, columns, places, and the figures that it can show: name and scale."""
    placed = grid(str(row[0]) for row in found.table.rows)
    figures = []
    for name in found.figures if placed.has_layers else ():
        numbers = [number for number in found.column(name).values() if number is not None]
        if numbers:
            figures.append([name, is_logarithmic(numbers)])
    return {"figures": figures, "grid": placed._asdict() if figures else None}


def _points(found: ExperimentSweep) -> list[dict[str, Any]]:
    """Return a point for each format that was measured: bits per weight, mean divergence and its error."""
    return [
        {"name": one.to, "x": one.bits, "y": one.evaluation.divergence.mean, "error": one.evaluation.divergence.error}
        for one in found.candidates
        if one.evaluation is not None
    ]


def _picture(report: Report, tensor: Tensor) -> dict[str, Any]:
    """Return the counts of exponent x trailing zeros, a character each, rows from the least exponent that occurs."""
    one: TensorPrecision = report.tensors[tensor.name]
    table = one.table
    occurring = table.sum(axis=1).nonzero()[0]
    if not occurring.size:
        return {"name": tensor.label, "first": 0, "rows": []}
    first, last = int(occurring[0]), int(occurring[-1])
    rows = ["".join(DIGITS[math.frexp(count)[1]] for count in row) for row in table[first : last + 1].tolist()]
    return {"name": tensor.label, "first": first - one.layout.table_bias, "rows": rows}


def _strips(report: Report) -> list[dict[str, Any]]:
    """Return the runs of rows of each mixed tensor."""
    return [
        {
            "name": report.tensors[name].tensor.label,
            "rows": of.rows,
            "runs": [[run.first, run.last, run.format, run.tokens] for run in of.runs],
        }
        for name, of in (report.rows or {}).items()
    ]
