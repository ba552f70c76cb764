"""Findings: what is wrong or remarkable about a model's weights, worst first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from truebits.errors import printable
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.precision.coverage import Coverage, count, share

if TYPE_CHECKING:
    from truebits.precision.scan import Report, TensorPrecision

LEVELS = ("error", "warning", "note")

KINDS = (
    *("nan", "inf", "swapped_bytes", "codes_as_values", "missing_block", "all_zero", "constant"),
    *("label", "requantized", "mixed_rows", "upcast", "not_read"),
)
"""Worst first among those of one level."""

MOST_NAMED = 3
"""Of so many tensors a finding's message gives the places."""

NO_VERDICT = ("direct", "constant", "ambiguous")
"""What a tensor was made from, where no format is named."""


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


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings: errors, warnings, notes, and each of these by kind."""
    return tuple(sorted(findings, key=lambda one: (LEVELS.index(one.level), KINDS.index(one.kind))))


def findings_of(report: Report) -> tuple[Finding, ...]:
    """Find what is wrong with a scanned model."""
    found = [
        *_special(report, "nan", "NaN"),
        *_special(report, "inf", "Inf"),
        *_lost_blocks(report),
        *_all_zero(report),
        *_constant(report),
        *_requantized(report),
        *_upcast(report),
        *_not_read(report.coverage),
    ]
    return worst_first(found)


def is_matrix(tensor: Tensor) -> bool:
    """Tell whether a tensor has more than one dimension that counts: no bias, norm or scale."""
    return sum(size > 1 for size in tensor.shape) > 1


def _special(report: Report, kind: str, title: str) -> Iterator[Finding]:
    """NaN or Inf, how many and where."""
    hit = {name: number for name, one in report.tensors.items() if (number := getattr(one, kind))}
    told = []
    for name in list(hit)[:MOST_NAMED]:
        one = report.tensors[name]
        place = _place(report.model, one.tensor, one.first[kind])
        told.append(f"{one.tensor.label}: {hit[name]:,} {title}, the first at {place}")
    if hit:
        yield Finding(kind, "error", tuple(hit), _and_more(told, len(hit)))


def _place(model: Model, tensor: Tensor, at: int) -> str:
    """Say where a value stands: ``768 (row 3)``."""
    return f"{at:,} (row {at // model.row(tensor):,})" if is_matrix(tensor) else f"{at:,}"


def _lost_blocks(report: Report) -> Iterator[Finding]:
    """Scales of quantized tensors that are NaN or Inf."""
    hit = {name: one.special for name, one in report.blocks.items() if one.special}
    told = [f"{printable(name)}: {number:,} scales are Inf or NaN" for name, number in list(hit.items())[:MOST_NAMED]]
    if hit:
        message = f"{_and_more(told, len(hit))}: the values of their blocks are lost"
        yield Finding("nan", "error", tuple(hit), message)


def _all_zero(report: Report) -> Iterator[Finding]:
    zero = [
        name for name, one in report.tensors.items() if is_matrix(one.tensor) and one.values and one.zero == one.values
    ]
    zero += [name for name, one in report.blocks.items() if is_matrix(one.tensor) and one.groups == one.dead > 0]
    if zero:
        yield Finding("all_zero", "error", tuple(zero), f"{_named(zero)}: every value is zero")


def _constant(report: Report) -> Iterator[Finding]:
    same = [
        name
        for name, one in report.tensors.items()
        if is_matrix(one.tensor) and one.magnitude is not None and one.zero < one.values
    ]
    if same:
        yield Finding("constant", "warning", tuple(same), f"{_named(same)}: every value has the same magnitude")


def _requantized(report: Report) -> Iterator[Finding]:
    verdicts = report.made_from | {name: one.made_from for name, one in report.blocks.items()}
    by_format: dict[str, list[str]] = {}
    for name, verdict in verdicts.items():
        if verdict.format not in NO_VERDICT:
            by_format.setdefault(verdict.format, []).append(name)
    for format, names in by_format.items():
        of = f"{len(names):,} of {count(len(verdicts), 'tensor')} hold values of {format.upper()}"
        reason = f"{printable(names[0])}: {verdicts[names[0]].reason}"
        yield Finding("requantized", "warning", tuple(names), f"{of}; {reason}")


def _upcast(report: Report) -> Iterator[Finding]:
    """Tensors stored wider than what they came from; a GGUF's F32 vectors are stored so on purpose."""
    by_types: dict[tuple[str, str], list[TensorPrecision]] = {}
    for one in report.tensors.values():
        if one.narrowest is not None and one.values > one.nan:
            by_types.setdefault((one.type, one.narrowest), []).append(one)
    for (type, format), members in by_types.items():
        all_of_type = report.by_type()[type]
        values, whole = (sum(one.values for one in some) for some in (members, all_of_type))
        on_purpose = report.model.format == "gguf" and not any(is_matrix(one.tensor) for one in members)
        of = f"{len(members):,} of {count(len(all_of_type), f'{type} tensor')}, {share(values, whole)}"
        message = f"{of}, hold {format.upper()} values only"
        yield Finding("upcast", "note" if on_purpose else "warning", tuple(one.tensor.name for one in members), message)


def _not_read(coverage: Coverage) -> Iterator[Finding]:
    if coverage.undecided:
        yield Finding("not_read", "note", (), str(coverage).removesuffix("."))


def _named(names: Sequence[str]) -> str:
    return _and_more([printable(name) for name in names[:MOST_NAMED]], len(names))


def _and_more(told: list[str], all: int) -> str:
    """Join what is told of the first of several tensors."""
    return "; ".join(told) + (f"; and {count(all - len(told), 'tensor')} more" if all > len(told) else "")
