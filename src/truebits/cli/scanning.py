"""Subcommand scan: what precision the weights truly carry, of one model or of many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from truebits.cli.options import ASKED, HTML, JSON, MODELS, PLOT, REMOTE, SELECTION, STYLE, THREADS, options
from truebits.cli.shared import echo_lines, echo_sentences, open_model, print_table, write_asked

if TYPE_CHECKING:
    from truebits.precision.report import Report

ONE_ONLY = ("low_bits_only", "bits_view", "fingerprint", "explain", "wide")
"""Options that speak of one model."""


class Wanted(NamedTuple):
    """What of a report is to be printed, and how."""

    bits: int
    by_tensor: bool
    wide: bool
    style: str
    as_json: bool


@click.command()
@options(
    MODELS,
    SELECTION,
    click.option("--by-tensor", is_flag=True, help="One row per tensor."),
    click.option("--wide", is_flag=True, help="Every figure, however wide."),
    click.option(
        "--blocks/--no-blocks",
        default=None,
        help="Read the scales of all blocks, or leave quantized tensors out. Default: look at a sample of each.",
    ),
    click.option("--rows", is_flag=True, help="Find rows that are exact in a narrower format than others."),
    click.option("--explain", is_flag=True, help="Say what the words of the table mean."),
    click.option("--bits", type=click.IntRange(1, 63), default=16, show_default=True, help="Low bits to look at."),
    click.option(
        "--low-bits-only", is_flag=True, help="Only count F32 values whose low bits are zero, at memory speed."
    ),
    click.option("--bits-view", metavar="TENSOR", help="Print sample values of one tensor bit by bit."),
    click.option("--fingerprint", is_flag=True, help="Hash the values, however stored; --json: manifest for `verify`."),
    THREADS,
    REMOTE,
    HTML,
    PLOT,
    JSON,
    STYLE,
)
def scan(
    models: tuple[Path, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    by_tensor: bool,
    wide: bool,
    blocks: bool | None,
    rows: bool,
    explain: bool,
    bits: int,
    low_bits_only: bool,
    bits_view: str | None,
    fingerprint: bool,
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Tell what precision the weights truly carry.

    Findings stand first, then what the weights were before they were stored so, then a row for each type and origin.
    Of several models (files, folders, patterns) each is a line, or with --json a document; the exit code is the worst.
    """
    from truebits.errors import UsageError
    from truebits.files.collect import collect

    if (blocks is not None or rows) and (low_bits_only or bits_view is not None):
        raise UsageError("--blocks and --rows go with the full scan, not with --low-bits-only or --bits-view")
    places = collect(models)
    chosen: dict[str, Any] = {"select": include or None, "exclude": exclude, "threads": threads}
    wanted = Wanted(bits, by_tensor, wide or style != "text", style, as_json)
    if len(places) > 1:
        context = click.get_current_context()
        alone = [f"--{name.replace('_', '-')}" for name in ONE_ONLY if context.params[name]]
        alone += [f"--{kind}" for kind in ASKED if context.meta[ASKED[kind]] is not None]
        if alone:
            raise UsageError(f"{alone[0]} is for one model, and these are {len(places)}")
        _scan_many(places, {**chosen, "blocks": blocks, "rows": rows}, as_json)
        return
    (model,) = places
    if fingerprint:
        _fingerprint(model, chosen, as_json, style)
    elif bits_view is not None:
        _bits_view(model, bits_view, wanted)
    elif low_bits_only:
        _low_bits(model, chosen, wanted)
    else:
        report = _scanned(model, {**chosen, "blocks": blocks, "rows": rows})
        write_asked(report)
        _print(report, wanted)
        if explain:
            from truebits.report.grouping import COLUMNS

            echo_sentences("", *(f"{name}: {meaning}" for name, meaning in COLUMNS.items()))


def _scanned(model: Path, chosen: dict[str, Any]) -> Report:
    opened = open_model(model)
    from truebits.precision.scan import scan
    from truebits.report.progress import progress_bar

    with progress_bar(f"scan {opened.path.name}") as progress:
        return scan(opened, progress=progress, **chosen)


