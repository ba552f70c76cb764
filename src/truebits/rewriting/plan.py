"""What a rewrite would change, said beforehand."""

from __future__ import annotations

import os
from collections.abc import Iterable

from truebits.errors import UsageError
from truebits.files.model import Model, Regexes
from truebits.numbers.rounding import Rounding
from truebits.precision.batches import Progress
from truebits.rewriting.fakequant import FakeQuant
from truebits.rewriting.operation import Rewrite, open_to_rewrite
from truebits.rewriting.rules import Rule, assign
from truebits.rewriting.truncate import Cut


def plan(
    source: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    bits: int | None = None,
    to: str | None = None,
    rules: Iterable[Rule | str] = (),
    rounding: Rounding | str = "nearest",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Rewrite:
    """Tell what `truncate` or `fakequant` would change; nothing is written.

    For cuts and floating-point formats counts are enough. Formats with shared scales are tried.

    Parameters
    ----------
    source : Model or path-like
    select, exclude : regex or regexes, optional
    bits : int, optional
        As for `truncate`: low bits to set to zero.
    to, rules, rounding
        As for `fakequant`.
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
    asked = operation_of(source, select, exclude, bits, to, rules, Rounding.of(rounding), threads)
    return asked.plan(progress)


def operation_of(
    source: Model | str | os.PathLike[str],
    select: Regexes,
    exclude: Regexes,
    bits: int | None,
    to: str | None,
    rules: Iterable[Rule | str],
    rounding: Rounding,
    threads: int | None,
) -> Cut | FakeQuant:
    """Return what is asked for as an `Operation`, which knows its tensors; takes and raises what `plan` does."""
    rules = tuple(rules)
    if (bits is None) == (to is None and not rules):
        raise UsageError("plan either a cut of low bits (bits) or a format (to, rules)")
    if bits is not None:
        return Cut(source, bits, select, exclude, threads)
    model = open_to_rewrite(source, bool(select))
    return FakeQuant(model, assign(model, to, rules, select, exclude), rounding, False, threads)
