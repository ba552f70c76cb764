"""Tensors of a scan in rows: those of one storage type and origin together, or each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from truebits.errors import printable
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_FORMATS, SMALL_FLOATS
from truebits.precision.counting import TensorPrecision
from truebits.precision.coverage import NOT_SELECTED
from truebits.precision.origin import Origin
from truebits.precision.report import UNTOLD, Report, by_format
from truebits.report.table import Amount, Cell, Table, cut, percent

AS_STORED = "codes x scales"
"""What the values of a quantized checkpoint are: they have no origin but that."""

LEAST_NAMES = 12
"""Columns that the last one of the table, which names tensors, has at least."""

COLUMNS = {
    "type": "what the tensors are stored as",
    "tensors": "how many of them",
    "weights": "values in them",
    "of file": "share of all tensor bytes",
    "came from": "the narrowest format that explains every value: what they were before they were stored so; "
    "`direct`: from no coarser quantization; `undone`: judged as it was before the converter changed it",
    "which": "the tensors by name, largest first; `12 x` where as many layers have one",
    "tensor": "name of the tensor",
    "BF16": "share of the values that are exact in BF16",
    "FP16": "share of the values that are exact in FP16",
    "mantissa": "leading mantissa bits that hold every value",
    "zero": "values that are 0",
    "NaN, Inf": "values that are no finite number; of a quantized tensor: scales",
}
"""Every word of the table in a line."""


class Group(NamedTuple):
    """Tensors of one storage type and origin."""

    type: str
    came_from: str
    tensors: list[Tensor]


def groups(report: Report, width: int = 100) -> Table:
    """Return a row for each storage type and origin, most bytes first."""
    whole = sum(tensor.nbytes for tensor in report.model.tensors)
    table = Table(("type", "tensors", "weights", "of file", "came from", "which"))
    rows: list[tuple[Group, tuple[Cell, ...]]] = []
    for group in sorted(grouped(report), key=lambda group: -sum(tensor.nbytes for tensor in group.tensors)):
        size = sum(tensor.nbytes for tensor in group.tensors)
        values = sum(tensor.values for tensor in group.tensors)
        share_of_file = percent(size, whole, 1)
        rows.append((group, (group.type, len(group.tensors), Amount(values), share_of_file, group.came_from)))
    used = max(map(len, Table(table.columns[:-1], [cells for _, cells in rows]).render().splitlines()))
    room = max(LEAST_NAMES, width - used - 2)
    table.rows = [(*cells, which(group.tensors, room)) for group, cells in rows]
    return table


def grouped(report: Report) -> list[Group]:
    """Put together the tensors of each storage type and origin, those too that were not read."""
    found: dict[tuple[str, str], list[Tensor]] = {}
    for members in report.by_type().values():
        for _, some in by_format(members):
            label = _label(report, some)
            found.setdefault((some[0].stored, label), []).extend(one.tensor for one in some)
    for one in report.blocks.values():
        found.setdefault((one.type, made_from(one.made_from)), []).append(one.tensor)
    known = report.tensors.keys() | report.blocks.keys()
    wanted = {one.type for one in report.coverage.not_read if one.why != NOT_SELECTED}
    for tensor in report.model.tensors:
        if tensor.name not in known and tensor.type in wanted:
            found.setdefault((tensor.type, "not read"), []).append(tensor)
    return [Group(type, came_from, tensors) for (type, came_from), tensors in found.items()]


def _label(report: Report, members: Sequence[TensorPrecision]) -> str:
    """Name the format that tensors came from, or the coarser one whose values they hold."""
    from truebits.precision.origin import origin_of

    coarser = {report.made_from[one.tensor.name].format for one in members if one.tensor.name in report.made_from}
    if len(coarser) == 1 and not coarser & {"direct", *UNTOLD}:
        return coarser.pop()
    if members[0].is_scaled:
        return AS_STORED
    return str(origin_of(members)) + (" (undone)" if any(one.before is not None for one in members) else "")


def made_from(verdict: Origin) -> str:
    """Say what a quantized tensor was made from, in a word or two."""
    return "cannot be told" if verdict.format == "ambiguous" else verdict.format


def tensors(report: Report) -> Table:
    """Return a row for each tensor that was looked at."""
    table = Table(("tensor", "type", "weights", "came from", "BF16", "FP16", "mantissa", "zero", "NaN, Inf"))
    for tensor in report.model.tensors:
        if tensor.name in report.tensors:
            one = report.tensors[tensor.name]
            bf16, fp16 = (percent(one.fits(format), one.values) for format in ("bf16", "fp16"))
            numbers = one.mantissa_bits(), one.zero, one.nan + one.inf
            start = tensor.label, one.stored, Amount(one.values), _label(report, [one])
            table.rows.append((*start, bf16, fp16, *numbers))
        elif tensor.name in report.blocks:
            of = report.blocks[tensor.name]
            start = tensor.label, of.type, Amount(tensor.values), made_from(of.made_from)
            table.rows.append((*start, None, None, None, of.dead, of.special))
    return table


def which(tensors: Sequence[Tensor], width: int) -> str:
    """Name tensors in so many columns, most bytes first: ``token_embd, 9 x attn_v``."""
    members: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        members.setdefault(tensor.group, []).append(tensor)
    names = [
        f"{len(some)} x {short(some[0])}" if len(some) > 1 else short(some[0])
        for some in sorted(members.values(), key=lambda some: -sum(tensor.nbytes for tensor in some))
    ]
    text = ""
    for number, name in enumerate(names):
        longer = f"{text}, {name}" if text else name
        left = len(names) - number - 1
        rest = f", {left} more" if left else ""
        if len(longer) + len(rest) > width:
            return cut(f"{text}, {left + 1} more", width) if text else cut(name, width)
        text = longer
    return text


def short(tensor: Tensor) -> str:
    """Return a tensor's name without its layer and without ``.weight``; a lone block of a layer keeps it."""
    return printable(tensor.role)


def news(report: Report) -> list[str]:
    """Name the types of tensors that came from something else than what they are stored as, and what from."""
    found = [
        f"{_some(group, report.model.types)} from {group.came_from}" for group in grouped(report) if _is_news(group)
    ]
    return sorted(found)


def _is_news(group: Group) -> bool:
    return group.came_from not in (
        "direct",
        "cannot be told",
        "not read",
        "nan",
        AS_STORED,
        *UNTOLD,
        (FLOAT_FORMATS | SMALL_FLOATS).get(group.type),
    )


def _some(group: Group, types: dict[str, int]) -> str:
    """Name a group's type, with how many of its tensors they are where these are not all."""
    some, whole = len(group.tensors), types.get(group.type, 0)
    return group.type if some == whole else f"{some:,} of {whole:,} {group.type}"
