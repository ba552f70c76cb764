"""The tables and sentences of each command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from truebits.errors import printable
from truebits.files.model import Model
from truebits.files.tensor import group_of
from truebits.files.types import FLOAT_BYTES
from truebits.precision.bins import FLOAT_LAYOUTS
from truebits.precision.converters import is_known
from truebits.precision.counting import TensorPrecision
from truebits.precision.coverage import count as how_many
from truebits.precision.coverage import share
from truebits.precision.origin import Origin, origin_of
from truebits.precision.profile import REPORTED_FORMATS, PrecisionProfile
from truebits.precision.report import Report
from truebits.report.table import Table, nbytes, percent

if TYPE_CHECKING:
    from truebits.precision.samples import Samples
    from truebits.rewriting.operation import Rewrite


TITLES = {
    "nan": "NaN",
    "inf": "Inf",
    "swapped_bytes": "swapped bytes",
    "codes_as_values": "codes without scales",
    "missing_block": "a missing block",
    "all_zero": "all zero",
}
"""Kinds of errors, for a sentence."""

MOST_NAMED = 3
"""Of so many tensors of one verdict the names are told."""


class Row(NamedTuple):
    """What a scan's tables have one row for: tensors, their merged profile and origin, and what each would save."""

    name: str
    type: str
    tensors: int
    profile: PrecisionProfile
    origin: Origin
    bytes_saved: int

    @classmethod
    def of(cls, name: str, members: Sequence[TensorPrecision]) -> Row:
        saved = sum(one.bytes_saved for one in members if one.is_plain)
        return cls(
            printable(name), members[0].stored, len(members), PrecisionProfile.merge(members), origin_of(members), saved
        )


def rows_of(report: Report, by_tensor: bool) -> list[Row]:
    """One row for each tensor, or for each group and each storage type."""
    if by_tensor:
        return [Row.of(name, [one]) for name, one in report.tensors.items()]
    rows = [Row.of(name, members) for name, members in report.members().items()]
    if len(rows) > 1:
        rows += [Row.of(f"all {type}", members) for type, members in report.by_type().items()]
    return rows


def precision(rows: list[Row], bits: int) -> Table:
    """What precision the values really have."""
    table = Table(
        (
            "tensors",
            "type",
            "n",
            "values",
            f"low {bits} zero",
            "share",
            "non-zero",
            "mantissa 100 %",
            "99.9 %",
            "origin",
        )
    )
    for name, type, count, of, origin, _ in rows:
        zero = of.low_zero(bits) if bits < FLOAT_LAYOUTS[of.type].word_bits else None
        share = (zero, percent(zero, of.values), of.values - zero) if zero is not None else (None, None, None)
        bits_used = of.mantissa_bits(), of.mantissa_bits(0.999)
        table.rows.append((name, type, count, of.values, *share, *bits_used, str(origin)))
    return table


def counts(rows: list[Row], bits: int) -> Table:
    """The numbers of both tables as plain counts, for CSV."""
    formats = [f"exact_{name}" for name in REPORTED_FORMATS]
    table = Table(
        (
            *("tensors", "type", "n", "values", f"low_{bits}_zero", *formats, "zero", "subnormal", "inf", "nan"),
            *("least_exponent", "greatest_exponent", "exponent_entropy", "mantissa_100", "mantissa_99_9"),
            *("bytes_saved", "origin"),
        )
    )
    for name, type, count, of, origin, saved in rows:
        answers = of.answers()
        exact = [answers["fits"][format] for format in REPORTED_FORMATS]
        kinds = [answers[key] for key in ("zero", "subnormal", "inf", "nan")]
        shape = *(of.exponent_range or (None, None)), of.exponent_entropy, of.mantissa_bits(), of.mantissa_bits(0.999)
        start = name, type, count, of.values, answers["low_zero"].get(str(bits))
        table.rows.append((*start, *exact, *kinds, *shape, saved, origin.format))
    return table


