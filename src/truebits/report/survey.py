"""What a survey found, as sentences and tables, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from truebits.errors import printable
from truebits.files.types import FLOAT_FORMATS
from truebits.numbers.spelling import title_of
from truebits.precision.coverage import count
from truebits.report.table import Amount, Bytes, Table, cut, nbytes, percent, terminal_width, wrapped
from truebits.surveying.answers import Survey

MOST_ROWS = 10
"""Of a table of names on the screen."""

ASKED = ("F32", "F16", "BF16")
"""Types of uploads that the first sentences are about."""

IN_WORDS: dict[str | None, str] = {
    **{"ambiguous": "too little to tell", "constant": "constants", "integer": "whole numbers", "made": "settings"},
    **{"direct": "nothing coarser", "scaled": "codes x scales", None: "not read"},
}
"""What is no format, of what values came from."""


def lines(found: Survey, width: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield the screen line by line, each with its kind: ``error``, ``warning`` or nothing, none wider than `width`."""
    width = width or terminal_width()
    for kind, sentence in verdict(found):
        yield from ((kind, line) for line in wrapped(sentence, width))
    for table in tables(found):
        yield "", ""
        rows = table.rows[:MOST_ROWS]
        yield from (("", cut(line, width)) for line in Table(table.columns, rows).render("text", width).splitlines())
        if len(table.rows) > MOST_ROWS:
            yield "", f"and {len(table.rows) - MOST_ROWS:,} more; --json has all"
    remarks = list(examples(found))
    if remarks:
        yield "", ""
    for kind, remark in remarks:
        yield from ((kind, line) for line in wrapped(remark, width))


def verdict(found: Survey) -> Iterator[tuple[str, str]]:
    """Say what the survey comes to, each sentence with its kind."""
    for type in ASKED:
        rows = found.stored_as(type)
        if rows:
            yield "", _uploads(type, rows)
    saved = found.bytes_saved
    if saved:
        yield "", f"{nbytes(saved)} of {nbytes(found.bytes)} could be saved without changing a value."
    wrong, labelled = found.labels["contradicted"], found.labels["labelled"]
    if labelled:
        yield ("warning" if wrong else ""), f"Labels: {wrong:,} of {labelled:,} say something else than the contents."
    for row in found.findings:
        if row["level"] == "error":
            told = f"{row['kind']} in {count(row['models'], 'model')}, {count(row['tensors'], 'tensor')}"
            yield "error", f"error: {told}."
    yield "", _read(found)
    if found.waiting:
        told = f"{count(found.waiting, 'more model')} done and not counted here"
        yield "warning", f"{told}: a survey is running, or was killed; run it again, and it goes on."


def _uploads(type: str, rows: tuple[dict[str, Any], ...]) -> str:
    """Say of models stored in a type how many carry what, the most first."""
    whole = sum(row["models"] for row in rows)
    told = [
        f"{row['models']:,} ({percent(row['models'], whole, 1)}) " + _carried(row, type)
        for row in sorted(rows, key=lambda row: -row["models"])
    ]
    return f"{type}: of {count(whole, 'model')} {', '.join(told)}."


def _carried(row: dict[str, Any], type: str) -> str:
    ending = "s" if row["models"] == 1 else ""
    if row["came_from"] == FLOAT_FORMATS[type]:
        return f"use{ending} all of it"
    return f"{'carries' if ending else 'carry'} {came_from(row['came_from'])}"


def came_from(format: str | None) -> str:
    """Return what values came from, in words."""
    return IN_WORDS.get(format) or title_of(str(format))


def _read(found: Survey) -> str:
    told = f"Read: {count(found.models - found.failed, 'model')}, {nbytes(found.bytes_read)} of {nbytes(found.bytes)}"
    missing = found.models - found.failed - found.complete
    told += f"; {missing:,} of them in part (quantized tensors by sample, or not at all)" if missing else ""
    return f"{told}; {count(found.failed, 'model')} could not be read." if found.failed else f"{told}."


def tables(found: Survey) -> Iterator[Table]:
    """Yield the tables: uploads, findings, architectures, publishers."""
    table = Table(("stored as", "came from", "models", "weights", "bytes", "saves"))
    for row in found.uploads:
        sums = row["models"], Amount(row["values"]), Bytes(row["bytes"]), Bytes(row["bytes_saved"])
        table.rows.append((row["stored"] or "-", came_from(row["came_from"]), *sums))
    if table.rows:
        yield table
    if found.findings:
        table = Table(("finding", "level", "models", "tensors"))
        table.rows = [(row["kind"], row["level"], row["models"], row["tensors"]) for row in found.findings]
        yield table
    for title, rows in (("architecture", found.architectures), ("publisher", found.publishers)):
        if any(row["name"] for row in rows):
            table = Table((title, "models", "upcasts", "wrong label", "with errors", "bytes"))
            for row in rows:
                wrong = row["mislabelled"], row["with_errors"], Bytes(row["bytes"])
                table.rows.append((row["name"] or "not said", row["models"], row["upcast"], *wrong))
            yield table


def examples(found: Survey) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with some models: labels, and why they could not be read."""
    for row in found.labels["examples"]:
        yield "warning", f"{printable(row['source'])}: {row['contradiction']}"
    for problem in found.problems:
        for row in problem["examples"]:
            told = row["error"] if row["source"] in row["error"] else f"{printable(row['source'])}: {row['error']}"
            yield "error", f"not read: {told}"
