"""The first screen of `scan`: what a model is, what is wrong with it, what its weights are, and what was read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple

from truebits.errors import printable
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_FORMATS
from truebits.precision.counting import TensorPrecision
from truebits.precision.coverage import NOT_SELECTED, SAMPLED, SCALES_READ, count, share
from truebits.precision.findings import Finding
from truebits.precision.origin import Origin
from truebits.precision.report import UNTOLD, Report, by_format
from truebits.report import listing
from truebits.report.table import Amount, Cell, Table, amount, cut, nbytes, percent, terminal_width

AS_STORED = "codes x scales"
"""What the values of a quantized checkpoint are: they have no origin but that."""

NO_FORMAT = ("made", "nan", *UNTOLD)
"""Verdicts that name none."""

LEAST_NAMES = 12
"""Columns that the last one of the table, which names tensors, has at least."""

CALM = {
    "nan": "no NaN",
    "inf": "no Inf",
    "all_zero": "no matrix of zeros",
}
"""What can be said where there is no such finding."""

MORE = "--by-tensor, --rows, --wide, --explain, --html page.html, --json"

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


MOST_RUNS = 30
"""Runs of rows that are listed."""

MOST_WRONG, LONG_TABLE = 3, 15
"""Errors that the last lines say again, after a table of so many rows."""


class Group(NamedTuple):
    """Tensors of one storage type and origin."""

    type: str
    came_from: str
    tensors: list[Tensor]


def lines(
    report: Report, width: int | None = None, by_tensor: bool = False, more: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield the screen line by line, each with its kind: ``error``, ``warning`` or nothing, none wider than `width`.

    With `more` the last line names the options that tell more.
    """
    width = width or terminal_width()
    for line in listing.about(report.model, width).splitlines():
        yield "", cut(line, width)
    yield "", ""
    told = False
    for finding in report.findings:
        if finding.level != "note":
            yield from ((finding.level, line) for line in _wrapped(f"{finding.level}: {finding.message}", width))
            told = True
    if told:
        yield "", ""
    for sentence in verdict(report):
        yield from (("", f"  {line}") for line in _wrapped(sentence, width - 2))
    yield "", ""
    table = tensors(report) if by_tensor else groups(report, width)
    yield from (("", cut(line, width)) for line in table.render("text", width).splitlines())
    yield "", ""
    wrong = [finding.message for finding in report.findings if finding.level == "error"]
    if wrong and len(table.rows) > LONG_TABLE:  # which has moved the first lines out of sight
        others = f"; {len(wrong) - MOST_WRONG} more above" if len(wrong) > MOST_WRONG else ""
        yield from (("error", line) for line in _wrapped(f"Wrong: {'; '.join(wrong[:MOST_WRONG])}{others}", width))
    yield from (("", line) for line in _wrapped(read(report), width))
    if more:
        yield from (("", line) for line in _wrapped(f"More: {MORE}", width))


