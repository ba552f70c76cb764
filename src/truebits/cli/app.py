"""The command line: its subcommands, and what each way to end becomes as an exit code."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

from truebits._version import __version__
from truebits.cli.options import THREADS, options
from truebits.cli.shared import Ended
from truebits.errors import TruebitsError, clipped

EXIT_CODES = """\b
Exit codes: 0 done, 1 difference found or gate failed, 2 wrong usage, 3 not a valid model file,
4 I/O error, 5 refused or busy, 6 an in-place rewrite was left unfinished (run again, or undo), 7 not verified,
8 the evaluation failed, 70 a bug of ours, 130 interrupted."""


VERBS = {
    "scanning": ("scan",),
    "gate": ("check",),
    "reading": ("show", "verify"),
    "comparing": ("diff", "trace", "rank"),
    "surveying": ("survey",),
    "rewriting": ("truncate", "fakequant", "undo", "synth"),
    "storing": ("shrink", "dequantize"),
    "evaluating": ("eval", "experiment"),
    "sensitivity": ("sensitivity", "recipe"),
}
"""Where each verb is."""

HOMES = {verb: home for home, verbs in VERBS.items() for verb in verbs}


class Verbs(click.Group):
    """Imports a verb when it is asked for: each has its options made, and most runs are of one."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*HOMES, *self.commands])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in HOMES:
            return super().get_command(context, name)
        found: click.Command = getattr(import_module(f"truebits.cli.{HOMES[name]}"), FUNCTIONS.get(name, name))
        return found

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; where there is none of the name, say which are near."""
        if self.get_command(context, args[0]) is None:
            from difflib import get_close_matches

            near = ELSEWHERE.get(args[0]) or ", ".join(get_close_matches(args[0], self.list_commands(context)))
            if near:
                context.fail(f"No such command {args[0]!r}. Did you mean {near}?")
        return super().resolve_command(context, args)


ELSEWHERE = {
    "fingerprint": "scan --fingerprint",
    "info": "show",
    "dump": "show",
    "compare": "diff",
    "quantize": "fakequant",
}
"""What others call it, or the library."""

FUNCTIONS = {"eval": "evaluate"}
"""Verbs that Python has a function of that name of."""


@click.group(
    cls=Verbs, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, "-V", "--version", prog_name="truebits")
def app() -> None:
    """What precision do a model file's weights truly carry, and what happens if they carry less?"""


@app.command()
@options(
    click.option("--keep", type=click.Path(path_type=Path), help="Leave the demo's files in this folder."), THREADS
)
def demo(keep: Path | None, threads: int | None) -> None:
    """Run the whole story on models made for it."""
    from truebits.cli.demo import demo as tell

    tell(click.echo, keep, threads)


def _terminated(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    """Raise a Ctrl-C again that came where Python drops it: in a finalizer, or in the callback of a weak reference."""
    if isinstance(what.exc_value, KeyboardInterrupt) and hasattr(signal, "pthread_kill"):
        from threading import Timer, main_thread

        thread = main_thread().ident
        Timer(0.02, signal.pthread_kill, (thread, signal.SIGTERM)).start()  # not in here: it would be dropped again
    else:
        sys.__unraisablehook__(what)


def main() -> NoReturn:
    """Run the command line; the exit code is the error's."""
    gc.set_threshold(200_000)  # imports and headers make many objects and no garbage: a tenth of a short run
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of NumPy's, that nobody here uses and 15 ms go to
    sys.unraisablehook = _unraisable
    signal.signal(signal.SIGTERM, _terminated)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be UTF-8, nor the terminal
            stream.reconfigure(errors="backslashreplace")
    try:
        app.main(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        code = 0
    except Ended as verdict:
        code = verdict.exit_code
    except SystemExit as end:
        if end.code != 1:  # click ends so where whoever reads stops; of ours none does
            raise
        code = 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        _say(f"interrupted; {_what_is_left()}")
        code = 130
    except TruebitsError as error:
        _say(str(error))
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
        code = 4
    except MemoryError:
        _say("out of memory")
        code = 4
    except Exception as error:
        if os.environ.get("TRUEBITS_TRACEBACK"):
            from traceback import format_exc

            click.echo(format_exc(), err=True)
        _say(f"a bug of ours (TRUEBITS_TRACEBACK=1 shows where): {type(error).__name__}: {error}")
        code = 70
    gc.freeze()  # or the interpreter looks at all that there is once more: 25 ms
    sys.exit(code)


def _say(message: str) -> None:
    """Print an error: one line of bounded length, to a stderr that may be closed."""
    with suppress(OSError, ValueError):
        click.echo(clipped(f"truebits: {message}"), err=True)


def _what_is_left() -> str:
    """Say what an interrupted command leaves behind: nothing, or the names that were to go again."""
    durable = sys.modules.get("truebits.rewriting.durable")
    left = durable.left_behind() if durable is not None else []
    return f"left behind: {', '.join(map(str, left))}" if left else "nothing is left half done"


if __name__ == "__main__":
    main()
