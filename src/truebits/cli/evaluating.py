"""Subcommands that run models in llama.cpp: eval, experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from truebits.cli.options import (
    A_MODEL,
    DEQUANTIZE,
    EVALUATION,
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


@click.command("eval")
@options(
    click.argument("base", type=A_MODEL),
    click.argument("candidate", type=A_MODEL),
    click.option(
        "--text", type=click.Path(path_type=Path), required=True, help="File that predictions are measured on."
    ),
    EVALUATION,
    THREADS,
    HTML,
    JSON,
    REPORT,
)
def evaluate(
    base: Path,
    candidate: Path,
    text: Path,
    prompts: Path | None,
    threads: int | None,
    as_json: bool,
    style: str,
    **settings: Any,
) -> None:
    """Compare what two models predict, answer, and how fast they are, in llama.cpp."""
    from truebits.evaluation.dialogue import read_prompts
    from truebits.evaluation.evaluate import evaluate as compare
    from truebits.report.progress import progress_bar

    asked = read_prompts(prompts) if prompts else None
    models = open_model(base), open_model(candidate)
    with progress_bar("eval", in_bytes=False) as progress:
        found = compare(*models, text=text, prompts=asked, threads=threads, progress=progress, **settings)
    write_asked(found)
    if as_json:
        from truebits.report import json

        click.echo(json.result(found))
        return
    from truebits.report.experiment import evaluated
    from truebits.report.sections import render

    click.echo(render(evaluated(found), style))


@click.command()
@options(
    MODEL,
    click.option("--bits", type=int, help="Cut so many low bits of F32 values."),
    click.option("--to", metavar="FORMAT", help="Round to a format, as `fakequant` does."),
    click.option("--rule", "rules", multiple=True, metavar="REGEX=FORMAT", help="As for `fakequant`."),
    click.option("--sweep", metavar="FORMAT,...", help="Several formats, against one loaded base."),
    DEQUANTIZE,
    SELECTION,
    click.option("--text", type=click.Path(path_type=Path), help="File that predictions are measured on."),
    click.option("--out", type=click.Path(path_type=Path), help="Keep the rewritten model there."),
    click.option("--anyway", is_flag=True, help="Measure even where nothing can change."),
    EVALUATION,
    THREADS,
    HTML,
    PLOT,
    JSON,
    REPORT,
)
def experiment(
    model: Path,
    bits: int | None,
    to: str | None,
    rules: tuple[str, ...],
    sweep: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    text: Path | None,
    out: Path | None,
    anyway: bool,
    prompts: Path | None,
    threads: int | None,
    as_json: bool,
    style: str,
    **settings: Any,
) -> None:
    """Lower the precision, and find out what that does and why.

    Scan, plan, rewrite, diff, evaluate: one report. Where nothing can change it says so at once.
    """
    from truebits.errors import UsageError
    from truebits.evaluation.dialogue import read_prompts
    from truebits.report import experiment as story
    from truebits.report import json
    from truebits.report.progress import progress_bar
    from truebits.report.sections import render

    settings |= {"prompts": read_prompts(prompts) if prompts else None, "threads": threads}
    chosen: dict[str, Any] = {"select": include, "exclude": exclude}
    opened = open_model(model)
    if sweep is None:
        from truebits.experiments.experiment import experiment as run

        with progress_bar("experiment", in_bytes=False) as progress:
            done = run(
                opened,
                bits=bits,
                to=to,
                rules=rules,
                text=text,
                out=out,
                anyway=anyway,
                progress=progress,
                **chosen,
                **settings,
            )
        write_asked(done)
        click.echo(json.experiment(done) if as_json else render(story.story(done), style))
        return
    if text is None or out or anyway or bits or to or rules:
        raise UsageError("--sweep takes formats and --text, and keeps no model")
    from truebits.experiments.experiment import sweep_experiment

    with progress_bar("experiment", in_bytes=False) as progress:
        names = [name.strip() for name in sweep.split(",")]
        found = sweep_experiment(opened, names, text=text, progress=progress, **chosen, **settings)
    write_asked(found)
    click.echo(json.result(found) if as_json else render(story.swept(found), style))
