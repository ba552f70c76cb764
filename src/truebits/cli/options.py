"""Options that several subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from truebits.report.table import STYLES


def options(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    """Put several click options on a command, in the order given."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


class ModelPath(click.Path):
    """A name of a model; an empty one is not the folder where we are, but a variable that was not set."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty: is a variable not set?", param, ctx)
        return super().convert(value, param, ctx)


A_MODEL = ModelPath(path_type=Path)
MODELS = click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=A_MODEL)
MODEL = click.argument("model", type=A_MODEL)
SELECTION = options(
    click.option(
        "-l", "--include", multiple=True, metavar="REGEX", help="Only tensors whose name it is found in; repeatable."
    ),
    click.option(
        "-L", "--exclude", multiple=True, metavar="REGEX", help="Not tensors whose name it is found in; repeatable."
    ),
)


def _of_remote(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep an option on how models behind URLs are read, for the file's mapping to find."""
    if value is not None and value is not False:
        from truebits.files.remote import SETTINGS

        name = {"fetch_limit": "limit"}.get(str(parameter.name), str(parameter.name))
        setattr(SETTINGS, name, int(value * 10**9) if name == "limit" else value)


def _remote(*names: str, **settings: Any) -> Callable[..., Any]:
    return click.option(*names, expose_value=False, callback=_of_remote, **settings)


CACHES = options(
    _remote("--connections", type=click.IntRange(1, 64), help="Of a URL: requests at once. Default: 8."),
    _remote("--cache", type=click.Path(path_type=Path), help="Of a URL: where to keep what was fetched."),
    _remote("--fetch-limit", type=click.FloatRange(0), metavar="GB", help="Of a URL: fetch no more. Default: 8.6."),
)
REMOTE = options(
    CACHES,
    _remote("--dry-run", is_flag=True, help="Of a URL: only say how much would be fetched beyond the header."),
)


def _be_quiet(context: click.Context, parameter: click.Parameter, flag: bool) -> None:
    """Draw no bar; what is odd about a file, and errors, are said all the same."""
    if flag and not context.resilient_parsing:
        from truebits.report import progress

        progress.is_quiet = True
        context.call_on_close(lambda: setattr(progress, "is_quiet", False))


THREADS = options(
    click.option("-t", "--threads", type=click.IntRange(1), help="Default: all cores. Results do not depend on it."),
    click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_be_quiet, help="Draw no bar of progress."
    ),
)


def _is_json(context: click.Context, _: click.Parameter, flag: bool) -> bool:
    return flag or context.params.get("as_json", False)


def _style(context: click.Context, _: click.Parameter, style: str) -> str:
    if style != "json":
        return style
    context.params["as_json"] = True
    return "text"


def styles(*names: str) -> Callable[..., Any]:
    """Return the option -o of these styles, and of JSON, for which it says the same as --json."""
    kinds = click.Choice((*names, "json"))
    return click.option("-o", "--output", "style", type=kinds, default="text", show_default=True, callback=_style)


JSON = click.option("--json", "as_json", is_flag=True, callback=_is_json, help="Print JSON, as -o json does.")
STYLE = styles(*STYLES)
ASKED = {"html": "truebits.page", "plot": "truebits.picture"}
"""Files that were asked for besides what is printed: under which names the context has their paths."""

NEEDS = {"html": ("An HTML page", "jinja2"), "plot": ("A picture", "matplotlib")}

PICTURES = (".png", ".svg", ".pdf")


def _keep(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Keep where to write a file for when there is a result; what would fail then fails now, before hours of work."""
    kind = str(parameter.name)
    context.meta[ASKED[kind]] = path
    if path is None or context.resilient_parsing:
        return
    from importlib.util import find_spec

    from truebits.errors import MissingExtra, UsageError, printable

    what, module = NEEDS[kind]
    if find_spec(module) is None:
        raise MissingExtra(what, kind)
    if kind == "plot" and path.suffix.lower() not in PICTURES:
        raise UsageError(f"--plot {printable(str(path))}: a picture's name ends in {', '.join(PICTURES)}")
    if not path.parent.is_dir():
        raise UsageError(f"--{kind} {printable(str(path))}: there is no such folder")
    if kind == "html" and path.is_file() and not _is_page(path):
        raise UsageError(f"--html {printable(str(path))}: the file is there, and no page: give another name")


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15).lower() in (b"<!doctype html>", b"")


def _asked(kind: str, help: str) -> Callable[..., Any]:
    path = click.Path(path_type=Path)
    return click.option(f"--{kind}", metavar="FILE", type=path, expose_value=False, callback=_keep, help=help)


HTML = _asked("html", "Write the result as one page, too.")
PLOT = _asked("plot", "Draw the result, too: a PNG, SVG or PDF.")
REPORT = styles("text", "md")
ALLOW = click.option(
    "--allow",
    multiple=True,
    type=click.Choice(("symlink", "hardlink", "cache", "open", "layout")),
    help="Write what is refused otherwise; all but `layout` in place only; repeatable.",
)

IN_PLACE = options(
    click.option("--in-place", is_flag=True, help="Change MODEL itself."),
    click.option(
        "--undo-file", type=click.Path(path_type=Path), help="In place: keep the old bytes there, for `undo`."
    ),
    click.option("--dry-run", is_flag=True, help="Say what would change; write nothing."),
    click.option("--force", is_flag=True, help="Replace OUT if it exists."),
    ALLOW,
)

DEQUANTIZE = click.option("--dequantize", is_flag=True, help="Quantized tensors become F32 values first.")
CONTEXT = click.option("--context", "n_ctx", type=int, default=512, show_default=True, help="Tokens per chunk of text.")
BACKEND = click.option(
    "--backend", type=click.Choice(("wheel", "native")), help="Whose llama.cpp: of the extra eval, or eval-native."
)

EVALUATION = options(
    click.option("--prompts", type=click.Path(path_type=Path), help="File of one prompt per line."),
    CONTEXT,
    click.option("--chunks", type=int, help="Only the first so many; default: all."),
    click.option("--rounds", type=int, default=5, show_default=True, help="Of the timings; 0 for none."),
    click.option("--answer-tokens", type=int, default=48, show_default=True, help="Length of an answer, at most."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the timings' bootstrap."),
    BACKEND,
)