def _scan_many(models: Sequence[Path], chosen: dict[str, Any], as_json: bool) -> None:
    """Print a line, or a document, for each model; a broken one is a line, and the exit code the worst."""
    from truebits.cli.shared import Ended
    from truebits.errors import TruebitsError, printable
    from truebits.files.locate import shown
    from truebits.report import json, screen

    worst = 0
    for model in models:
        try:
            report = _scanned(model, chosen)
        except (TruebitsError, OSError) as error:
            code = error.exit_code if isinstance(error, TruebitsError) else 4
            told = str(error) if isinstance(error, TruebitsError) else f"{shown(model)}: {error.strerror or error}"
            worst = max(worst, code)
            failed = {"file": os.fspath(shown(model)), "error": printable(told), "exit_code": code}
            click.echo(json.document("scan", failed) if as_json else f"{printable(told)}")
            continue
        click.echo(json.result(report) if as_json else screen.line(report))
    if worst:
        raise Ended.of(worst)


def _print(report: Report, wanted: Wanted) -> None:
    from truebits.report import listing, screen, text

    if wanted.as_json:
        from truebits.report import json

        click.echo(json.result(report))
        return
    if not wanted.wide:
        echo_lines(screen.lines(report, by_tensor=wanted.by_tensor))
        echo_lines(screen.runs(report))
        return
    from truebits.report import blocks as of_blocks

    rows = text.rows_of(report, wanted.by_tensor)
    if wanted.style == "csv":
        click.echo(text.counts(rows, wanted.bits).render("csv"))
        if report.blocks:
            click.echo(f"\n{of_blocks.counts(report, wanted.by_tensor).render('csv')}")
        return
    if wanted.style == "text" and (findings := text.findings(report)):
        click.echo(f"{findings}\n")
    print_table(listing.headline(report.model), text.precision(rows, wanted.bits), wanted.style)
    if report.tensors:
        click.echo(f"\n{text.contents(rows).render(wanted.style)}")
    if report.rows:
        click.echo(f"\n{text.row_runs(report).render(wanted.style)}")
    conclusion = text.conclusion
    if report.blocks or report.made_from:
        click.echo(f"\n{of_blocks.codes(report, wanted.by_tensor).render(wanted.style)}")
        conclusion = of_blocks.conclusion
    if wanted.style == "text":
        click.echo(f"\n{conclusion(report)}\n{report.coverage}")


def _bits_view(model: Path, name: str, wanted: Wanted) -> None:
    """Print values of one tensor bit by bit."""
    opened = open_model(model)
    from truebits.precision.samples import samples
    from truebits.report import text

    view = text.bits_view(samples(opened, name), wanted.bits)
    if wanted.as_json:
        from truebits.report import json

        click.echo(json.bits_view(opened, name, wanted.bits, view))
        return
    click.echo(view.render(wanted.style))


def _low_bits(model: Path, chosen: dict[str, Any], wanted: Wanted) -> None:
    """Print how many values have zeros in their low bits."""
    opened = open_model(model)
    from truebits.precision.counting import low_bits
    from truebits.report import listing, text
    from truebits.report.progress import progress_bar

    with progress_bar("scan") as progress:
        counts = low_bits(opened, bits=wanted.bits, progress=progress, **chosen)
    if wanted.as_json:
        from truebits.report import json

        click.echo(json.low_bits(opened, wanted.bits, counts))
        return
    table = text.low_bits(opened, wanted.bits, counts, wanted.by_tensor)
    print_table(listing.headline(opened), table, wanted.style)


def _fingerprint(model: Path, chosen: dict[str, Any], as_json: bool, style: str) -> None:
    """Print the fingerprint, or the hash of each tensor."""
    from click.core import ParameterSource

    from truebits.errors import UsageError

    context = click.get_current_context()
    for option in ("bits", "by_tensor", "wide", "low_bits_only", "bits_view", "blocks", "rows"):
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--{option.replace('_', '-')} says nothing of a fingerprint: leave it out")
    from truebits.comparing.fingerprint import fingerprint
    from truebits.report import identity, json
    from truebits.report.progress import progress_bar

    opened = open_model(model)
    with progress_bar("fingerprint") as progress:
        found = fingerprint(opened, progress=progress, **chosen)
    if as_json:
        click.echo(json.result(found))
    else:
        click.echo(identity.headline(found) if style == "text" else identity.tensors(found).render(style))
