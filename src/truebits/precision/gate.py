"""A gate for pipelines: may this model go on? Header, findings, and how much was read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from truebits.errors import BadTensorType, ModelFileError, UsageError, printable
from truebits.files.model import Model, Regexes, open_model
from truebits.numbers.formats import Format
from truebits.numbers.spelling import find
from truebits.precision.batches import Progress
from truebits.precision.counting import TensorPrecision
from truebits.precision.coverage import Coverage, count
from truebits.precision.findings import KINDS, Finding
from truebits.precision.report import Report
from truebits.precision.scan import scan
from truebits.result import Result

DEFAULT = ("header", "nan", "inf", "swapped_bytes", "codes_as_values", "missing_block", "all_zero")
"""Kinds of findings that say that a model cannot be right."""

ASKED = ("header", "require", *KINDS)
"""What a gate may fail on."""


@dataclass(frozen=True, repr=False)
class Gate(Result):
    """What `check` found.

    Attributes
    ----------
    file : str
    fail_on : tuple of str
        Kinds of findings that close the gate.
    require : str or None
        The format that every value has to be exact in.
    findings : tuple of Finding
        All there are, worst first; of the kind ``header`` where the file breaks a rule of its format, of the
        kind ``require`` where values do not fit.
    coverage : Coverage
    unproved : tuple of str
        Why it cannot be told whether something is wrong, apart from what was not read.
    """

    verb = "check"
    rows_of_document = "findings"

    file: str
    fail_on: tuple[str, ...]
    require: str | None
    findings: tuple[Finding, ...] = field(repr=False, default=())
    coverage: Coverage = field(repr=False, default_factory=Coverage)
    unproved: tuple[str, ...] = field(repr=False, default=())

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings that close the gate."""
        return tuple(finding for finding in self.findings if finding.kind in self.fail_on)

    @property
    def verdict(self) -> str:
        """``passed``, ``failed``, or ``not verified`` where what decides was not all read."""
        if self.failed:
            return "failed"
        return "passed" if self.coverage.is_complete and not self.unproved else "not verified"

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        return {
            "file": printable(self.file),
            "verdict": self.verdict,
            "fail_on": list(self.fail_on),
            "require": self.require,
            "failed": [finding.to_dict() for finding in self.failed],
            "unproved": list(self.unproved),
            "findings": [finding.to_dict() for finding in self.findings],
            "coverage": self.coverage.to_dict(),
        }

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return f"{self.verdict}: {self.file}"


def check(
    source: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    fail_on: Iterable[str] = DEFAULT,
    require: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Gate:
    """Tell whether a model passes: no finding of certain kinds, and all read that decides.

    Parameters
    ----------
    source : Model or path-like
    select, exclude : regex or regexes, optional
        Searched for in tensor names; `exclude` wins.
    fail_on : iterable of str
        Kinds of `truebits.Finding`, or ``header``: a broken rule of the file format.
    require : str, optional
        A floating-point format, as ``bf16``: every value has to be exact in it.
    threads, progress
        As for `scan`.

    Returns
    -------
    Gate

    Raises
    ------
    UsageError
        `fail_on` names no kind, `require` no format, or the selection has no tensor to look at.
    OSError
        The file is missing or unreadable, or changes meanwhile.
    """
    kinds = _kinds(fail_on, require)
    format = find(require) if require is not None else None
    try:
        model = open_model(source)
        report = scan(model, select, exclude, blocks=True, threads=threads, progress=progress)
    except ModelFileError as error:
        if "header" not in kinds:
            raise
        return Gate(os.fspath(source.path if isinstance(source, Model) else source), kinds, require, (_broken(error),))
    unmet = tuple(_unmet(report, format)) if format else ()
    unproved = tuple(_unproved(report, format, kinds))
    return Gate(str(model.path), kinds, require, (*_odd(model), *unmet, *report.findings), report.coverage, unproved)


def _kinds(fail_on: Iterable[str], require: str | None) -> tuple[str, ...]:
    kinds = tuple(fail_on)
    unknown = [kind for kind in kinds if kind not in ASKED]
    if unknown:
        raise UsageError(f"no kind of finding is called {printable(unknown[0])}; there are {', '.join(ASKED)}")
    return kinds if require is None else (*kinds, "require")


def _broken(error: ModelFileError) -> Finding:
    return Finding("header", "error", (), f"{error.code} at byte {error.offset}: {error.message}")


def _odd(model: Model) -> Iterator[Finding]:
    """Broken rules that leave a file readable; a type that is not known yet breaks none."""
    for part in model.parts:
        for odd in part.findings:
            if odd.stops_writing and odd.error is not BadTensorType:
                yield Finding("header", "error", (), f"{odd.error.code} at byte {odd.offset}: {odd.message}")


def _unmet(report: Report, format: Format) -> Iterator[Finding]:
    """Say which floating-point tensors have values that are not exact in a format."""
    outside = {name: number for name, one in report.tensors.items() if (number := _outside(one, format))}
    if outside:
        first = next(iter(outside))
        hold = "holds" if len(outside) == 1 else "hold"
        of = f"{len(outside):,} of {count(len(report), 'tensor')} {hold} values not exact in {format.name.upper()}"
        values = f"{outside[first]:,} of {count(report[first].values, 'value')}"
        yield Finding("require", "error", tuple(outside), f"{of}; {printable(first)}: {values}")


def _outside(one: TensorPrecision, format: Format) -> int:
    """Count the values that are not exact, before a converter changed them if that is known."""
    if one.before is not None and format.name in one.before.outside:
        return one.before.outside[format.name]
    return one.values - one.fits(format)


def _unproved(report: Report, format: Format | None, kinds: Collection[str]) -> Iterator[str]:
    """Say what was asked and cannot be told: exact values of quantized tensors, what their codes were before."""
    if report.model.tensors and report.coverage.is_blind:
        yield "no tensor was read"
    types = sorted({one.type for one in report.blocks.values()})
    untold = [one.type for one in report.blocks.values() if one.made_from.format == "ambiguous"]
    if untold and "requantized" in kinds:
        of = f"{count(len(untold), 'quantized tensor')} ({', '.join(sorted({*untold}))})"
        yield f"whether {of} {'was' if len(untold) == 1 else 'were'} quantized coarser before cannot be told"
    if types and format is not None:
        of = f"{count(len(report.blocks), 'quantized tensor')} ({', '.join(types)})"
        yield f"whether the values of {of} are exact in {format.name.upper()} was not looked at"
