"""Cut the low bits of F32 tensors: the plan, and the rewrite that must equal it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

import truebits_native as native
from truebits.errors import UsageError, VerificationFailed
from truebits.files.layout import Tensor
from truebits.files.model import Model, open_model
from truebits.formats import LEFT_BY_CUT
from truebits.inplace import ALLOWANCES, InPlace, check_parts
from truebits.marker import read_marker
from truebits.rewrite import check_absent, check_copy, flush_and_verify, new_file, outputs, write_copy
from truebits.scan import Progress, Regexes, Report, floating, low_bits, scan

MANTISSA_BITS = 23
WORD = 0xFFFFFFFF


class TensorChange(NamedTuple):
    """How many values of one tensor change."""

    name: str
    values: int
    changed: int


@dataclass(frozen=True)
class Rewrite:
    """What a truncation changes; the plan and the rewrite give the same one.

    Attributes
    ----------
    bits : int
        Low bits that are cut.
    tensors : tuple of TensorChange
        The selected F32 tensors, in file order.
    written : bool
        False for a plan, and when nothing would change.
    """

    bits: int
    tensors: tuple[TensorChange, ...] = field(repr=False)
    written: bool = False

    @property
    def values(self) -> int:
        """Values in the selected tensors."""
        return sum(tensor.values for tensor in self.tensors)

    @property
    def changed(self) -> int:
        """Values that change."""
        return sum(tensor.changed for tensor in self.tensors)

    def check(self, changed: int) -> None:
        """Raise `VerificationFailed` if a rewrite has changed another number of values."""
        if changed != self.changed:
            raise VerificationFailed(f"{changed} values were changed, the plan said {self.changed}")

    @property
    def reason(self) -> str:
        """One sentence: what changes, or why nothing does."""
        if self.changed:
            to = f" to {LEFT_BY_CUT[self.bits].upper()}" if self.bits in LEFT_BY_CUT else ""
            return f"{self.changed:,} of {self.values:,} values change{to}: their low {self.bits} bits are not all zero"
        if not self.values:
            return "nothing changes: there are no values"
        already = f": they already are {LEFT_BY_CUT[self.bits].upper()}" if self.bits in LEFT_BY_CUT else ""
        or_special = ", or are Inf or NaN" if self.bits >= MANTISSA_BITS else ""
        return f"nothing changes: all {self.values:,} values have their low {self.bits} bits zero{or_special}{already}"


def plan(
    source: Model | str | os.PathLike[str],
    bits: int,
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Rewrite:
    """Tell what `truncate` would change, from counts alone; nothing is written.

    Parameters
    ----------
    source : Model or path-like
    bits : int
        Low bits to set to zero, 1 to 31; 16 leaves BF16.
    select, exclude : regex or regexes, optional
    threads, progress
        As for `scan`.

    Returns
    -------
    Rewrite

    Raises
    ------
    UsageError
        `bits` is out of range, or no F32 tensor is selected.
    """
    model, tensors = _selected(source, bits, select, exclude)
    return _planned(scan(replace(model, tensors=tuple(tensors)), threads=threads, progress=progress), bits)


def truncate(
    source: Model | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    bits: int,
    select: Regexes = None,
    exclude: Regexes = None,
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
        The new file; for a shard set the name of its first file.
    bits : int
        1 to 31; 16 leaves BF16.
    select, exclude : regex or regexes, optional
        Which F32 tensors; all if not given.
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
    allow = set(allow)
    _check_request(out, in_place, undo_file, allow, dry_run)
    model, tensors = _selected(source, bits, select, exclude)
    paths = outputs(model, Path(out)) if out is not None else []
    for path in paths:
        check_absent(path, force)
    if in_place:
        check_parts(model, tensors, allow)
    else:
        for part in model.parts:
            part.check_layout()
    before = scan(replace(model, tensors=tuple(tensors)), threads=threads, progress=progress)
    planned = _planned(before, bits)
    unfinished = in_place and any(read_marker(part.path) is not None for part in model.parts)
    if dry_run or not (planned.changed or unfinished):
        return planned
    cut, step = Cut(bits, threads), _stepper(progress, model.size)
    if paths:
        _write_new(model, paths, tensors, cut, planned, force, step)
        return replace(planned, written=True)

    def verify(changed: int, paths: list[Path]) -> None:
        planned.check(changed)
        _check_cut(before, paths, bits, threads)

    operation = {"verb": "truncate", "bits": bits, "tensors": [tensor.name for tensor in tensors]}
    job = InPlace(model, tensors, operation, Path(undo_file) if undo_file else None, allow)
    job.write(cut.change, verify, step)
    return replace(planned, written=True)


class Cut(NamedTuple):
    """Setting low bits to zero, as the writer asks for it."""

    bits: int
    threads: int | None

    def change(self, words: np.ndarray) -> int:
        """Cut words in place; return how many changed."""
        return native.truncate(words, self.bits, threads=1)  # the other cores write

    def is_changed(self, old: np.ndarray, new: np.ndarray) -> bool:
        """Tell whether `new` is what cutting makes of `old`."""
        high_bits_differ = native.differing_count(old, new, WORD << self.bits & WORD, self.threads)
        if not high_bits_differ and native.low_zero_count(new, self.bits, self.threads) == new.size:
            return True
        expected = old.copy()  # a NaN or Inf keeps bits that others lose
        native.truncate(expected, self.bits, self.threads)
        return np.array_equal(expected, new)


def _check_request(out: object, in_place: bool, undo_file: object, allow: set[str], dry_run: bool) -> None:
    if in_place == (out is not None) and (in_place or not dry_run):
        raise UsageError("give either an output file or --in-place")
    if undo_file is not None and not in_place:
        raise UsageError("--undo-file goes with --in-place: a new file leaves the old one as it is")
    unknown = allow - set(ALLOWANCES)
    if unknown:
        raise UsageError(f"--allow {', '.join(sorted(unknown))}: allowed are {', '.join(ALLOWANCES)}")


def _selected(
    source: Model | str | os.PathLike[str], bits: int, select: Regexes, exclude: Regexes
) -> tuple[Model, list[Tensor]]:
    if not 1 <= bits <= 31:
        raise UsageError(f"bits is {bits}, allowed are 1 to 31 of an F32's 32")
    model = source if isinstance(source, Model) else open_model(source)
    return model, floating(model.select(select, exclude), ("F32",), asked=True)


def _planned(report: Report, bits: int) -> Rewrite:
    changes = (
        TensorChange(name, precision.values, precision.changed_by_cut(bits))
        for name, precision in report.tensors.items()
    )
    return Rewrite(bits, tuple(changes))


def _stepper(progress: Progress | None, total: int) -> Callable[[int], None]:
    done = 0

    def step(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    return step


def _write_new(
    model: Model,
    paths: list[Path],
    tensors: list[Tensor],
    cut: Cut,
    planned: Rewrite,
    force: bool,
    step: Callable[[int], None],
) -> None:
    """Write every file of the model under a temporary name, verify all, then name them."""
    of_part = [[tensor for tensor in tensors if tensor.part == number] for number in range(len(paths))]
    with ExitStack() as stack:
        files = [stack.enter_context(new_file(path, force)) for path in paths]
        jobs = list(zip(model.parts, files, of_part, strict=True))
        changed = sum(write_copy(part, file.descriptor, mine, cut.change, step) for part, file, mine in jobs)

        def verify_all() -> None:
            planned.check(changed)
            for part, file, mine in jobs:
                check_copy(part, file.path, mine, cut.is_changed)

        flush_and_verify([file.descriptor for file in files], verify_all)


def _check_cut(before: Report, paths: list[Path], bits: int, threads: int | None) -> None:
    """Scan what was written: the low bits of every value must be zero now, but for those NaN and Inf keep."""
    parts = tuple(part.at(path) for part, path in zip(before.model.parts, paths, strict=True))
    after = low_bits(replace(before.model, parts=parts), bits, threads=threads)
    for name, precision in before.tensors.items():
        kept = (precision.nan if bits >= MANTISSA_BITS else 0) + (precision.inf if bits > MANTISSA_BITS else 0)
        if after[name] != precision.values - kept:
            left = precision.values - kept - after[name]
            raise VerificationFailed(f"tensor {precision.tensor.label}: {left} values still have low bits set")
