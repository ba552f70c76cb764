"""Subcommands that look at one model: show, scan, verify."""

from __future__ import annotations

from pathlib import Path

import click

from truebits.cli.options import JSON, MODEL, REMOTE, SELECTION, STYLE, THREADS, options
from truebits.cli.shared import Different, NotVerified, closed_pipe_is_no_error, open_model, print_table


@click.command()
@options(
    click.argument("model", type=click.Path(path_type=Path), required=False),
    SELECTION,
    click.option("--by-tensor", is_flag=True, help="List the tensors, as a selection does."),
    REMOTE,
    JSON,
    STYLE,
)
def show(
    model: Path | None, include: tuple[str, ...], exclude: tuple[str, ...], by_tensor: bool, as_json: bool, style: str
) -> None:
    """Tell what a model's header says: what it is, its types, its metadata; reads nothing else.

    MODEL is a file, a folder, ollama:NAME, hf://org/repo, or a URL. Without it, lists the models of Ollama, the
    Hugging Face cache, LM Studio and llama.cpp on this machine.
    """
    if model is None:
        _show_stores(as_json, style)
        return
    opened = open_model(model)
    chosen = opened.select(include, exclude)
    from truebits.report import listing
    from truebits.report.table import terminal_width

    if as_json:
        for piece in listing.document(opened, chosen):
            click.echo(piece, nl=False)
        click.echo()
        return
    width = terminal_width()
    if style == "text":
        click.echo(listing.about(opened, width))
        for finding in listing.findings(opened):
            click.echo(f"{finding.level}: {finding.message}")
        click.echo()
    if by_tensor or include or exclude:
        click.echo(listing.tensors(chosen).render(style, width))
        return
    click.echo(listing.types(opened).render(style, width))
    if opened.parts[0].header.keys:
        click.echo(f"\n{listing.metadata(opened).render(style, width)}")


def _show_stores(as_json: bool, style: str) -> None:
    """List the models that were found where people keep them."""
    from truebits.files.stores import find_all
    from truebits.report import json, listing

    found = find_all()
    if as_json:
        click.echo(json.document("stores", {"models": [one._asdict() for one in found]}))
    elif found or style != "text":
        click.echo(listing.stores(found).render(style))
    else:
        click.echo("No model of Ollama, the Hugging Face cache, LM Studio or llama.cpp on this machine: name a file.")


