"""Subcommands that compare models: diff, trace, rank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from truebits.cli.options import A_MODEL, HTML, JSON, PLOT, REMOTE, SELECTION, STYLE, THREADS, options
from truebits.cli.shared import (
    Different,
    NotVerified,
    closed_pipe_is_no_error,
    echo_sentences,
    open_model,
    write_asked,
)
from truebits.report.table import terminal_width

if TYPE_CHECKING:
    from types import ModuleType

    from truebits.comparing.diff import Diff
    from truebits.lineage.kin import Siblings
    from truebits.lineage.ranking import Ranking
    from truebits.lineage.traces import Trace


@click.command()
@options(
    click.argument("a", type=A_MODEL),
    click.argument("b", type=A_MODEL),
    SELECTION,
    click.option(
        "--fail-over",
        "limits",
        multiple=True,
        metavar="METRIC=VALUE",
        help="Only fail if a tensor is above: changed, max_abs, max_rel, max_ulp, mse, rms; repeatable.",
    ),
    click.option("--bytes", "by_bytes", is_flag=True, help="The same values stored otherwise are not the same."),
    click.option("--by-tensor", is_flag=True, help="A row per tensor, not per group of them."),
    click.option("--wide", is_flag=True, help="Every figure, however wide."),
    THREADS,
    REMOTE,
    HTML,
    PLOT,
    JSON,
    STYLE,
)
def diff(
    a: Path,
    b: Path,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    limits: tuple[str, ...],
    by_bytes: bool,
    by_tensor: bool,
    wide: bool,
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Compare two models value by value; exit code 0 if they are the same, 1 if not.

    The same values in another type are the same, unless --bytes is given. With --fail-over it is 1 if a tensor is
    above a limit or missing. It is 7 if all that may differ is in types whose values cannot be compared.
    """
    from truebits.comparing.diff import diff as compare
    from truebits.report import figures, json
    from truebits.report.progress import progress_bar

    gates = [_gate(limit) for limit in limits]
    ours, theirs = open_model(a), open_model(b)
    with progress_bar("diff") as progress:
        found = compare(ours, theirs, include or None, exclude, threads=threads, progress=progress)
    failed = [line for metric, limit in gates for line in found.over(metric, limit)]
    write_asked(found)
    with closed_pipe_is_no_error():
        if as_json:
            click.echo(json.diff(found, failed))
        else:
            _print_diff(figures, found, failed, style, by_tensor, wide)
    is_other = found.verdict == "different" or (by_bytes and found.verdict == "same values")
    if failed or (not gates and is_other):
        raise Different
    if found.unknown:
        raise NotVerified


def _print_diff(figures: ModuleType, found: Diff, failed: list[str], style: str, by_tensor: bool, wide: bool) -> None:
    table = figures.diff(found, by_tensor or style == "csv")
    if style != "text":
        if table.rows:
            click.echo(table.render(style))
        return
    echo_sentences(figures.verdict(found), *(f"gate failed: {line}" for line in failed))
    places = figures.places(found) if wide else figures.places(found, figures.MOST_PLACES)
    for one in (table if wide else table.without(figures.NOT_BRIEF), places):
        if one.rows:
            click.echo(f"\n{one.render(width=None if wide else terminal_width())}")
    if lines := figures.differences(found):
        echo_sentences("", *lines)


