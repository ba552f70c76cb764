"""Findings: what is wrong or remarkable about a model's weights, worst first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from truebits.errors import printable
from truebits.files.claims import label_of, missing_blocks
from truebits.files.model import Model

LEVELS = ("error", "warning", "note")

KINDS = (
    *("nan", "inf", "swapped_bytes", "codes_as_values", "missing_block", "all_zero", "constant"),
    *("label", "requantized", "mixed_rows", "upcast", "not_read"),
)
"""Worst first among those of one level."""


@dataclass(frozen=True)
class Finding:
    """Something wrong or remarkable.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    level : {"error", "warning", "note"}
        Error: the values cannot be right. Warning: they are not what they pass for. Note: worth knowing.
    tensors : tuple of str
        Names, as in the file; empty where it is about the file.
    message : str
        A sentence without its full stop, safe to print.
    """

    kind: str
    level: str
    tensors: tuple[str, ...]
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in a JSON document under ``findings``."""
        names = [printable(name) for name in self.tensors]
        return {"kind": self.kind, "level": self.level, "tensors": names, "message": self.message}


def header_findings(model: Model) -> Iterator[Finding]:
    """Find what the header alone tells is wrong: promised blocks that are not there, a label that misleads."""
    missing, label = missing_blocks(model), label_of(model)
    if missing:
        yield Finding("missing_block", "error", (), missing.message)
    if label and label.contradiction:
        yield Finding("label", "warning", (), label.contradiction)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings: errors, warnings, notes, and each of these by kind."""
    return tuple(sorted(findings, key=lambda one: (LEVELS.index(one.level), KINDS.index(one.kind))))
