"""Report -> findings: what speaks against a model's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from truebits.errors import printable
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.numbers.spelling import find, title_of
from truebits.precision.batches import batches
from truebits.precision.bins import FLOAT_LAYOUTS
from truebits.precision.coverage import Coverage, count, share
from truebits.precision.evidence import Evidence
from truebits.precision.findings import Finding, header_findings, worst_first
from truebits.precision.swapped import FEWEST

if TYPE_CHECKING:
    from truebits.precision.counting import TensorPrecision
    from truebits.precision.report import Report

MOST_NAMED = 3
"""Of so many tensors a finding's message gives the places."""

NO_VERDICT = ("direct", "constant", "ambiguous")
"""What a tensor was made from, where no format is named."""

MUCH = 0.01
"""Of a model's bytes: upcasts of no more are a note, as the vectors that converters store as F32 on purpose."""

NARROWER = ("bf16", "fp16", "f32")
"""Formats of storage types that others may be too wide for."""


class Numbers(NamedTuple):
    """Numbers of a tensor's values: those that are something, and those that a format does not hold."""

    nan: int
    inf: int
    zero: int
    subnormal: int
    fractions: int
    finer_than_fp8: int
    misfits: tuple[int, ...]


@cache
def _questions(type: str) -> np.ndarray:
    """What each bin adds to `Numbers`; int64 of shape (bins, numbers)."""
    layout = FLOAT_LAYOUTS[type]
    usual = ~(layout.is_special | layout.is_zero)
    kinds = [layout.is_nan, layout.is_inf, layout.is_zero, layout.is_subnormal, usual & (layout.lowest < 0)]
    finer = usual & (layout.trailing < layout.table_bits - 3)
    columns = [*kinds, finer, *(~layout.fits(find(name)) for name in NARROWER)]
    return np.stack(columns, axis=1).astype(np.int64)


def _facts(one: TensorPrecision) -> Numbers:
    numbers = (one.counts @ _questions(one.type)[one.bins]).tolist()
    return Numbers._make([*numbers[:6], tuple(numbers[6:])])


def findings_of(report: Report) -> tuple[Finding, ...]:
    """Find what is wrong with a scanned model."""
    facts = {name: _facts(one) for name, one in report.tensors.items() if one.values}
    found = [
        *header_findings(report.model),
        *_special(report, "nan", "NaN", {name: of.nan for name, of in facts.items() if of.nan}),
        *_special(report, "inf", "Inf", {name: of.inf for name, of in facts.items() if of.inf}),
        *_lost_blocks(report),
        *_swapped(report, facts),
        *_codes(report, facts),
        *_all_zero(report, facts),
        *_constant(report, facts),
        *_requantized(report),
        *_mixed_rows(report, facts),
        *_upcast(report, facts),
        *_not_read(report.coverage),
    ]
    return worst_first(found)


def is_matrix(tensor: Tensor) -> bool:
    """Tell whether a tensor has more than one dimension that counts: no bias, norm or scale."""
    return sum(size > 1 for size in tensor.shape) > 1


def _special(report: Report, kind: str, title: str, numbers: dict[str, int]) -> Iterator[Finding]:
    """NaN or Inf, how many and where."""
    told = []
    for name in list(numbers)[:MOST_NAMED]:
        one = report.tensors[name]
        place = _place(report.model, one.tensor, one.first[kind])
        told.append(f"{one.tensor.label}: {numbers[name]:,} {title}, the first at {place}")
    if numbers:
        yield Finding(kind, "error", tuple(numbers), _and_more(told, len(numbers)))


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


def _swapped(report: Report, facts: dict[str, Numbers]) -> Iterator[Finding]:
    def is_odd(one: TensorPrecision, of: Numbers) -> bool:
        return one.type != "F16" and one.values >= FEWEST and 0 < of.subnormal == one.values - of.zero

    swapped = [name for name, one in report.tensors.items() if one.is_swapped]
    if swapped:
        message = f"{_named(swapped)}: the bytes of each word are swapped, the values are no weights as they stand"
        yield Finding("swapped_bytes", "error", tuple(swapped), message)
    odd = [name for name, of in facts.items() if is_odd(report.tensors[name], of) and name not in swapped]
    if odd:
        message = f"{_named(odd)}: all values are subnormal: words of another type, or bytes swapped?"
        yield Finding("swapped_bytes", "warning", tuple(odd), message)


def _codes(report: Report, facts: dict[str, Numbers]) -> Iterator[Finding]:
    """Matrices of whole numbers of at most 8 bits."""

    def is_codes(one: TensorPrecision, of: Numbers) -> bool:
        reach = one.exponent_range if not of.fractions else None
        return reach is not None and reach[1] < 8 and one.origin.format == "integer"

    codes = _matrices(report, facts, is_codes)
    if codes:
        message = f"{_named(codes)}: all values are whole numbers below 256: codes that lack their scales, no weights"
        yield Finding("codes_as_values", "error", tuple(codes), message)


def _all_zero(report: Report, facts: dict[str, Numbers]) -> Iterator[Finding]:
    zero = _matrices(report, facts, lambda one, of: of.zero == one.values)
    zero += [name for name, one in report.blocks.items() if is_matrix(one.tensor) and one.is_zero]
    if zero:
        sampled = " looked at" if any(name in report.blocks and report.blocks[name].is_sampled for name in zero) else ""
        yield Finding("all_zero", "error", tuple(zero), f"{_named(zero)}: every value{sampled} is zero")


def _constant(report: Report, facts: dict[str, Numbers]) -> Iterator[Finding]:
    def is_constant(one: TensorPrecision, of: Numbers) -> bool:
        if one.magnitude is not None:
            return not of.zero
        is_likely = one.is_plain and one.bins.size == 1 and not (of.nan or of.inf)
        return is_likely and _has_one_magnitude(report.model, one.tensor)

    same = _matrices(report, facts, is_constant)
    if same:
        yield Finding("constant", "warning", tuple(same), f"{_named(same)}: every value has the same magnitude")


