"""Aligned tables, as text for a terminal, as Markdown, or as CSV.

Text is laid out here: the import of a library for it takes longer than a scan of small work.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import wrap

Cell = str | int | float | None


class Scientific(float):
    """A number that is shown as ``3.05e-05``."""


class Amount(int):
    """A number of things that is shown as ``268.1 M``."""


class Bytes(int):
    """A number of bytes that is shown as ``638.2 MB``."""


STYLES = ("text", "md", "csv")

LONGEST_CELL = 160
"""Characters of a cell, but in CSV: a name may have 65,535."""

MOST_COLUMNS, NARROWEST, LEAST_FOLDED = 100, 8, 20


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

    def render(self, style: str = "text", width: int | None = None) -> str:
        """Return the table, without a newline at its end.

        Parameters
        ----------
        style : {"text", "md", "csv"}
        width : int, optional
            Columns that a line of text may have: the longest texts are cut so far in their middle, numbers never.
        """
        if style == "csv":
            return self._csv()
        columns, cells, right = list(self.columns), self.texts(), self.to_right()
        widths = [max(2, *(len(text) for text in column)) for column in zip(self.columns, *cells, strict=True)]
        if width is not None and style == "text":
            least = [
                width if is_number else min(width, NARROWEST) for width, is_number in zip(widths, right, strict=True)
            ]
            widths = _narrowed(widths, least, width)
            columns, *cells = [
                [cut(text, most) for text, most in zip(row, widths, strict=True)] for row in (columns, *cells)
            ]
        lines = [
            [
                text.rjust(width) if to_right else text.ljust(width)
                for text, width, to_right in zip(line, widths, right, strict=True)
            ]
            for line in [columns, *cells]
        ]
        if style == "md":
            rule = [
                "-" * (width - 1) + ":" if to_right else "-" * width
                for width, to_right in zip(widths, right, strict=True)
            ]
            return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def folded(self, width: int) -> str:
        """Return the table as text in which the last column, a text, goes on below itself and is not cut."""
        used = [max(2, *map(len, column)) for column in zip(self.columns, *self.texts(), strict=True)][:-1]
        room = max(LEAST_FOLDED, width - sum(used) - 2 * len(used))
        table = Table(self.columns)
        for *cells, last in self.rows:
            first, *more = wrap(_shown(last), room) or [""]
            table.rows += [(*cells, first), *((*[""] * len(cells), line) for line in more)]
        return table.render(width=width)

    def without(self, names: Sequence[str]) -> Table:
        """Return the table without some of its columns."""
        kept = [i for i, name in enumerate(self.columns) if name not in names]
        return Table([self.columns[i] for i in kept], [[row[i] for i in kept] for row in self.rows])

    def texts(self) -> list[list[str]]:
        """Return the cells as they are shown."""
        return [[cut(_shown(cell), LONGEST_CELL) for cell in row] for row in self.rows]

    def to_right(self) -> list[bool]:
        """Tell for each column whether it stands to the right: all in it are numbers."""
        return [
            all(isinstance(row[i], int | float | None) or row[i] == "" or _is_share(row[i]) for row in self.rows)
            for i in range(len(self.columns))
        ]

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
    if isinstance(cell, Amount):
        return amount(cell)
    if isinstance(cell, Bytes):
        return nbytes(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, Scientific):
        return f"{cell:.2e}"
    if isinstance(cell, float):
        return f"{cell:.2f}"
    return cell


def cut(text: str, most: int) -> str:
    """Return a text of at most so many characters; what is cut is cut from its middle."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def _narrowed(widths: list[int], least: list[int], most: int) -> list[int]:
    """Take columns from the widest until a line fits, and from none more than it can spare."""
    widths = list(widths)
    excess = sum(widths) + 2 * (len(widths) - 1) - most
    while excess > 0 and (able := [i for i, width in enumerate(widths) if width > least[i]]):
        widest = max(able, key=widths.__getitem__)
        second = max((widths[i] for i in able if i != widest), default=0)
        taken = min(excess, max(1, widths[widest] - max(least[widest], second)))
        widths[widest] -= taken
        excess -= taken
    return widths


def wrapped(text: str, width: int | None = None, whole: bool = False) -> list[str]:
    """Return a sentence in lines of so many columns, the terminal's if not given; further lines are indented.

    A word that is wider is broken, or stays `whole`, as a path that is to be copied.
    """
    most = max(terminal_width() if width is None else width, NARROWEST)
    return wrap(text, most, subsequent_indent="  ", break_on_hyphens=False, break_long_words=not whole) or [""]


def terminal_width() -> int:
    """Return how wide a table may be: as wide as the terminal, 100 columns at most."""
    return min(MOST_COLUMNS, shutil.get_terminal_size((MOST_COLUMNS, 24)).columns)


def amount(count: int, unit: str = "") -> str:
    """Return a number of things, or of a unit, with a prefix that fits: ``268.1 M``."""
    size, prefix = float(count), ""
    for larger in "kMGT":
        if size < 1000:
            break
        size, prefix = size / 1000, larger
    return f"{size:.1f} {prefix}{unit}" if prefix else f"{count} {unit}".rstrip()


def _is_share(cell: Cell) -> bool:
    return isinstance(cell, str) and cell.endswith(" %")


def percent(part: int, whole: int, digits: int = 2) -> str:
    """Return a share that says 100 % or 0 % only where it is exactly that, with more digits where it takes them."""
    if part == whole:
        return "100 %" if whole else "-"
    if part == 0:
        return "0 %"
    share = 100 * part / whole
    if share < 0.01:
        return f"{share:.1g} %" if share >= 1e-4 else f"{share:.0e} %"
    more = next(more for more in range(digits, 18) if 0 < round(share, more) < 100)
    return f"{share:.{more}f} %"


def nbytes(count: int) -> str:
    """Return a number of bytes in a unit that fits: ``638.2 MB``."""
    return amount(count, "B")
