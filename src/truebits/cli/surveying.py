"""Subcommand survey: many models, their rows in Parquet tables, and what these say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from truebits.cli.options import CACHES, HTML, JSON, SELECTION, options
from truebits.cli.shared import Ended, echo_lines, write_asked

if TYPE_CHECKING:
    from truebits.surveying.answers import Survey


class _Survey(click.Group):
    """A group whose first word may be a source: then it runs."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *context.help_option_names):
            args = ["run", *args]
        return super().parse_args(context, args)


@click.group(cls=_Survey, options_metavar="SOURCE... --out DIR | report DIR", subcommand_metavar="")
def survey() -> None:
    """Tell what precision many models truly carry: `survey SOURCE... --out DIR`, `survey report DIR`.

    SOURCE is a file, a folder, a pattern, a list (@FILE, a name a line), a URL, hf://org or hf://org/repo. DIR gets
    two Parquet tables, a row per model and a row per tensor. Interrupted, the same command goes on where it was: what
    is done is not done again. `survey run --help` has the options.
    """


@survey.command()
@options(
    click.argument("sources", metavar="SOURCE...", nargs=-1, required=True),
    SELECTION,
    click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the tables."),
    click.option("--jobs", type=click.IntRange(1), help="Processes. Default: one for each core."),
    click.option("--cluster", metavar="ADDRESS", help="Dask's: tcp://HOST:PORT, or `local` for one of --jobs workers."),
    click.option("--blocks/--no-blocks", default=None, help="As of `scan`."),
    click.option("--threads", type=click.IntRange(1), help="Of each job. Default: all cores for all jobs together."),
    click.option("--retry", is_flag=True, help="Read those again that could not be read."),
    CACHES,
    HTML,
    JSON,
)
def run(
    sources: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    out: Path,
    jobs: int | None,
    cluster: str | None,
    blocks: bool | None,
    threads: int | None,
    retry: bool,
    as_json: bool,
) -> None:
    """Scan models, keep what was found in tables, and print what all of it says.

    A model that cannot be read is a row. Where none can, the exit code is theirs: 3 or 4.
    """
    from truebits.report.progress import progress_bar
    from truebits.surveying.survey import survey as survey_models
    from truebits_native.pool import cores

    with progress_bar("survey", in_bytes=False) as progress:
        chosen: dict[str, Any] = {"cluster": cluster, "jobs": jobs or cores(), "blocks": blocks, "threads": threads}
        found = survey_models(sources, include, exclude, out=out, retry=retry, progress=progress, **chosen)
    _print(found, as_json)
    if found.failed == found.models:
        raise Ended.of(max(row["exit_code"] for row in found.problems))


@survey.command()
@options(click.argument("folder", metavar="DIR", type=click.Path(path_type=Path)), HTML, JSON)
def report(folder: Path, as_json: bool) -> None:
    """Print what the tables of a survey say."""
    from truebits.surveying.answers import read_survey

    _print(read_survey(folder), as_json)


def _print(found: Survey, as_json: bool) -> None:
    write_asked(found)
    if as_json:
        from truebits.report import json

        click.echo(json.result(found))
    else:
        from truebits.report.survey import lines

        echo_lines(lines(found))