def _has_one_magnitude(model: Model, tensor: Tensor) -> bool:
    """Read a tensor until a word differs from its first in more than the sign."""
    first = None
    for batch in batches(model, [tensor]):
        words = batch.words & batch.words.dtype.type((1 << (8 * batch.words.itemsize - 1)) - 1)
        for start, stop in zip(batch.starts, batch.stops, strict=True):
            first = words[start] if first is None else first
            if (words[start:stop] != first).any():
                return False
    return True


def _matrices(
    report: Report, facts: dict[str, Numbers], wanted: Callable[[TensorPrecision, Numbers], bool]
) -> list[str]:
    """Name the matrices that are as wanted."""
    return [
        name
        for name, of in facts.items()
        if is_matrix(report.tensors[name].tensor) and wanted(report.tensors[name], of)
    ]


def _requantized(report: Report) -> Iterator[Finding]:
    verdicts = report.made_from | {name: one.made_from for name, one in report.blocks.items()}
    by_format: dict[str, list[str]] = {}
    for name, verdict in verdicts.items():
        if verdict.format not in NO_VERDICT:
            by_format.setdefault(verdict.format, []).append(name)
    for format, names in by_format.items():
        hold = "holds" if len(names) == 1 else "hold"
        of = f"{len(names):,} of {count(len(verdicts), 'tensor')} {hold} values of {format.upper()}"
        reason = f"{printable(names[0])}: {verdicts[names[0]].reason}"
        yield Finding("requantized", "warning", tuple(names), f"{of}; {reason}")


def _mixed_rows(report: Report, facts: dict[str, Numbers]) -> Iterator[Finding]:
    """Tensors with rows of several formats; where rows were not looked at, those whose counts suggest it."""
    if report.rows is not None:
        for name, of in report.rows.items():
            exact = []
            for format, number in of.counts().items():
                tokens = f" ({of.tokens[format]})" if format in of.tokens else ""
                rows = f"{number:,} of {count(of.rows, 'row')} {'is' if number == 1 else 'are'}"
                exact.append(f"{rows} exact in {title_of(format)}{tokens}")
            first = of.runs[0]
            where = f"row {first.first:,}" if first.rows == 1 else f"rows {first.first:,} to {first.last:,}"
            perhaps = "which may mean that nobody has updated them since they were stored so"
            message = f"{printable(name)}: {', '.join(exact)}, first {where}; {perhaps}"
            yield Finding("mixed_rows", "note", (name,), message)
        return
    some = [name for name, of in facts.items() if report.tensors[name].is_plain and _may_have_rows(report, name, of)]
    if some:
        message = f"{_named(some)}: more values are exact in FP16 than chance allows: --rows tells which rows"
        yield Finding("mixed_rows", "note", tuple(some), message)


def _may_have_rows(report: Report, name: str, of: Numbers) -> bool:
    """Tell whether FP16 holds a row's worth of a tensor's values, not all, and more than chance explains."""
    one = report.tensors[name]
    bf16, fp16, _ = of.misfits
    if one.type != "F32" or not is_matrix(one.tensor) or not bf16 or not fp16:
        return False
    if one.values - fp16 - of.zero < report.model.row(one.tensor):
        return False
    evidence = Evidence.of(one)
    return evidence.bits["fp16", "f32"] > 13 * max(64, evidence.telling * MUCH)


def _upcast(report: Report, facts: dict[str, Numbers]) -> Iterator[Finding]:
    """Tensors stored wider than what they came from."""
    by_type = report.by_type()
    by_formats: dict[tuple[str, str], list[TensorPrecision]] = {}
    for name, of in facts.items():
        one = report.tensors[name]
        format = _narrower(one, of) if one.is_plain else None
        if format is not None and of.nan + of.zero < one.values:
            by_formats.setdefault((one.type, format), []).append(one)
    for (type, format), members in by_formats.items():
        values, whole = (sum(one.values for one in some) for some in (members, by_type[type]))
        is_much = sum(one.values for one in members) * FLOAT_BYTES[type] > MUCH * report.model.size
        of_type = f"{len(members):,} of {count(len(by_type[type]), f'{type} tensor')}, {share(values, whole)}"
        scales = " (of a checkpoint, without its scales?)" if format.startswith("fp8") else ""
        if any(one.fits(format) < one.values for one in members):
            scales = f", times a power of two{scales}"
        message = f"{of_type}, {'holds' if len(members) == 1 else 'hold'} {title_of(format)} values only{scales}"
        yield Finding("upcast", "warning" if is_much else "note", tuple(one.tensor.name for one in members), message)


def _narrower(one: TensorPrecision, of: Numbers) -> str | None:
    """Name the narrower format that all values of a tensor have; FP8 only where it is proved."""
    if not of.finer_than_fp8 and one.magnitude is None and (format := one.origin.format).startswith("fp8"):
        return format
    bits = one.layout.word_bits
    fitting = (name for name, no in zip(NARROWER, of.misfits, strict=True) if not no and find(name).bits < bits)
    return next(fitting, None)


def _not_read(coverage: Coverage) -> Iterator[Finding]:
    if coverage.undecided:
        yield Finding("not_read", "note", (), str(coverage).removesuffix("."))


def _named(names: Sequence[str]) -> str:
    return _and_more([printable(name) for name in names[:MOST_NAMED]], len(names))


def _and_more(told: list[str], all: int) -> str:
    """Join what is told of the first of several tensors."""
    return "; ".join(told) + (f"; and {count(all - len(told), 'tensor')} more" if all > len(told) else "")