def contents(rows: list[Row]) -> Table:
    """What the values are exact in, and what else they are."""
    formats = (name.removeprefix("fp8_").upper() for name in REPORTED_FORMATS)
    table = Table(("tensors", *formats, "zero", "subnormal", "Inf", "NaN", "exponents", "entropy", "saves"))
    for name, _, _, of, _, saved in rows:
        fits = (percent(of.fits(format), of.values) for format in REPORTED_FORMATS)
        reach = f"2^{of.exponent_range[0]} .. 2^{of.exponent_range[1]}" if of.exponent_range else "-"
        kinds = of.zero, of.subnormal, of.inf, of.nan, reach, of.exponent_entropy, nbytes(saved) if saved else "-"
        table.rows.append((name, *fits, *kinds))
    return table


def findings(report: Report) -> str:
    """What is wrong, worst first, a line for each; the conclusion has the notes."""
    return "\n".join(f"{one.level}: {one.message}." for one in report.findings if one.level != "note")


def row_runs(report: Report, brief: bool = False) -> Table:
    """The runs of rows that are exact in a narrower format, the odds of each, and what they stand for.

    With `brief` a name's first words are left out where the others tell, and what can be counted from the rest.
    """
    found = report.rows or {}
    names = _shortest(found) if brief else {name: name for name in found}
    runs = [(names[name], run) for name, of in found.items() for run in of.runs]
    have_tokens = any(run.tokens for _, run in runs)
    columns = ("tensor", *(() if brief else ("rows",)), "first", "last", "exact in", "by chance 1 in")
    table = Table((*columns, *(("tokens",) if have_tokens else ())))
    for name, run in runs:
        cells = printable(name), *(() if brief else (run.rows,)), run.first, run.last, run.format
        table.rows.append((*cells, f"2^{run.odds_bits:,}", *((run.tokens or "",) if have_tokens else ())))
    return table


def _shortest(names: Iterable[str]) -> dict[str, str]:
    """Return for each name as few of its last words as tell it from the others."""
    words = {name: name.removesuffix(".weight").split(".") for name in names}
    count = Counter(tuple(of[-some:]) for of in words.values() for some in range(1, len(of) + 1))
    few = {
        name: next((n for n in range(1, len(of)) if count[tuple(of[-n:])] == 1), len(of)) for name, of in words.items()
    }
    return {name: ".".join(of[-few[name] :]) for name, of in words.items()}


def conclusion(report: Report) -> str:
    """What a scan comes to, in a sentence for each storage type."""
    if not report.tensors:
        types = ", ".join(report.model.types) or "no tensor at all"
        return f"No F32, F16, BF16 or F64 tensor, only {types}: no plain words whose bits could be counted."
    by_type = report.by_type()
    lines = [line for type, of in report.totals().items() if of.values for line in _concluded(type, of, by_type[type])]
    if report.architecture is not None and not is_known(report.architecture):
        of = printable(report.architecture)
        lines.append(f"What converters do to values of {of} is not known here: they are judged as they stand.")
    lines += _exceptions(report)
    errors = [
        f"{TITLES[one.kind]} in {how_many(len(one.tensors), 'tensor')}"
        for one in report.findings
        if one.level == "error"
    ]
    if errors:
        lines.append(f"Wrong: {', '.join(errors)}; see above.")
    return "\n".join(lines)


def _exceptions(report: Report, limit: int = 5) -> list[str]:
    """Say where the values stand that keep tensors from being of a narrower format."""
    told = []
    for name, one in report.tensors.items():
        places = report.exceptions(name)
        if places:
            shown = ", ".join(f"number {at:,} ({word})" for at, word in places)
            others = f" and {one.origin.exceptions - len(places):,} more" if one.origin.exceptions > len(places) else ""
            told.append(f"{one.tensor.label} is {one.origin.holds_most} but for {shown}{others}.")
        if len(told) == limit:
            break
    return told


