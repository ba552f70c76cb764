"""Cut the low bits of F32 tensors: what to write."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import truebits_native as native
from truebits.errors import UsageError, VerificationFailed
from truebits.files.model import Model, Regexes
from truebits.numbers.formats import LEFT_BY_CUT
from truebits.precision.batches import Progress
from truebits.precision.counting import Counts, floating, low_bits
from truebits.precision.report import Report
from truebits.precision.scan import scan
from truebits.rewriting.copy import Piece, single_values
from truebits.rewriting.operation import Request, Rewrite, TensorChange, carry_out, open_to_rewrite

MANTISSA_BITS = 23
WORD = 0xFFFFFFFF


def truncate(
    source: Model | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    bits: int,
    in_place: bool = False,
    undo_file: str | os.PathLike[str] | None = None,
    force: bool = False,
    allow: Iterable[str] = (),
    dry_run: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Rewrite:
    """Set the low bits of F32 values to zero, in a new file or in place.

    Where nothing would change nothing is written. What was written is scanned again, and all other
    bytes are compared.

    Parameters
    ----------
    source : Model or path-like
        The model; never modified unless `in_place`.
    out : path-like, optional
        The new file; for a shard set the name of its first file, for a folder that of a new one.
    select, exclude : regex or regexes, optional
        Which F32 tensors; all if not given.
    bits : int
        1 to 31; 16 leaves BF16.
    in_place : bool
        Rewrite `source` itself.
    undo_file : path-like, optional
        Record the old bytes there first (in place only), for `undo`.
    force : bool
        Replace `out` if it exists.
    allow : iterable of str
        Of ``symlink hardlink cache open layout``: what an in-place rewrite may not refuse.
    dry_run : bool
        Refuse and count as always, but write nothing.
    threads, progress
        As for `scan`.

    Returns
    -------
    Rewrite

    Raises
    ------
    UsageError
        Before any work: `bits` out of range, no F32 tensor selected, `out` is the input.
    Refused, ModelFileError, OSError
        Before anything is written, or with nothing left behind.
    Unfinished
        In place only: interrupted.
    """
    request = Request(out, in_place, undo_file, force, tuple(allow), dry_run, progress)
    request.check()
    return carry_out(Cut(source, bits, select, exclude, threads), request)


class Cut:
    """Setting low bits to zero, as an `Operation`."""

    is_repeatable = True
    blocks = staticmethod(single_values)

    def __init__(
        self,
        source: Model | str | os.PathLike[str],
        bits: int,
        select: Regexes,
        exclude: Regexes,
        threads: int | None,
    ):
        if not 1 <= bits <= 31:
            raise UsageError(f"bits is {bits}, allowed are 1 to 31 of an F32's 32")
        self.bits = bits
        self.threads = threads
        self.model = open_to_rewrite(source, bool(select))
        self.tensors = floating(self.model.select(select, exclude), ("F32",), asked=True)
        self.before: Report | None = None

    def plan(self, progress: Progress | None, counts: Counts | None = None) -> Rewrite:
        """Tell what changes, from counts alone: of the words, where these were counted elsewhere."""
        native.expect_work("truncate", sum(tensor.values for tensor in self.tensors))
        selected = replace(self.model, tensors=tuple(self.tensors))
        self.before = scan(selected, threads=self.threads, progress=progress, counts=counts)
        changes = tuple(
            TensorChange(name, precision.values, precision.changed_by_cut(self.bits))
            for name, precision in self.before.tensors.items()
        )
        return Rewrite(changes, _reason(changes, self.bits), self.bits)

    def record(self) -> dict[str, Any]:
        return {"verb": "truncate", "bits": self.bits, "tensors": [tensor.name for tensor in self.tensors]}

    def change(self, piece: Piece, words: np.ndarray) -> int:
        """Cut words in place; return how many changed."""
        return native.truncate(words, self.bits, threads=1)  # the other cores write

    def is_changed(self, piece: Piece, old: np.ndarray, new: np.ndarray) -> bool:
        """Tell whether `new` is what cutting makes of `old`."""
        high_bits_differ = native.differing_count(old, new, WORD << self.bits & WORD, self.threads)
        if not high_bits_differ and native.low_zero_count(new, self.bits, self.threads) == new.size:
            return True
        expected = old.copy()  # a NaN or Inf keeps bits that others lose
        native.truncate(expected, self.bits, self.threads)
        return np.array_equal(expected, new)

    def check_written(self, paths: list[Path]) -> None:
        """Scan what was written: the low bits of every value must be zero now, but for those NaN and Inf keep."""
        assert self.before is not None
        parts = tuple(part.at(path) for part, path in zip(self.model.parts, paths, strict=True))
        after = low_bits(replace(self.before.model, parts=parts), bits=self.bits, threads=self.threads)
        for name, precision in self.before.tensors.items():
            nan = precision.nan if self.bits >= MANTISSA_BITS else 0
            inf = precision.inf if self.bits > MANTISSA_BITS else 0
            left = precision.values - nan - inf - after[name]
            if left:
                raise VerificationFailed(f"tensor {precision.tensor.label}: {left} values still have low bits set")

    def done(self, planned: Rewrite) -> Rewrite:
        return planned


def _reason(changes: tuple[TensorChange, ...], bits: int) -> str:
    """Say in one sentence what changes, or why nothing does."""
    values, changed = (sum(numbers) for numbers in zip(*(change[1:3] for change in changes), strict=True))
    if changed:
        to = f" to {LEFT_BY_CUT[bits].upper()}" if bits in LEFT_BY_CUT else ""
        return f"{changed:,} of {values:,} values change{to}: their low {bits} bits are not all zero"
    if not values:
        return "nothing changes: there are no values"
    already = f": they already are {LEFT_BY_CUT[bits].upper()}" if bits in LEFT_BY_CUT else ""
    or_special = ", or are Inf or NaN" if bits >= MANTISSA_BITS else ""
    return f"nothing changes: all {values:,} values have their low {bits} bits zero{or_special}{already}"
