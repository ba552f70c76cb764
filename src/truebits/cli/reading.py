"""Subcommands that look at one model and not at its precision: show, verify."""

from __future__ import annotations

from pathlib import Path

import click

from truebits.cli.options import A_MODEL, JSON, MODEL, REMOTE, SELECTION, STYLE, THREADS, options
from truebits.cli.shared import Different, NotVerified, closed_pipe_is_no_error, open_model


@click.command()
@options(
    click.argument("model", type=A_MODEL, required=False),
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
    from truebits.precision.findings import header_findings
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
        for finding in header_findings(opened):
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