@click.command()
@options(
    click.argument("models", nargs=-1, type=A_MODEL, metavar="GGUF SOURCE | A B [C]..."),
    SELECTION,
    click.option("--thorough", is_flag=True, help="Quantize all of a quantized tensor again, not only its start."),
    THREADS,
    REMOTE,
    HTML,
    PLOT,
    JSON,
    STYLE,
)
def trace(
    models: tuple[Path, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    thorough: bool,
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Compare a GGUF with the checkpoint that it was converted from, or GGUFs of one model with each other.

    SOURCE is a Hugging Face folder or a safetensors file. What the converter does (permuted heads, norms plus
    one, stacked experts) is done again, and every tensor compared bit for bit, or, if it is quantized, by
    its error. Exit code 1 if a tensor is altered, missing or extra; 7 if one could not be compared.

    Of several GGUFs each is compared with the first: which tensors differ, and what their values went
    through. Exit code 1 if rounding and quantization do not explain a difference, 7 if one could not be judged.
    """
    from truebits.errors import UsageError

    if len(models) < 2:
        raise UsageError("there is nothing to compare: give a GGUF and its checkpoint, or two GGUFs or more")
    from truebits.lineage.kin import Siblings
    from truebits.lineage.siblings import siblings
    from truebits.lineage.trace import trace as compare
    from truebits.report import json
    from truebits.report.progress import progress_bar

    if len(models) > 2 and thorough:
        raise UsageError("--thorough is for a GGUF and its checkpoint")
    first, second, *more = opened = [open_model(model) for model in models]
    found: Trace | Siblings
    with progress_bar("trace") as progress:
        if more:
            found = siblings(opened, include or None, exclude, threads=threads, progress=progress)
        else:
            found = compare(
                first, second, include or None, exclude, thorough=thorough, threads=threads, progress=progress
            )
    write_asked(found)
    with closed_pipe_is_no_error():
        if as_json:
            click.echo(json.result(found))
        elif isinstance(found, Siblings):
            _print_siblings(found, style)
        else:
            _print_trace(found, style)
    if not (found.is_explained if isinstance(found, Siblings) else found.is_faithful):
        raise Different
    if not found.is_verified:
        raise NotVerified


def _print_siblings(found: Siblings, style: str) -> None:
    """Print what several GGUFs are to the first of them."""
    from truebits.report import siblings as kin

    if style == "csv":
        click.echo(kin.tensors(found).render(style))
        return
    if style == "text":
        echo_sentences(*kin.conclusions(found), "")
    width = terminal_width()
    click.echo(f"{kin.models(found).render(style, width)}\n\n{kin.groups(found).render(style, width)}")
    if style == "text":
        echo_sentences("", *kin.remarks(found))


def _print_trace(found: Trace, style: str) -> None:
    from truebits.report import trace as traces

    if style != "text":
        click.echo((traces.tensors(found) if style == "csv" else traces.groups(found)).render(style))
        return
    places, width = traces.places(found), terminal_width()
    echo_sentences(traces.verdict(found), "")
    click.echo(traces.brief(found).folded(width))
    if places.rows:
        click.echo(f"\n{places.without(traces.NOT_BRIEF).folded(width)}")
    echo_sentences("", *traces.remarks(found))


@click.command()
@options(
    click.argument("source", type=A_MODEL),
    click.argument("models", nargs=-1, required=True, type=A_MODEL, metavar="A [B]..."),
    SELECTION,
    THREADS,
    HTML,
    PLOT,
    JSON,
    STYLE,
)
def rank(
    source: Path,
    models: tuple[Path, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Compare quantizations of one model with their source, without running them: the nearest first.

    SOURCE is a checkpoint or a GGUF, A, B, ... are GGUFs. The error is that of the weights: root of the squared
    errors over the squares of the source's values. Exit code 7 if a tensor could not be compared.
    """
    from truebits.lineage.rank import rank as compare
    from truebits.report import json
    from truebits.report import rank as ranks
    from truebits.report.progress import progress_bar

    origin, opened = open_model(source), [open_model(model) for model in models]
    with progress_bar("rank") as progress:
        found = compare(opened, origin, include or None, exclude, threads=threads, progress=progress)
    write_asked(found)
    with closed_pipe_is_no_error():
        if as_json:
            click.echo(json.result(found))
        elif style == "csv":
            click.echo(ranks.tensors(found).render(style))
        else:
            _print_rank(ranks, found, style)
    if not found.is_verified:
        raise NotVerified


def _print_rank(ranks: ModuleType, found: Ranking, style: str) -> None:
    is_text = style == "text"
    if is_text:
        echo_sentences(f"{found.conclusion}.", "")
    width = terminal_width()
    click.echo(f"{ranks.models(found).render(style, width)}\n\n{ranks.groups(found).render(style, width)}")
    if is_text:
        echo_sentences("", *ranks.remarks(found))


def _gate(text: str) -> tuple[str, float]:
    """Parse ``max_abs=1e-3``."""
    from truebits.comparing.diff import check_limit

    metric, _, number = text.partition("=")
    try:
        limit = float(number)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not METRIC=VALUE", param_hint="--fail-over") from None
    check_limit(metric.strip(), limit)
    return metric.strip(), limit
