"""The command line: one function per subcommand."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from truebits import __version__
from truebits.errors import TruebitsError, printable
from truebits.report.table import STYLES

if TYPE_CHECKING:
    from truebits.files.model import Model
    from truebits.report.table import Table

EXIT_CODES = """\b
Exit codes: 0 done, 1 difference found or gate failed, 2 wrong usage, 3 not a valid model file,
4 I/O error, 5 refused or busy, 6 an in-place rewrite was left unfinished (run again, or undo), 130 interrupted."""

STORAGE = click.Choice(("F32", "F16", "BF16", "F64"), case_sensitive=False)

SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="truebits")
def app() -> None:
    """What precision do a model file's weights truly carry, and what happens if they carry less?"""


def options(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    """Put several click options on a command, in the order given."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


MODEL = click.argument("model", type=click.Path(path_type=Path))
SELECTION = options(
    click.option(
        "-l", "--include", multiple=True, metavar="REGEX", help="Only tensors whose name it is found in; repeatable."
    ),
    click.option(
        "-L", "--exclude", multiple=True, metavar="REGEX", help="Not tensors whose name it is found in; repeatable."
    ),
)
THREADS = click.option("--threads", type=click.IntRange(1), help="Default: all cores. Results do not depend on it.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
STYLE = click.option("-o", "--output", "style", type=click.Choice(STYLES), default="text", show_default=True)
ALLOW = click.option(
    "--allow",
    multiple=True,
    type=click.Choice(("symlink", "hardlink", "cache", "open", "layout")),
    help="Change in place what is refused otherwise; repeatable.",
)


@app.command()
@options(MODEL, SELECTION, JSON, STYLE)
def show(model: Path, include: tuple[str, ...], exclude: tuple[str, ...], as_json: bool, style: str) -> None:
    """List tensors and types; reads the header only."""
    opened = _open(model)
    chosen = opened.select(include, exclude)
    if as_json:
        from truebits.report import json

        click.echo(json.show(opened, chosen))
        return
    from truebits.report import listing

    _print(listing.headline(opened), listing.tensors(opened, chosen), style)


@app.command()
@options(
    MODEL,
    SELECTION,
    click.option("--bits", type=click.IntRange(1, 63), default=16, show_default=True, help="Low bits to look at."),
    click.option("--by-tensor", is_flag=True, help="One row per tensor, not per group."),
    click.option(
        "--low-bits-only", is_flag=True, help="Only count F32 values whose low bits are zero, at memory speed."
    ),
    click.option("--bits-view", metavar="TENSOR", help="Print sample values of one tensor bit by bit."),
    THREADS,
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
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Count what precision each tensor really has."""
    opened = _open(model)
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
        from truebits.scan import low_bits

        with progress_bar("scan") as progress:
            counts = low_bits(opened, bits, include, exclude, threads=threads, progress=progress)
        if as_json:
            from truebits.report import json

            click.echo(json.low_bits(opened, bits, counts))
            return
        _print(listing.headline(opened), text.low_bits(opened, bits, counts, by_tensor), style)
        return
    from truebits.scan import scan as scan_model

    with progress_bar("scan") as progress:
        report = scan_model(opened, include or None, exclude, threads=threads, progress=progress)
    if as_json:
        from truebits.report import json

        click.echo(json.scan(report))
        return
    rows = text.rows_of(report, by_tensor)
    if style == "csv":
        click.echo(text.counts(rows, bits).render(style))
        return
    _print(listing.headline(opened), text.precision(rows, bits), style)
    if report.tensors:
        click.echo(f"\n{text.contents(rows).render(style)}")
    if style == "text":
        click.echo(f"\n{text.conclusion(report)}")


@app.command()
@options(
    MODEL,
    click.argument("out", type=click.Path(path_type=Path), required=False),
    click.option("--bits", type=int, required=True, help="Low bits to set to zero, 1 to 31; 16 leaves BF16."),
    SELECTION,
    click.option("--in-place", is_flag=True, help="Change MODEL itself."),
    click.option(
        "--undo-file", type=click.Path(path_type=Path), help="In place: keep the old bytes there, for `undo`."
    ),
    click.option("--dry-run", is_flag=True, help="Say what would change, from counts alone; write nothing."),
    click.option("--force", is_flag=True, help="Replace OUT if it exists."),
    ALLOW,
    THREADS,
    JSON,
    STYLE,
)
def truncate(
    model: Path,
    out: Path | None,
    bits: int,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    in_place: bool,
    undo_file: Path | None,
    dry_run: bool,
    force: bool,
    allow: tuple[str, ...],
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Cut low bits of F32 values.

    The result is the new file OUT, or MODEL itself with --in-place.

    Writes nothing where nothing would change; --dry-run says beforehand what will.
    """
    from truebits.report import json, text
    from truebits.report.progress import progress_bar
    from truebits.truncate import truncate as truncate_model

    opened = _open(model)
    with progress_bar("truncate") as progress:
        result = truncate_model(
            opened,
            out,
            bits=bits,
            select=include,
            exclude=exclude,
            in_place=in_place,
            undo_file=undo_file,
            force=force,
            allow=allow,
            dry_run=dry_run,
            threads=threads,
            progress=progress,
        )
    output = str(model if in_place else out) if result.written else None
    if as_json:
        click.echo(json.rewrite("truncate", str(model), output, result))
        return
    click.echo(text.changes(result).render(style))
    if style == "text":
        click.echo(f"\n{text.rewritten(result, output, in_place)}")


@app.command()
@options(
    MODEL,
    click.option("--undo-file", type=click.Path(path_type=Path), required=True, help="What the rewrite recorded."),
    click.option("--force", is_flag=True, help="Restore even if MODEL was changed since."),
    ALLOW,
    JSON,
)
def undo(model: Path, undo_file: Path, force: bool, allow: tuple[str, ...], as_json: bool) -> None:
    """Take an in-place rewrite back, finished or not."""
    from truebits.undo import undo as undo_rewrite

    undone = undo_rewrite(model, undo_file, force=force, allow=allow)
    if as_json:
        from truebits.report.json import document

        content = {"file": str(model), "chunks": undone.chunks, "nbytes": undone.nbytes, "operation": undone.operation}
        click.echo(document("undo", content))
        return
    click.echo(f"{printable(str(model))} is as it was: {undone.nbytes:,} bytes restored. The undo file is kept.")


@app.command()
@options(
    click.argument("out", type=click.Path(path_type=Path)),
    click.option(
        "--like", type=click.Choice(("tinyllama",)), help="A real model's tensors, shapes, types and vocabulary size."
    ),
    click.option("--precision", default="f32", show_default=True, help="Format that every value is exact in."),
    click.option("--type", "type_", type=STORAGE, default="F32", show_default=True, help="Storage type."),
    click.option("--size", default="64MiB", show_default=True, help="Of the tensors together, as 64MiB or 2GB."),
    click.option("--tensors", type=int, help="How many; default: as few as hold the size."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option("--force", is_flag=True, help="Replace OUT if it exists."),
    JSON,
)
def synth(
    out: Path,
    like: str | None,
    precision: str,
    type_: str,
    size: str,
    tensors: int | None,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Write a test model whose precision is known."""
    from truebits.report import listing
    from truebits.synth import synth as write

    write(out, like=like, precision=precision, type=type_, size=_size(size), tensors=tensors, seed=seed, force=force)
    opened = _open(out)
    if as_json:
        from truebits.report import json

        click.echo(json.show(opened, opened.tensors, "synth"))
        return
    click.echo(f"{listing.headline(opened)}\nvalues are exact in {precision}, seed {seed}")


@app.command()
@options(
    click.option("--keep", type=click.Path(path_type=Path), help="Leave the demo's files in this folder."), THREADS
)
def demo(keep: Path | None, threads: int | None) -> None:
    """Run the whole story on models made for it."""
    from truebits.demo import demo as tell

    tell(click.echo, keep, threads)


def _open(path: Path) -> Model:
    """Open a model and warn of what is odd about it."""
    from truebits.files.model import open_model
    from truebits.marker import marker_path

    model = open_model(path)
    for part in model.parts:
        for finding in part.findings:
            click.echo(f"warning: {printable(part.path.name)}: {finding.error.code}: {finding.message}", err=True)
        marker = marker_path(part.path)
        if marker.exists():
            click.echo(
                f"warning: a rewrite in place was left unfinished: {printable(marker.name)} tells which", err=True
            )
    return model


def _print(title: str, table: Table, style: str) -> None:
    if style == "text":
        click.echo(f"{title}\n")
    click.echo(table.render(style))


def _size(text: str) -> int:
    """Parse ``64MiB``, ``2GB``, ``1000``."""
    digits = text.rstrip("bBiIkKmMgG")
    unit = text[len(digits) :].lower().removesuffix("b")
    if not digits.isdecimal() or unit not in SIZES:
        raise click.BadParameter(f"{text!r} is not a size like 64MiB or 2GB", param_hint="--size")
    return int(digits) * SIZES[unit]


def _terminated(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command line; the exit code is the error's."""
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be UTF-8, nor the terminal
            stream.reconfigure(errors="backslashreplace")
    try:
        app.main(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        code = 0
    except SystemExit:
        code = 0  # click ends so, with 1, where a pipe was closed; ours says that a difference was found
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        click.echo("truebits: interrupted; nothing is left half done", err=True)
        code = 130
    except TruebitsError as error:
        click.echo(f"truebits: {printable(str(error))}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        where = f"{printable(str(error.filename))}: " if error.filename else ""
        click.echo(f"truebits: {where}{error.strerror or error}", err=True)
        code = 4
    sys.exit(code)


if __name__ == "__main__":
    main()
