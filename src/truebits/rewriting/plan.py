"""What a rewrite would change, said beforehand."""

from __future__ import annotations

import os
from collections.abc import Iterable

from truebits.errors import UsageError
from truebits.files.model import Model, open_gguf
from truebits.numbers.rounding import Manner
from truebits.precision.scan import Progress, Regexes
from truebits.rewriting.fakequant import FakeQuant
from truebits.rewriting.operation import Rewrite
from truebits.rewriting.rules import Rule, assign
from truebits.rewriting.truncate import Cut


def plan(
    source: Model | str | os.PathLike[str],
    bits: int | None = None,
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    to: str | None = None,
    rules: Iterable[Rule | str] = (),
    rounding: str = "nearest",
    seed: int = 0,
    overflow: str | None = None,
    flush_subnormals: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Rewrite:
    """Tell what `truncate` or `fakequant` would change; nothing is written.

    For cuts and floating-point formats counts are enough. Formats with shared scales are tried.

    Parameters
    ----------
    source : Model or path-like
    bits : int, optional
        As for `truncate`: low bits to set to zero.
    to, rules, rounding, seed, overflow, flush_subnormals
        As for `fakequant`.
    select, exclude : regex or regexes, optional
    threads, progress
        As for `scan`.

    Returns
    -------
    Rewrite

    Raises
    ------
    UsageError
        Neither or both are asked for, or as they do.
    """
    rules = tuple(rules)
    if (bits is None) == (to is None and not rules):
        raise UsageError("plan either a cut of low bits (bits) or a format (to, rules)")
    if bits is not None:
        return Cut(source, bits, select, exclude, threads).plan(progress)
    model = open_gguf(source)
    manner = Manner(rounding, seed, overflow, flush_subnormals)
    return FakeQuant(model, assign(model, to, rules, select, exclude), manner, False, threads).plan(progress)
