"""A result in a notebook: what it comes to, and the first rows of its table."""

from __future__ import annotations

from html import escape

from truebits.errors import printable
from truebits.report.table import Cell
from truebits.report.tensors import tensors
from truebits.report.told import told
from truebits.result import Result

MOST_ROWS = 20
"""The rest is counted: `to_pandas` has all."""

NUMBER = ' style="text-align: right"'
NAME = ' style="text-align: left"'


def html(result: Result) -> str:
    """Return verdict and table as HTML; names from files are escaped."""
    lines = "\n".join(escape(line) for _, line in told(result).lines)
    table = tensors(result).table
    right = table.to_right()
    head = "".join(
        f"<th{NUMBER if at else NAME}>{escape(name)}</th>" for name, at in zip(table.columns, right, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{NUMBER if at else NAME}>{escape(_shown(cell))}</td>" for cell, at in zip(row, right, strict=True)
        )
        + "</tr>"
        for row in table.rows[:MOST_ROWS]
    )
    left = len(table.rows) - MOST_ROWS
    more = f"<p>and {left:,} more: <code>to_pandas()</code> has all</p>" if left > 0 else ""
    rows = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if table.rows else ""
    return f'<pre style="white-space: pre-wrap">{lines}</pre>{rows}{more}'


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.4g}" if isinstance(cell, float) else printable(cell)
