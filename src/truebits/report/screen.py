"""The first screen of `scan`: what a model is, what is wrong with it, what its weights are, and what was read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from truebits.errors import printable
from truebits.files.tensor import Tensor
from truebits.precision.counting import TensorPrecision
from truebits.precision.coverage import NOT_SELECTED, SAMPLED, SCALES_READ, Coverage, NotRead, count, share
from truebits.precision.findings import Finding
from truebits.precision.report import UNTOLD, Report, by_format
from truebits.report import grouping, listing
from truebits.report.grouping import short, which
from truebits.report.table import Table, amount, cut, nbytes, percent, terminal_width, wrapped

NO_FORMAT = ("made", "nan", *UNTOLD)
"""Verdicts that name none."""

CALM = {
    "nan": "no NaN",
    "inf": "no Inf",
    "all_zero": "no matrix of zeros",
}
"""What can be said where there is no such finding."""

MORE = "--by-tensor, --rows, --wide, --explain, --html FILE, --json"


MOST_RUNS = 30
"""Runs of rows that are listed."""

MOST_WRONG = 3
"""Errors that the last lines say again: a terminal shows the end."""


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
            yield from ((finding.level, line) for line in wrapped(f"{finding.level}: {finding.message}", width))
            told = True
    if told:
        yield "", ""
    for sentence in verdict(report):
        yield from (("", f"  {line}") for line in wrapped(sentence, width - 2))
    yield "", ""
    table = grouping.tensors(report) if by_tensor else grouping.groups(report, width)
    yield from (("", cut(line, width)) for line in table.render("text", width).splitlines())
    yield "", ""
    wrong = [finding.message for finding in report.findings if finding.level == "error"]
    if wrong:
        others = f"; {len(wrong) - MOST_WRONG} more above" if len(wrong) > MOST_WRONG else ""
        yield from (("error", line) for line in wrapped(f"Wrong: {'; '.join(wrong[:MOST_WRONG])}{others}", width))
    yield from (("", line) for line in wrapped(read(report), width))
    if more:
        untried = not report.made_from and any(len(one.tensor.shape) > 1 for one in report.values())
        yield from (("", line) for line in wrapped(f"More: {'--blocks, ' * untried}{MORE}", width))


def runs(report: Report, width: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield the first runs of rows that are exact in a narrower format, as `lines`; none if nobody looked for them."""
    from truebits.report.text import row_runs

    width, table = width or terminal_width(), row_runs(report, brief=True)
    if report.rows is None:
        return
    yield "", ""
    if not table.rows:
        yield from (
            ("", line) for line in wrapped("No rows of a tensor are exact in a narrower format than its others.", width)
        )
        return
    shown = Table(table.columns, table.rows[:MOST_RUNS]).render("text", width)
    yield from (("", cut(line, width)) for line in shown.splitlines())
    left = len(table.rows) - MOST_RUNS
    if left > 0:
        more = f"and {count(left, 'more run')} of rows; --wide lists all"
        yield from (("", line) for line in wrapped(more, width))


def verdict(report: Report) -> Iterator[str]:
    """Say in sentences what the weights are."""
    if quiet := "; ".join(filter(None, [calm(report), *_requantized(report)])):
        yield quiet
    by_type = report.by_type()
    for type, members in by_type.items():
        if any(one.values for one in members) and members[0].is_scaled:
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
    if report.coverage.is_blind:
        return "nothing of it was read: nothing can be said of its weights" if report.model.tensors else ""
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
        were = "was" if len(unknown) == 1 else "were"
        yield f"whether {' and '.join(sorted(unknown))} {were} quantized coarser before cannot be told"
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
    for why, some in _by_reason(coverage).items():
        reason = "not selected" if why == NOT_SELECTED else f"not read: {why}"
        several = "s" if sum(one.tensors for one in some) > 1 else ""
        told.append(f"{', '.join(f'{one.tensors:,} {one.type}' for one in some)} tensor{several} {reason}")
    return f"Read: {'; '.join(told)}."


def _by_reason(coverage: Coverage) -> dict[str, list[NotRead]]:
    """Put together what was not looked at for the same reason."""
    reasons: dict[str, list[NotRead]] = {}
    for one in coverage.not_read:
        if one.why not in (SAMPLED, SCALES_READ):
            reasons.setdefault(one.why, []).append(one)
    return reasons


def line(report: Report) -> str:
    """Say in one line what a model is and what was found; of many models each has one."""
    model = report.model
    types = ", ".join(f"{number} {type}" for type, number in model.types.items())
    origins = ", ".join(grouping.news(report))
    worst = [f"{one.level}: {one.kind}" for one in report.findings if one.level != "note"]
    told = [f"{amount(model.values)} weights", types, origins, ", ".join(worst) or calm(report)]
    return " · ".join([printable(str(model.path)), nbytes(model.size), *filter(None, told)])
