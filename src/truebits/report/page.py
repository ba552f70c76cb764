"""A report as one self-contained HTML page: verdict, table, heat map of layer x tensor, counts of a tensor on click.

Nothing is fetched. Names from files reach the page as JSON and as text, never as HTML.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truebits.errors import MissingExtra
from truebits.files.tensor import Tensor
from truebits.precision.report import Report
from truebits.report import listing, screen
from truebits.result import Result, finite

if TYPE_CHECKING:
    from truebits.precision.counting import TensorPrecision

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""A count as one character: 0 for none, else its bits."""

PAGE_COLUMNS = 100
"""Of the verdict's lines."""


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
    template = Environment(loader=PackageLoader("truebits", "report"), autoescape=True).get_template("page.html.j2")
    data = _of_scan(result) if isinstance(result, Report) else _of_any(result)
    embedded = json.dumps(finite(data), allow_nan=False).replace("<", "\\u003c")
    return template.render(title=data["title"], lines=data["lines"], data=embedded)


def write(result: Result, path: Path) -> None:
    """Write a result's page to a file."""
    path.write_text(render(result), encoding="utf-8")


def _of_any(result: Result) -> dict[str, Any]:
    records = result.to_records()
    columns = list(dict.fromkeys(key for record in records for key in record if not key.startswith("low_zero.")))
    rows = [[_cell(record.get(column)) for column in columns] for record in records]
    return {"title": result.summary, "lines": [["", result.summary]], "columns": columns, "rows": rows, "tensors": []}


def _of_scan(report: Report) -> dict[str, Any]:
    lines = [list(line) for line in screen.lines(report, PAGE_COLUMNS)]
    table = [
        {"name": tensor.label, "type": tensor.type, "values": tensor.values} | _figures(report, tensor)
        for tensor in report.model.tensors
        if tensor.name in report.tensors or tensor.name in report.blocks
    ]
    columns = ["name", "type", "values", "came from", "BF16 %", "FP16 %", "mantissa", "zero %", "NaN, Inf"]
    return {
        "title": f"{listing.name_of(report.model)} · truebits scan",
        "lines": lines,
        "columns": columns,
        "rows": [[row.get(column) for column in columns] for row in table],
        "tensors": [_picture(report, tensor) for tensor in report.model.tensors if tensor.name in report.tensors],
        "grid": {tensor.label: [_layer(tensor), _column(tensor)] for tensor in report.model.tensors},
        "strips": _strips(report),
    }


def _figures(report: Report, tensor: Tensor) -> dict[str, Any]:
    if tensor.name in report.blocks:
        of = report.blocks[tensor.name]
        return {"came from": screen.made_from(of.made_from), "NaN, Inf": of.special}
    one = report.tensors[tensor.name]
    count = one.values or 1
    return {
        "came from": str(one.origin),
        "BF16 %": 100 * one.fits("bf16") / count,
        "FP16 %": 100 * one.fits("fp16") / count,
        "mantissa": one.mantissa_bits(),
        "zero %": 100 * one.zero / count,
        "NaN, Inf": one.nan + one.inf,
    }


def _layer(tensor: Tensor) -> int | None:
    return next((int(word) for word in tensor.name.split(".") if word.isdigit() and len(word) < 6), None)


def _column(tensor: Tensor) -> str:
    """Name a column of the heat map: a bias is not its weight."""
    return tensor.role + (" bias" if tensor.name.endswith(".bias") else "")


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
            "runs": [[run.first, run.last, run.format] for run in of.runs],
        }
        for name, of in (report.rows or {}).items()
    ]


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
