"""Subcommand check: a gate for pipelines."""

from __future__ import annotations

from pathlib import Path

import click

from truebits.cli.options import JSON, MODELS, REMOTE, SELECTION, THREADS, options
from truebits.cli.shared import Different, Ended, NotVerified


@click.command()
@options(
    MODELS,
    SELECTION,
    click.option("--fail-on", metavar="KINDS", help="Comma-separated; see below. Default: what cannot be right."),
    click.option("--require", metavar="FORMAT", help="Fail unless every value is exact in it: bf16, fp16, ..."),
    THREADS,
    REMOTE,
    JSON,
)
def check(
    models: tuple[Path, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    fail_on: str | None,
    require: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Pass or fail each model: one line, exit code 0 passed, 1 failed, 7 not verified.

    MODEL is a file, a folder of models, or a pattern; one that cannot be read is a line, and its exit code stands.

    Reads every tensor. KINDS are header, nan, inf, swapped_bytes, codes_as_values, missing_block, all_zero (these
    are the default), constant, label, requantized, mixed_rows, upcast and not_read.
    """
    from truebits.errors import ModelFileError, SelectionError, printable
    from truebits.files.collect import collect
    from truebits.files.locate import shown
    from truebits.precision.gate import DEFAULT
    from truebits.precision.gate import check as check_model
    from truebits.report import gate, json
    from truebits.report.progress import progress_bar

    kinds = DEFAULT if fail_on is None else tuple(kind.strip() for kind in fail_on.split(","))
    verdicts, worst = set(), 0
    for model in collect(models):
        try:
            with progress_bar("check") as progress:
                found = check_model(
                    model, include, exclude, fail_on=kinds, require=require, threads=threads, progress=progress
                )
        except OSError as error:
            click.echo(f"truebits: {printable(str(shown(model)))}: {error.strerror or error}", err=True)
            worst = max(worst, 4)
            continue
        except (ModelFileError, SelectionError) as error:
            click.echo(f"truebits: {printable(str(error))}", err=True)
            worst = max(worst, error.exit_code)
            continue
        click.echo(json.result(found) if as_json else gate.line(found))
        verdicts.add(found.verdict)
    if worst:
        raise Ended.of(worst)
    if "failed" in verdicts:
        raise Different
    if "not verified" in verdicts:
        raise NotVerified
