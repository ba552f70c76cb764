"""The tables and sentences of each command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from truebits.errors import SelectionError, printable
from truebits.files.layout import FLOAT_BYTES, Tensor
from truebits.files.model import Model
from truebits.origin import judge
from truebits.profile import LAYOUTS, REPORTED_FORMATS, PrecisionProfile
from truebits.report.table import Table, nbytes, percent
from truebits.scan import Report

if TYPE_CHECKING:
    from truebits.truncate import Rewrite


def rows_of(report: Report, by_tensor: bool) -> list[tuple[str, int, PrecisionProfile]]:
    """What a scan's tables have one row for: name, number of tensors, profile."""
    if by_tensor:
        return [(one.tensor.label, 1, one) for one in report.tensors.values()]
    sizes: dict[str, int] = {}
    for one in report.tensors.values():
        for name in (one.tensor.group, f"{one.tensor.group} ({one.type})"):
            sizes[name] = sizes.get(name, 0) + 1
    rows = [(printable(name), sizes[name], profile) for name, profile in report.groups().items()]
    totals = report.totals()
    if len(rows) > 1:
        rows += [
            (f"all {type}", sum(one.type == type for one in report.tensors.values()), of) for type, of in totals.items()
        ]
    return rows


def precision(rows: list[tuple[str, int, PrecisionProfile]], bits: int) -> Table:
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
    for name, count, of in rows:
        zero = of.low_zero(bits) if bits < LAYOUTS[of.type].word_bits else None
        share = (zero, percent(zero, of.values), of.values - zero) if zero is not None else (None, None, None)
        bits_used = of.mantissa_bits(), of.mantissa_bits(0.999)
        table.rows.append((name, of.type, count, of.values, *share, *bits_used, judge(of).format))
    return table


def counts(rows: list[tuple[str, int, PrecisionProfile]], bits: int) -> Table:
    """The numbers of both tables as plain counts, for CSV."""
    formats = [f"exact_{name}" for name in REPORTED_FORMATS]
    table = Table(
        (
            *("tensors", "type", "n", "values", f"low_{bits}_zero", *formats, "zero", "subnormal", "inf", "nan"),
            *("least_exponent", "greatest_exponent", "exponent_entropy", "mantissa_100", "mantissa_99_9"),
            *("bytes_saved", "origin"),
        )
    )
    for name, count, of in rows:
        answers = of.answers()
        exact = [answers["fits"][format] for format in REPORTED_FORMATS]
        kinds = [answers[key] for key in ("zero", "subnormal", "inf", "nan")]
        shape = *(of.exponent_range or (None, None)), of.exponent_entropy, of.mantissa_bits(), of.mantissa_bits(0.999)
        start = name, of.type, count, of.values, answers["low_zero"].get(str(bits))
        table.rows.append((*start, *exact, *kinds, *shape, of.bytes_saved, judge(of).format))
    return table


def contents(rows: list[tuple[str, int, PrecisionProfile]]) -> Table:
    """What the values are exact in, and what else they are."""
    table = Table(
        (
            "tensors",
            "BF16",
            "FP16",
            "TF32",
            "E5M2",
            "E4M3FN",
            "zero",
            "subnormal",
            "Inf",
            "NaN",
            "exponents",
            "entropy",
            "saves",
        )
    )
    for name, _, of in rows:
        fits = (percent(of.fits(format), of.values) for format in ("bf16", "fp16", "tf32", "fp8_e5m2", "fp8_e4m3fn"))
        reach = f"2^{of.exponent_range[0]} .. 2^{of.exponent_range[1]}" if of.exponent_range else "-"
        saved = nbytes(of.bytes_saved) if of.bytes_saved else "-"
        table.rows.append((name, *fits, of.zero, of.subnormal, of.inf, of.nan, reach, of.exponent_entropy, saved))
    return table


def conclusion(report: Report) -> str:
    """What a scan comes to, in a sentence for each storage type."""
    if not report.tensors:
        return "No F32, F16, BF16 or F64 tensor: every value is in a block-quantized or integer type."
    return "\n".join(_concluded(type, of) for type, of in report.totals().items())


