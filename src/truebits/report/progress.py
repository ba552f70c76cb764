"""Progress of long work, on stderr when that is a terminal, and in notebooks."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from truebits.precision.batches import Progress
from truebits.report.table import terminal_width
from truebits_native import dispatch

PATIENCE = 0.4
"""Seconds of work before a bar appears: less than that needs none, nor the import of tqdm."""

is_quiet = False
"""No bar is drawn: a command was asked to be quiet."""


@contextmanager
def progress_bar(what: str, in_bytes: bool = True) -> Iterator[Progress | None]:
    """Give a callback for `scan` and the like; None where nobody would see the bar.

    Parameters
    ----------
    what : str
        What is done, before the bar.
    in_bytes : bool
        What is counted are bytes.
    """
    dispatch.on_compile = say_compiling
    if is_quiet or not (sys.stderr.isatty() or in_notebook()):
        yield None
        return
    started = time.monotonic()
    bar: Any = None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            if time.monotonic() - started < PATIENCE:
                return
            unit, width = "B" if in_bytes else "", None if in_notebook() else terminal_width()
            bar = _tqdm()(desc=what, total=total, leave=False, unit=unit, unit_scale=in_bytes, ncols=width)
        if done > bar.n:  # it does not jump back
            bar.update(done - bar.n)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()


def _tqdm() -> Any:
    """Return tqdm's bar for where this runs: of text where a notebook has no widgets, and no word about it."""
    from tqdm import TqdmWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.autonotebook import tqdm
    return tqdm


def say_compiling(seconds: float) -> None:
    """Say why nothing is to be seen for a while, whether or not anybody sees a bar."""
    if seconds >= 1 and not is_quiet:
        with suppress(OSError, ValueError):  # a stderr that is closed
            sys.stderr.write(f"compiling a kernel, once for this machine: about {seconds:.0f} s\n")
            sys.stderr.flush()


def in_notebook() -> bool:
    """Tell whether a notebook's kernel runs this; imports nothing for it."""
    shell = sys.modules.get("IPython")
    return shell is not None and "IPKernelApp" in getattr(shell.get_ipython(), "config", {})
