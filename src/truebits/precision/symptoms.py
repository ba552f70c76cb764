"""Report -> findings: what speaks against a model's weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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
from truebits.precision.profile import Questions
from truebits.precision.swapped import FEWEST

if TYPE_CHECKING:
    from truebits.precision.blocks import BlockPrecision
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
    """Of each tensor the numbers of its values: all, those that are something, and those that a format does not hold.

    All but the first are arrays of shape (tensors,).
    """

    tensors: list[TensorPrecision]
    types: np.ndarray
    is_plain: np.ndarray
    is_matrix: np.ndarray
    values: np.ndarray
    nan: np.ndarray
    inf: np.ndarray
    zero: np.ndarray
    subnormal: np.ndarray
    fractions: np.ndarray
    finer_than_fp8: np.ndarray
    not_bf16: np.ndarray
    not_fp16: np.ndarray
    not_f32: np.ndarray

    def where(self, mask: np.ndarray) -> list[TensorPrecision]:
        """Return the tensors for which `mask` is True."""
        return [self.tensors[i] for i in np.flatnonzero(mask).tolist()]

    @classmethod
    def of(cls, tensors: list[TensorPrecision]) -> Numbers:
        """Count the values of tensors, which have some."""
        types = np.array([one.type for one in tensors], object)
        are_plain = np.array([one.is_plain for one in tensors], bool)
        are_matrices = np.array([is_matrix(one.tensor) for one in tensors], bool)
        numbers = np.zeros((len(cls._fields[4:]), len(tensors)), np.int64)
        for type in {*types}:
            numbers[:, types == type] = _questions(type).of([one for one in tensors if one.type == type])
        return cls(tensors, types, are_plain, are_matrices, *numbers)


@cache
def _questions(type: str) -> Questions:
    """What each bin adds to `Numbers`."""
    layout = FLOAT_LAYOUTS[type]
    usual = ~(layout.is_special | layout.is_zero)
    kinds = [layout.is_nan, layout.is_inf, layout.is_zero, layout.is_subnormal, usual & (layout.lowest < 0)]
    finer = usual & (layout.trailing < layout.table_bits - 3)
    return Questions([np.ones_like(usual), *kinds, finer, *(~layout.fits(find(name)) for name in NARROWER)])


def findings_of(report: Report) -> tuple[Finding, ...]:
    """Find what is wrong with a scanned model."""
    facts = Numbers.of([one for one in report.tensors.values() if one.counts.size])
    found = [
        *header_findings(report.model),
        *_special(report, "nan", "NaN", facts, facts.nan),
        *_special(report, "inf", "Inf", facts, facts.inf),
        *_lost_blocks(report),
        *_swapped(facts),
        *_codes(facts),
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
    return len([size for size in tensor.shape if size > 1]) > 1


def _special(report: Report, kind: str, title: str, facts: Numbers, numbers: np.ndarray) -> Iterator[Finding]:
    """NaN or Inf, how many and where."""
    hit = facts.where(numbers > 0)
    told = []
    for one, number in zip(hit[:MOST_NAMED], numbers[numbers > 0].tolist(), strict=False):
        place = _place(report.model, one.tensor, one.first[kind])
        told.append(f"{one.tensor.label}: {number:,} {title}, the first at {place}")
    if hit:
        yield Finding(kind, "error", _names(hit), _and_more(told, len(hit)))


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


def _swapped(facts: Numbers) -> Iterator[Finding]:
    swapped = [one for one in facts.tensors if one.is_swapped]
    if swapped:
        message = f"{_named(swapped)}: the bytes of each word are swapped, the values are no weights as they stand"
        yield Finding("swapped_bytes", "error", _names(swapped), message)
    are_subnormal = (facts.subnormal > 0) & (facts.subnormal == facts.values - facts.zero) & (facts.values >= FEWEST)
    odd = [one for one in facts.where(are_subnormal) if one.type != "F16" and not one.is_swapped]
    if odd:
        message = f"{_named(odd)}: all values are subnormal: words of another type, or bytes swapped?"
        yield Finding("swapped_bytes", "warning", _names(odd), message)


def _codes(facts: Numbers) -> Iterator[Finding]:
    """Matrices of whole numbers of at most 8 bits."""

    def are_codes(one: TensorPrecision) -> bool:
        reach = one.exponent_range
        return reach is not None and reach[1] < 8 and one.origin.format == "integer"

    codes = [one for one in facts.where(facts.is_matrix & (facts.fractions == 0)) if are_codes(one)]
    if codes:
        message = f"{_named(codes)}: all values are whole numbers below 256: codes that lack their scales, no weights"
        yield Finding("codes_as_values", "error", _names(codes), message)


def _all_zero(report: Report, facts: Numbers) -> Iterator[Finding]:
    packed = [one for one in report.blocks.values() if is_matrix(one.tensor) and one.is_zero]
    plain = facts.where(facts.is_matrix & (facts.zero == facts.values))
    zero: list[TensorPrecision | BlockPrecision] = [*plain, *packed]
    if zero:
        sampled = " looked at" if any(one.is_sampled for one in packed) else ""
        yield Finding("all_zero", "error", _names(zero), f"{_named(zero)}: every value{sampled} is zero")


def _constant(report: Report, facts: Numbers) -> Iterator[Finding]:
    def is_constant(one: TensorPrecision) -> bool:
        return one.magnitude is not None or (one.is_plain and _has_one_magnitude(report.model, one.tensor))

    usual = facts.where(facts.is_matrix & (facts.zero + facts.nan + facts.inf == 0))
    same = [one for one in usual if one.bins.size == 1 and is_constant(one)]
    if same:
        yield Finding("constant", "warning", _names(same), f"{_named(same)}: every value has the same magnitude")


def _has_one_magnitude(model: Model, tensor: Tensor) -> bool:
    """Read a tensor until a word differs from its first in more than the sign."""
    first = None
    for batch in batches(model, [tensor]):
        without_sign = batch.words.dtype.type((1 << (8 * batch.words.itemsize - 1)) - 1)
        for start, stop in zip(batch.starts, batch.stops, strict=True):
            words = batch.words[start:stop] & without_sign
            first = words[0] if first is None else first
            if (words != first).any():
                return False
    return True


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


def _mixed_rows(report: Report, facts: Numbers) -> Iterator[Finding]:
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
    in_fp16 = facts.values - facts.not_fp16 - facts.zero
    perhaps_some = facts.is_matrix & (facts.not_bf16 > 0) & (facts.not_fp16 > 0) & (in_fp16 > 0)
    perhaps_these = zip(facts.where(perhaps_some), in_fp16[perhaps_some].tolist(), strict=True)
    some = [one for one, held in perhaps_these if held >= report.model.row(one.tensor) and _may_have_rows(one)]
    if some:
        message = f"{_named(some)}: more values are exact in FP16 than chance allows: --rows tells which rows"
        yield Finding("mixed_rows", "note", _names(some), message)


def _may_have_rows(one: TensorPrecision) -> bool:
    """Tell whether FP16 holds more of a tensor's values than chance explains."""
    if one.type != "F32" or not one.is_plain:
        return False
    evidence = Evidence.of(one)
    return evidence.bits["fp16", "f32"] > 13 * max(64, evidence.telling * MUCH)