def _concluded(type: str, of: PrecisionProfile) -> str:
    verdict = judge(of)
    if of.narrowest is None:
        return f"Origin of the {type} values: {verdict.format}; {verdict.reason}."
    name = of.narrowest.upper()
    saved = f"stored as {name} they would take {nbytes(of.bytes_saved)} less and be the same"
    return (
        f"All {of.values:,} {type} values are {name} values already: {saved}.\n"
        f"Origin {verdict.format}: {verdict.reason}."
    )


def changes(result: Rewrite) -> Table:
    """Changed values by group of tensors."""
    sums: dict[str, list[int]] = {}
    for change in result.tensors:
        group = Tensor(change.name, "F32", (), 0, 0, 0).group
        row = sums.setdefault(group, [0, 0, 0])
        for i, number in enumerate((1, change.values, change.changed)):
            row[i] += number
    table = Table(("tensors", "n", "values", "change", "share"))
    table.rows = [
        (printable(group), n, values, changed, percent(changed, values)) for group, (n, values, changed) in sums.items()
    ]
    return table


def low_bits(model: Model, bits: int, counts: dict[str, int]) -> Table:
    """Counts of one k by tensor, with their sum."""
    table = Table(("tensor", "values", f"low {bits} zero", "share", "non-zero"))
    values = {tensor.name: tensor.values for tensor in model.tensors if tensor.name in counts}
    for name, zero in counts.items():
        table.rows.append((printable(name), values[name], zero, percent(zero, values[name]), values[name] - zero))
    total, zero = sum(values.values()), sum(counts.values())
    table.rows.append((f"all {len(counts)}", total, zero, percent(zero, total), total - zero))
    return table


def bits_view(model: Model, name: str, bits: int, count: int = 8) -> Table:
    """Values of one tensor as sign, exponent and mantissa bits, the low ones set apart.

    The values stand at equal distances, first to last.

    Raises
    ------
    SelectionError
        There is no such tensor, or it is not of a floating-point type.
    """
    tensor = next((tensor for tensor in model.tensors if tensor.name == name), None)
    if tensor is None:
        raise SelectionError(f"no tensor is called {printable(name)!r}; `truebits show` lists them")
    if tensor.type not in FLOAT_BYTES:
        raise SelectionError(f"{tensor.label} is {tensor.type}: its values have no bits of their own")
    item, layout = FLOAT_BYTES[tensor.type], LAYOUTS[tensor.type]
    apart = min(bits, layout.mantissa_bits)
    table = Table(("index", "value", "hex", "sign", "exponent", f"mantissa, low {apart} apart"))
    with model.parts[tensor.part].map() as file:
        for index in np.unique(np.linspace(0, tensor.values - 1, min(count, tensor.values)).astype(int)).tolist():
            at = tensor.offset + index * item
            word = int.from_bytes(file.data[at : at + item], "little")
            digits = f"{word:0{layout.word_bits}b}"
            exponent, mantissa = digits[1 : 1 + layout.exponent_bits], digits[1 + layout.exponent_bits :]
            high, low = mantissa[:-apart], mantissa[-apart:]
            value = _value(word, tensor.type)
            table.rows.append(
                (str(index), f"{value:.9g}", f"{word:0{2 * item}x}", digits[0], exponent, f"{high} {low}")
            )
    return table


def _value(word: int, type: str) -> float:
    if type == "BF16":
        word, type = word << 16, "F32"
    item = FLOAT_BYTES[type]
    return float(np.frombuffer(word.to_bytes(item, "little"), f"<f{item}")[0])


def rewritten(result: Rewrite, output: str | None, in_place: bool) -> str:
    """What a rewrite did, in plain words."""
    reason = result.reason[0].upper() + result.reason[1:]
    if not result.changed:
        return f"{reason}.\nNothing was written."
    if not result.written:
        return f"{reason}.\nNothing was written: this is the plan."
    where = "in place" if in_place else f"to {output}"
    return f"{reason}.\nWritten {where}; scanned again; all other bytes are equal."