@click.command()
@options(
    MODEL,
    SELECTION,
    click.option("--bits", type=click.IntRange(1, 63), default=16, show_default=True, help="Low bits to look at."),
    click.option("--by-tensor", is_flag=True, help="One row per tensor, not per group."),
    click.option(
        "--low-bits-only", is_flag=True, help="Only count F32 values whose low bits are zero, at memory speed."
    ),
    click.option("--bits-view", metavar="TENSOR", help="Print sample values of one tensor bit by bit."),
    click.option("--fingerprint", is_flag=True, help="Hash the values, however stored; --json: manifest for `verify`."),
    click.option(
        "--blocks", is_flag=True, help="Read block-quantized tensors too, and find what was quantized before."
    ),
    click.option("--rows", is_flag=True, help="Find rows that are exact in a narrower format than others."),
    THREADS,
    REMOTE,
    JSON,
    STYLE,
)
def scan(
    model: Path,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    bits: int,
    by_tensor: bool,
    low_bits_only: bool,
    bits_view: str | None,
    fingerprint: bool,
    blocks: bool,
    rows: bool,
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Count what precision each tensor really has."""
    from truebits.errors import UsageError

    if fingerprint:
        _fingerprint(model, include, exclude, threads, as_json, style)
        return
    if (blocks or rows) and (low_bits_only or bits_view is not None):
        raise UsageError("--blocks and --rows go with the full scan, not with --low-bits-only or --bits-view")
    opened = open_model(model)
    from truebits.report import listing, text
    from truebits.report.progress import progress_bar

    if bits_view is not None:
        view = text.bits_view(opened, bits_view, bits)
        if as_json:
            from truebits.report import json

            click.echo(json.bits_view(opened, bits_view, bits, view))
            return
        click.echo(view.render(style))
        return
    if low_bits_only:
        from truebits.precision.counting import low_bits

        with progress_bar("scan") as progress:
            counts = low_bits(opened, include, exclude, bits=bits, threads=threads, progress=progress)
        if as_json:
            from truebits.report import json

            click.echo(json.low_bits(opened, bits, counts))
            return
        print_table(listing.headline(opened), text.low_bits(opened, bits, counts, by_tensor), style)
        return
    from truebits.precision.scan import scan as scan_model

    with progress_bar("scan") as progress:
        report = scan_model(
            opened, include or None, exclude, blocks=blocks, rows=rows, threads=threads, progress=progress
        )
    if as_json:
        from truebits.report import json

        click.echo(json.scan(report))
        return
    shown = text.rows_of(report, by_tensor)
    if style == "csv":
        click.echo(text.counts(shown, bits).render(style))
        if blocks:
            from truebits.report import blocks as block_report

            click.echo(f"\n{block_report.counts(report, by_tensor).render(style)}")
        return
    if style == "text" and (findings := text.findings(report)):
        click.echo(f"{findings}\n")
    print_table(listing.headline(opened), text.precision(shown, bits), style)
    if report.tensors:
        click.echo(f"\n{text.contents(shown).render(style)}")
    if report.rows:
        click.echo(f"\n{text.row_runs(report).render(style)}")
    conclusion = text.conclusion
    if blocks:
        from truebits.report import blocks as block_report

        click.echo(f"\n{block_report.codes(report, by_tensor).render(style)}")
        conclusion = block_report.conclusion
    if style == "text":
        click.echo(f"\n{conclusion(report)}\n{report.coverage}")


def _fingerprint(
    model: Path, include: tuple[str, ...], exclude: tuple[str, ...], threads: int | None, as_json: bool, style: str
) -> None:
    """Print the fingerprint, or the hash of each tensor."""
    from click.core import ParameterSource

    from truebits.errors import UsageError

    context = click.get_current_context()
    for option in ("bits", "by_tensor", "low_bits_only", "bits_view", "blocks", "rows"):
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--{option.replace('_', '-')} says nothing of a fingerprint: leave it out")
    from truebits.comparing.fingerprint import fingerprint
    from truebits.report import identity, json
    from truebits.report.progress import progress_bar

    opened = open_model(model)
    with progress_bar("fingerprint") as progress:
        found = fingerprint(opened, include, exclude, threads=threads, progress=progress)
    if as_json:
        click.echo(json.fingerprint(found))
    else:
        click.echo(identity.headline(found) if style == "text" else identity.tensors(found).render(style))


@click.command()
@options(
    MODEL,
    click.argument("manifest", type=click.Path(path_type=Path)),
    SELECTION,
    THREADS,
    REMOTE,
    JSON,
    STYLE,
)
def verify(
    model: Path,
    manifest: Path,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Check every tensor against MANIFEST; exit code 0 if all are the same, 1 if not, 7 if that cannot be told.

    `truebits scan MODEL --fingerprint --json > MANIFEST` makes one. Floating-point tensors may be stored in
    another type, order or number of files: what counts is their values.
    """
    from truebits.comparing.verify import verify as verify_model
    from truebits.report import identity, json
    from truebits.report.progress import progress_bar

    opened = open_model(model)
    with progress_bar("verify") as progress:
        found = verify_model(opened, manifest, include, exclude, threads=threads, progress=progress)
    text = json.verification(found, str(manifest)) if as_json else identity.verified(found, style)
    with closed_pipe_is_no_error():
        click.echo(text)
    if found.verdict == "not verified":
        raise NotVerified
    if not found.is_same:
        raise Different