def _upcast(report: Report, facts: Numbers) -> Iterator[Finding]:
    """Tensors stored wider than what they came from."""
    formats = _narrower(facts)
    of_types = Counter(one.stored for one in report.tensors.values())
    for type, format in dict.fromkeys((facts.tensors[i].type, formats[i]) for i in np.flatnonzero(formats).tolist()):
        stored = facts.is_plain & (facts.types == type)
        members = stored & (formats == format)
        values, whole = (int(facts.values[some].sum()) for some in (members, stored))
        is_much = values * FLOAT_BYTES[type] > MUCH * report.model.size
        one, *more = facts.where(members)
        of_type = f"{1 + len(more):,} of {count(of_types[type], f'{type} tensor')}, {share(values, whole)}"
        scales = " (of a checkpoint, without its scales?)" if format.startswith("fp8") else ""
        if scales and any(one.fits(format) < one.values for one in [one, *more]):
            scales = f", times a power of two{scales}"
        message = f"{of_type}, {'hold' if more else 'holds'} {title_of(format)} values only{scales}"
        yield Finding("upcast", "warning" if is_much else "note", _names([one, *more]), message)


def _narrower(facts: Numbers) -> np.ndarray:
    """Name the narrower format that all values of each tensor have, or None; FP8 only where it is proved."""
    formats = np.full(len(facts.tensors), None)
    tell = facts.is_plain & (facts.nan + facts.zero < facts.values)
    for name, misfits in zip(reversed(NARROWER), (facts.not_f32, facts.not_fp16, facts.not_bf16), strict=True):
        wider = [type for type, size in FLOAT_BYTES.items() if 8 * size > find(name).bits]
        formats[tell & (misfits == 0) & np.isin(facts.types, wider)] = name
    for i in np.flatnonzero(tell & (facts.finer_than_fp8 == 0)).tolist():
        one = facts.tensors[i]
        if one.magnitude is None and one.origin.format.startswith("fp8"):
            formats[i] = one.origin.format
    return formats


def _not_read(coverage: Coverage) -> Iterator[Finding]:
    if coverage.undecided:
        yield Finding("not_read", "note", (), str(coverage).removesuffix("."))


def _names(some: Iterable[TensorPrecision | BlockPrecision]) -> tuple[str, ...]:
    return tuple(one.tensor.name for one in some)


def _named(some: Sequence[TensorPrecision | BlockPrecision]) -> str:
    return _and_more([one.tensor.label for one in some[:MOST_NAMED]], len(some))


def _and_more(told: list[str], all: int) -> str:
    """Join what is told of the first of several tensors."""
    return "; ".join(told) + (f"; and {count(all - len(told), 'tensor')} more" if all > len(told) else "")