def runs(report: Report, width: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield the first runs of rows that are exact in a narrower format, as `lines`; none if nobody looked for them."""
    from truebits.report.text import row_runs

    width, table = width or terminal_width(), row_runs(report, brief=True)
    if report.rows is None:
        return
    yield "", ""
    if not table.rows:
        yield from (
            ("", line)
            for line in _wrapped("No rows of a tensor are exact in a narrower format than its others.", width)
        )
        return
    shown = Table(table.columns, table.rows[:MOST_RUNS]).render("text", width)
    yield from (("", cut(line, width)) for line in shown.splitlines())
    left = len(table.rows) - MOST_RUNS
    if left > 0:
        more = f"and {count(left, 'more run')} of rows; --wide lists all"
        yield from (("", line) for line in _wrapped(more, width))


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(text, max(width, 8), subsequent_indent="  ", break_on_hyphens=False) or [""]


def verdict(report: Report) -> Iterator[str]:
    """Say in sentences what the weights are."""
    if quiet := "; ".join(filter(None, [calm(report), *_requantized(report)])):
        yield quiet
    by_type = report.by_type()
    for type, members in by_type.items():
        if any(one.values for one in members) and not members[0].is_plain:
            yield f"{count(len(members), f'{type} tensor')} read as the values that codes and scales stand for"
        elif any(one.values for one in members):
            yield from _came_from(type, members)
    yield from (finding.message for finding in report.findings if finding.level == "note" and _is_new(finding))
    yield from _mostly(report)


def _is_new(finding: Finding) -> bool:
    """Tell whether the sentences on origins, and the line on what was read, do not say it already."""
    return finding.kind not in ("not_read", "upcast")


def calm(report: Report) -> str:
    """Say what was not found, and where it was looked for."""
    kinds = {finding.kind for finding in report.findings}
    told = [title for kind, title in CALM.items() if kind not in kinds]
    where = "" if report.coverage.is_complete else " in what was read"
    return ", ".join(told) + where if told else ""


def _requantized(report: Report) -> Iterator[str]:
    """Say of quantized tensors whether they were quantized coarser before."""
    if not report.blocks or any(finding.kind == "requantized" for finding in report.findings):
        return
    unknown = {one.type for one in report.blocks.values() if one.made_from.format == "ambiguous"}
    known = {one.type for one in report.blocks.values()} - unknown
    if not known:
        yield f"whether {' and '.join(sorted(unknown))} were quantized coarser before cannot be told"
        return
    others = f" ({', '.join(sorted(unknown))}: cannot be told)" if unknown else ""
    yield f"no sign of a coarser quantization before{others}"


def _came_from(type: str, members: Sequence[TensorPrecision]) -> Iterator[str]:
    """Say what values of one storage type were; one sentence for all that agree."""
    from truebits.precision.origin import origin_of

    verdicts = by_format(members)
    whole = sum(one.values for one in members)
    for format, some in verdicts:
        origin = origin_of(some)
        who = f"all {len(some):,} {type} tensors" if len(some) > 1 else f"the {type} tensor"
        if len(verdicts) > 1:
            values = share(sum(one.values for one in some), whole)
            who = (
                f"{len(some):,} of {count(len(members), f'{type} tensor')} ({which([one.tensor for one in some], 40)})"
            )
            who += f", {values}"
        yield f"{who}: {format.upper() if format not in NO_FORMAT else format}; {origin.reason}"


def _mostly(report: Report) -> Iterator[str]:
    """Say what most of the bytes are, where there are several types."""
    sizes: dict[str, list[Tensor]] = {}
    for tensor in report.model.tensors:
        sizes.setdefault(tensor.type, []).append(tensor)
    if len(sizes) < 2:
        return
    whole = sum(tensor.nbytes for tensor in report.model.tensors)
    told: list[str] = []
    for type, tensors in sorted(sizes.items(), key=lambda row: -sum(tensor.nbytes for tensor in row[1]))[:2]:
        size, largest = sum(tensor.nbytes for tensor in tensors), max(tensors, key=lambda tensor: tensor.nbytes)
        mostly = f", mostly {short(largest)}" if len(tensors) > 1 and 2 * largest.nbytes > size else ""
        if 100 * size >= whole:
            told.append(f"{percent(size, whole, 0)} {'' if told else 'of the bytes '}are {type}{mostly}")
    if len(told) > 1:
        yield ", ".join(told)


def groups(report: Report, width: int = 100) -> Table:
    """Return a row for each storage type and origin, most bytes first."""
    whole = sum(tensor.nbytes for tensor in report.model.tensors)
    table = Table(("type", "tensors", "weights", "of file", "came from", "which"))
    rows: list[tuple[Group, tuple[Cell, ...]]] = []
    for group in sorted(_groups(report), key=lambda group: -sum(tensor.nbytes for tensor in group.tensors)):
        size = sum(tensor.nbytes for tensor in group.tensors)
        values = sum(tensor.values for tensor in group.tensors)
        share_of_file = percent(size, whole, 1)
        rows.append((group, (group.type, len(group.tensors), Amount(values), share_of_file, group.came_from)))
    used = max(map(len, Table(table.columns[:-1], [cells for _, cells in rows]).render().splitlines()))
    room = max(LEAST_NAMES, width - used - 2)
    table.rows = [(*cells, which(group.tensors, room)) for group, cells in rows]
    return table


def _groups(report: Report) -> list[Group]:
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
    if not members[0].is_plain:
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


def read(report: Report) -> str:
    """Say what was read, what by sample, what not, and how to get more."""
    coverage = report.coverage
    if coverage.is_complete and not coverage.not_read:
        return str(coverage)
    plain = count(len(report.tensors), "unquantized tensor")
    told = [f"all of {plain}"] if report.tensors else []
    for why, what in ((SAMPLED, "by sample"), (SCALES_READ, "all scales of")):
        some = [one for one in coverage.not_read if one.why == why]
        if some:
            tensors, values = sum(one.tensors for one in some), sum(one.values for one in some)
            whole = sum(of.tensor.values for of in report.blocks.values())
            quantized = count(tensors, "quantized tensor")
            part = share(whole - values, whole)
            told.append(
                f"{quantized} by sample, {part} (--blocks: all scales)"
                if why == SAMPLED
                else f"{what} {quantized}, the codes of {part}"
            )
    for one in coverage.not_read:
        if one.why not in (SAMPLED, SCALES_READ):
            reason = "not selected" if one.why == NOT_SELECTED else f"not read: {one.why}"
            told.append(f"{count(one.tensors, f'{one.type} tensor')} {reason}")
    return f"Read: {'; '.join(told)}."


def _is_news(group: Group) -> bool:
    """Tell whether tensors came from something else than what they are stored as, and what."""
    return group.came_from not in (
        "direct",
        "cannot be told",
        "not read",
        AS_STORED,
        *UNTOLD,
        FLOAT_FORMATS.get(group.type),
    )


def line(report: Report) -> str:
    """Say in one line what a model is and what was found; of many models each has one."""
    model = report.model
    types = ", ".join(f"{number} {type}" for type, number in model.types.items())
    told_of = {f"{group.type} from {group.came_from}" for group in _groups(report) if _is_news(group)}
    origins = ", ".join(sorted(told_of))
    worst = [f"{one.level}: {one.kind}" for one in report.findings if one.level != "note"]
    told = [f"{amount(model.values)} weights", types, origins, ", ".join(worst) or calm(report)]
    return " · ".join([printable(str(model.path)), nbytes(model.size), *filter(None, told)])
