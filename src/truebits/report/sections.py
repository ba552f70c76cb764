"""Reports in sections: sentences and tables under headings, as text for a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from truebits.report.table import Table, wrapped


class Section(NamedTuple):
    """A part of a report: sentences and tables under a heading."""

    heading: str
    parts: list[str | Table]


def render(sections: Sequence[Section], style: str) -> str:
    """Return a report as text for a terminal, or as Markdown."""
    blocks = []
    for section in sections:
        blocks.append(f"## {section.heading}" if style == "md" else section.heading.upper())
        blocks += [_sentences(part, style) if isinstance(part, str) else part.render(style) for part in section.parts]
    return "\n\n".join(blocks)


def _sentences(part: str, style: str) -> str:
    """Return sentences, a line each; for a terminal in lines that fit."""
    return part if style == "md" else "\n".join(line for one in part.splitlines() for line in wrapped(one, whole=True))
