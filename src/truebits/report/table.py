"""Aligned tables, as text for a terminal, as Markdown, or as CSV.

Text is laid out here and not by rich, whose import alone takes longer than a scan of small work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Cell = str | int | float | None


class Scientific(float):
    """A number that is shown as ``3.05e-05``."""


STYLES = ("text", "md", "csv")


@dataclass
class Table:
    """Rows under named columns; numbers stand to the right.

    Attributes
    ----------
    columns : sequence of str
    rows : list of sequences of str, int, float or None
    """

    columns: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)

    def render(self, style: str = "text") -> str:
        """Return the table, without a newline at its end.

        Parameters
        ----------
        style : {"text", "md", "csv"}
        """
        if style == "csv":
            return self._csv()
        cells = [[_shown(cell) for cell in row] for row in self.rows]
        right = [
            all(isinstance(row[i], int | float | None) or _is_share(row[i]) for row in self.rows)
            for i in range(len(self.columns))
        ]
        widths = [max(2, *(len(text) for text in column)) for column in zip(self.columns, *cells, strict=True)]
        lines = [
            [
                text.rjust(width) if to_right else text.ljust(width)
                for text, width, to_right in zip(line, widths, right, strict=True)
            ]
            for line in [list(self.columns), *cells]
        ]
        if style == "md":
            rule = [
                "-" * (width - 1) + ":" if to_right else "-" * width
                for width, to_right in zip(widths, right, strict=True)
            ]
            return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def _csv(self) -> str:
        import csv
        import io

        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue().rstrip("\n")


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, Scientific):
        return f"{cell:.2e}"
    if isinstance(cell, float):
        return f"{cell:.2f}"
    return cell


def _is_share(cell: Cell) -> bool:
    return isinstance(cell, str) and cell.endswith(" %")


def percent(part: int, whole: int) -> str:
    """Return a share with two decimals that says 100 % or 0 % only where it is exactly that."""
    if part == whole:
        return "100 %" if whole else "-"
    if part == 0:
        return "0 %"
    return f"{min(99.99, max(0.01, 100 * part / whole)):.2f} %"


def nbytes(count: int) -> str:
    """Return a number of bytes in a unit that fits: ``638.2 MB``."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if unit != "B" else f"{count} B"
