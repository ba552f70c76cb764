"""Subcommands that ask which tensors matter: sensitivity, recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from truebits.cli.options import (
    BACKEND,
    CONTEXT,
    HTML,
    JSON,
    MODEL,
    PLOT,
    REPORT,
    SELECTION,
    THREADS,
    options,
)
from truebits.cli.shared import open_model, write_asked

if TYPE_CHECKING:
    from truebits.experiments.sensitivity import Sensitivity

MEASURING = options(
    MODEL,
    click.option("--to", required=True, metavar="FORMAT,...", help="Formats, as `fakequant` has them."),
    click.option(
        "--text", type=click.Path(path_type=Path), required=True, help="File that predictions are measured on."
    ),
    CONTEXT,
    click.option("--chunks", type=int, help="Of the text; default: as many as bring the error below the effect."),
    click.option(
        "--journal", type=click.Path(path_type=Path), help="Keep results there as they come; go on from what it has."
    ),
    BACKEND,
    SELECTION,
    THREADS,
    HTML,
    JSON,
    REPORT,
)


def measured(verb: str, model: Path, to: str, include: tuple[str, ...], **options: Any) -> Sensitivity:
    """Measure what the options ask for, and show how far it is."""
    from truebits.experiments.sensitivity import sensitivity as measure
    from truebits.report.progress import progress_bar

    formats = [name.strip() for name in to.split(",")]
    with progress_bar(verb, in_bytes=False) as progress:
        return measure(open_model(model), include, to=formats, progress=progress, **options)


@click.command()
@options(
    MEASURING,
    click.option(
        "--by",
        type=click.Choice(("tensor", "layer", "group")),
        default="tensor",
        show_default=True,
        help="What is rounded together.",
    ),
    PLOT,
)
def sensitivity(as_json: bool, style: str, **options: Any) -> None:
    """Find out which tensors matter: one group at a time in a format, the rest as it is."""
    found = measured("sensitivity", **options)
    write_asked(found)
    if as_json:
        from truebits.report import json

        click.echo(json.result(found))
        return
    from truebits.report import sensitivity as told
    from truebits.report.sections import render

    click.echo(render(told.ranked(found), style))


@click.command()
@options(
    MEASURING,
    click.option("--bits", type=float, help="Budget: bits per weight of the whole model."),
    click.option("--max-kl", type=float, help="Budget: mean KL divergence, nats per token."),
    click.option("--rules", type=click.Path(path_type=Path), help="Write a file for `fakequant --rules`."),
    click.option(
        "--tensor-types", type=click.Path(path_type=Path), help="Write a file for llama-quantize --tensor-type-file."
    ),
)
def recipe(
    bits: float | None,
    max_kl: float | None,
    rules: Path | None,
    tensor_types: Path | None,
    as_json: bool,
    style: str,
    **options: Any,
) -> None:
    """Choose a format for each tensor under a budget, by divergence per bit, and measure the whole."""
    from truebits.experiments.recipe import check_budget
    from truebits.experiments.recipe import recipe as choose
    from truebits.report import sensitivity as told

    check_budget(bits, max_kl, options["to"].split(",") if tensor_types else ())
    chosen = choose(measured("recipe", held_out=True, **options), bits=bits, max_kl=max_kl)
    for path, contents in ((rules, told.rules_file), (tensor_types, told.tensor_types_file)):
        if path:
            path.write_text(contents(chosen))
    write_asked(chosen)
    if as_json:
        from truebits.report import json

        click.echo(json.result(chosen))
        return
    from truebits.report.sections import render

    click.echo(render(told.chosen(chosen), style))
