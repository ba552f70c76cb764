"""What all subcommands do: open a model, print a table, end with the exit code of their verdict."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from truebits.cli.options import ASKED
from truebits.errors import printable
from truebits.report.table import wrapped

if TYPE_CHECKING:
    from truebits.files.model import Model
    from truebits.report.table import Table
    from truebits.result import Result


class Ended(Exception):
    """The command has done its work and printed what it found; the exit code says the same."""

    exit_code: int

    @classmethod
    def of(cls, exit_code: int) -> Ended:
        """Return the ending with an exit code: the worst of several models."""
        ended = cls()
        ended.exit_code = exit_code
        return ended


class Different(Ended):
    """A difference was found, or a gate failed."""

    exit_code = 1


class NotVerified(Ended):
    """Something that decides could not be compared: neither pass nor fail."""

    exit_code = 7


def open_model(path: Path) -> Model:
    """Open a model and warn of what is odd about it."""
    from truebits.files import model as files
    from truebits.rewriting.beside import marker_path

    model = files.open_model(path)
    if model.is_remote:
        from truebits.files.remote import SETTINGS
        from truebits.report.progress import progress_bar

        SETTINGS.progress = click.get_current_context().with_resource(progress_bar("fetch"))
    for part in model.parts:
        for finding in part.findings:
            click.echo(f"warning: {printable(part.path.name)}: {finding.error.code}: {finding.message}", err=True)
        marker = marker_path(part.path)
        if marker.exists():
            click.echo(
                f"warning: a rewrite in place was left unfinished: {printable(marker.name)} tells which", err=True
            )
    return model


def write_asked(result: Result) -> None:
    """Write the page and the picture that --html and --plot asked for, if they did."""
    meta = click.get_current_context().meta
    page_path, picture_path = (meta.get(ASKED[kind]) for kind in ("html", "plot"))
    if page_path is not None:
        from truebits.report import page

        page.write(result, page_path)
    if picture_path is not None:
        from truebits.report import plot

        plot.write(result, picture_path)


@contextmanager
def closed_pipe_is_no_error() -> Iterator[None]:
    """Let whoever stops reading still get the exit code."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_table(title: str, table: Table, style: str) -> None:
    if style == "text":
        click.echo(f"{title}\n")
    click.echo(table.render(style))


COLOURS = {"error": "red", "warning": "yellow"}


def echo_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Print lines, those of a finding in its colour: on a terminal only, and not with NO_COLOR set."""
    colour = False if os.environ.get("NO_COLOR") else None
    for kind, line in lines:
        click.echo(click.style(line, fg=COLOURS[kind]) if kind in COLOURS else line, color=colour)


def echo_sentences(*sentences: str) -> None:
    """Print sentences, a line each or more: none is wider than the terminal."""
    for sentence in sentences:
        for line in sentence.split("\n"):
            click.echo("\n".join(wrapped(line, whole=True)))