def _concluded(type: str, of: PrecisionProfile, members: Sequence[TensorPrecision]) -> Iterator[str]:
    """Say what the values of a storage type are: how many tensors, what share of the values, and why."""
    if members[0].is_scaled:
        read = f"{how_many(len(members), f'{type} tensor')} read as the {how_many(of.values, 'value')}"
        yield f"{read} that codes and scales stand for, in F32."
        return
    by_format: dict[str, list[TensorPrecision]] = {}
    for one in members:
        by_format.setdefault(one.origin.format, []).append(one)
    narrowest = of.narrowest if members[0].is_plain else None
    if narrowest is not None and not of.nan:
        name = narrowest.upper()
        saved = f"stored as {name} they would take {nbytes(of.bytes_saved)} less and be the same (truebits shrink)"
        yield f"All {of.values:,} {type} values are {name} values already: {saved}."
    if len(by_format) == 1:
        verdict = origin_of(members)
        whose = "Origin" if narrowest is not None else f"Origin of the {type} values:"
        yield f"{whose} {verdict.format}{':' if narrowest is not None else ';'} {verdict.reason}."
        return
    whole = f"{len(members):,} {type} tensors"
    for format, some in _joined(by_format):
        values = share(sum(one.values for one in some), of.values)
        some_of = f"{len(some):,} of {whole}, {values}: {format}"
        named = "" if len(some) > MOST_NAMED else f" ({', '.join(one.tensor.label for one in some)})"
        yield f"{some_of}{named}; {origin_of(some).reason}."


def _joined(by_format: dict[str, list[TensorPrecision]]) -> list[tuple[str, list[TensorPrecision]]]:
    """Sort verdicts by number of values; too few values to tell go to the first verdict if they agree with it."""
    rows = sorted(by_format.items(), key=lambda item: -sum(one.values for one in item[1]))
    first, some = rows[0]
    few = [one for format, others in rows[1:] if format in ("ambiguous", "constant") for one in others]
    if few and origin_of([*some, *few]).format == first:
        rest = [row for row in rows[1:] if row[0] not in ("ambiguous", "constant")]
        return [(first, [*some, *few]), *rest]
    return rows


def changes(result: Rewrite) -> Table:
    """Changed values by group of tensors."""
    sums: dict[str, list[int]] = {}
    for change in result.tensors:
        row = sums.setdefault(group_of(change.name), [0, 0, 0])
        for i, number in enumerate((1, change.values, change.changed)):
            row[i] += number
    table = Table(("tensors", "n", "values", "change", "share"))
    table.rows = [
        (printable(group), n, values, changed, percent(changed, values)) for group, (n, values, changed) in sums.items()
    ]
    return table


def low_bits(model: Model, bits: int, counts: dict[str, int], by_tensor: bool) -> Table:
    """Counts of one k by tensor or by group, with their sum."""
    sums: dict[str, list[int]] = {}
    for tensor in model.tensors:
        if tensor.name in counts:
            for name in (tensor.name if by_tensor else tensor.group, "all F32"):
                row = sums.setdefault(name, [0, 0, 0])
                for i, number in enumerate((1, tensor.values, counts[tensor.name])):
                    row[i] += number
    sums["all F32"] = sums.pop("all F32")
    table = Table(("tensors", "n", "values", f"low {bits} zero", "share", "non-zero"))
    for name, (n, values, zero) in sums.items():
        table.rows.append((printable(name), n, values, zero, percent(zero, values), values - zero))
    return table


def bits_view(of: Samples, bits: int) -> Table:
    """Values of one tensor as sign, exponent and mantissa bits, the low ones set apart."""
    item, layout = FLOAT_BYTES[of.type], FLOAT_LAYOUTS[of.type]
    apart = min(bits, layout.mantissa_bits)
    table = Table(("index", "value", "hex", "sign", "exponent", f"mantissa, low {apart} apart"))
    for index, word in of.words:
        digits = f"{word:0{layout.word_bits}b}"
        exponent, mantissa = digits[1 : 1 + layout.exponent_bits], digits[1 + layout.exponent_bits :]
        high, low = mantissa[:-apart], mantissa[-apart:]
        value = f"{_value(word, of.type):.9g}"
        table.rows.append((str(index), value, f"{word:0{2 * item}x}", digits[0], exponent, f"{high} {low}"))
    return table


def _value(word: int, type: str) -> float:
    if type == "BF16":
        word, type = word << 16, "F32"
    item = FLOAT_BYTES[type]
    return float(np.frombuffer(word.to_bytes(item, "little"), f"<f{item}")[0])


def rewritten(result: Rewrite) -> str:
    """What a rewrite did, in plain words."""
    reason = result.reason[0].upper() + result.reason[1:]
    if not result.changed:
        return f"{reason}.\nNothing was written."
    if not result.written:
        return f"{reason}.\nNothing was written: this is the plan."
    where = "in place" if result.output == result.file else f"to {printable(str(result.output))}"
    return f"{reason}.\nWritten {where}; verified; all other bytes are equal."
