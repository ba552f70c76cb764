"""One way from a request to a rewritten model: refuse, plan, write, verify.

`truncate` and `fakequant` say what to write; how a model's file is changed without losing anything is the
same for both, and stands here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from truebits.errors import UsageError, VerificationFailed, printable, shortened
from truebits.files.model import Model, open_local
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.numbers.figures import error_figures
from truebits.precision.batches import Progress, stepper
from truebits.quantizers.weights import meaning_of
from truebits.result import Result
from truebits.rewriting.copy import Piece, check_copy, check_layout, flush_and_verify, write_copy
from truebits.rewriting.inplace import ALLOWANCES, InPlace, check_parts
from truebits.rewriting.marker import read_marker
from truebits.rewriting.outputs import check_output, new_model
from truebits_native.reference import Difference, merged


class TensorChange(NamedTuple):
    """What happens to one tensor.

    Attributes
    ----------
    name : str
    values, changed : int
    to : str or None
        The format its values are rounded to; None where low bits are cut.
    difference : Difference or None
        How far the new values are from the old; None in a plan made of counts.
    """

    name: str
    values: int
    changed: int
    to: str | None = None
    difference: Difference | None = None

    def about(self) -> dict[str, Any]:
        """Return what every document says of it."""
        return {"name": printable(self.name), "values": self.values, "changed": self.changed}


@dataclass(frozen=True, repr=False)
class Rewrite(Result):
    """What a truncation or fake quantization changes; the plan and the rewrite give the same one.

    Attributes
    ----------
    tensors : tuple of TensorChange
        The selected tensors, in file order.
    reason : str
        One sentence: what changes, or why nothing does.
    bits : int or None
        Low bits that are cut; None where values are rounded to formats.
    written : bool
        False for a plan, and when nothing would change.
    bits_per_weight : float or None
        Of the whole model, if values were stored in the formats that they are rounded to; None for a cut.
    file : str
        The model.
    output : str or None
        What was written.
    """

    tensors: tuple[TensorChange, ...] = field(repr=False)
    reason: str
    bits: int | None = None
    written: bool = False
    bits_per_weight: float | None = None
    file: str = field(default="", compare=False)
    output: str | None = field(default=None, compare=False)

    @property
    def values(self) -> int:
        """Values in the selected tensors."""
        return sum(tensor.values for tensor in self.tensors)

    @property
    def changed(self) -> int:
        """Values that change."""
        return sum(tensor.changed for tensor in self.tensors)

    @property
    def difference(self) -> Difference | None:
        """How far all new values are from the old; None in a plan made of counts."""
        parts = [tensor.difference for tensor in self.tensors if tensor.difference is not None]
        return merged(parts) if len(parts) == len(self.tensors) else None

    def check(self, changed: int) -> None:
        """Raise `VerificationFailed` if a rewrite has changed another number of values."""
        if changed != self.changed:
            raise VerificationFailed(f"{changed} values were changed, the plan said {self.changed}")

    @property
    def verb(self) -> str:  # type: ignore[override]
        """What was done: ``truncate`` or ``fakequant``."""
        return "fakequant" if self.bits is None else "truncate"

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        about = {"file": self.file, "output": self.output, "written": self.written, "reason": self.reason}
        total: dict[str, Any] = {"values": self.values, "changed": self.changed}
        if self.bits is not None:
            return {**about, "bits": self.bits, **total, "tensors": [change.about() for change in self.tensors]}
        tensors = [{**change.about(), "to": change.to, **error_figures(change.difference)} for change in self.tensors]
        total |= {**error_figures(self.difference), "bits_per_weight": self.bits_per_weight}
        return {**about, "tensors": tensors, "total": total}

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return self.reason


class Operation(Protocol):
    """What to do with a model's tensors.

    Attributes
    ----------
    model : Model
    tensors : list of Tensor
    is_repeatable : bool
        What is changed already would not change again.
    """

    model: Model
    tensors: list[Tensor]
    is_repeatable: bool

    def plan(self, progress: Progress | None) -> Rewrite:
        """Tell what would change."""

    def record(self) -> dict[str, Any]:
        """Say what is done, for the marker of a rewrite in place and for its undo file."""

    def blocks(self, tensor: Tensor) -> int:
        """Tell how many values of a tensor have to stay together."""

    def change(self, piece: Piece, words: np.ndarray) -> int:
        """Change words in place; return how many changed."""

    def is_changed(self, piece: Piece, old: np.ndarray, new: np.ndarray) -> bool:
        """Tell whether `new` is what `change` makes of `old`."""

    def check_written(self, paths: list[Path]) -> None:
        """Raise `VerificationFailed` if files changed in place cannot be what was planned."""

    def done(self, planned: Rewrite) -> Rewrite:
        """Return what was planned, with all that is known since it was written."""


class Request(NamedTuple):
    """Where a rewrite goes, and what it may do; see `truncate`."""

    out: str | os.PathLike[str] | None = None
    in_place: bool = False
    undo_file: str | os.PathLike[str] | None = None
    force: bool = False
    allow: Iterable[str] = ()
    dry_run: bool = False
    progress: Progress | None = None

    def check(self) -> None:
        """Raise `UsageError` where it contradicts itself."""
        if self.in_place == (self.out is not None) and (self.in_place or not self.dry_run):
            raise UsageError("give either an output file or --in-place")
        if self.undo_file is not None and not self.in_place:
            raise UsageError("--undo-file goes with --in-place: a new file leaves the old one as it is")
        unknown = set(self.allow) - set(ALLOWANCES)
        if unknown:
            raise UsageError(f"--allow {', '.join(sorted(unknown))}: allowed are {', '.join(ALLOWANCES)}")


def open_to_rewrite(source: Model | str | os.PathLike[str], asked: bool = False) -> Model:
    """Open, if it is not open yet, a model whose tensors are those with values of their own: scales have none.

    Parameters
    ----------
    source : Model or path-like
    asked : bool
        Tensors are selected by name.

    Raises
    ------
    UsageError
        It is behind a URL; or it has tensors that only its quantizer understands, and nothing is selected.
    """
    model = open_local(source)
    meant = meaning_of(model)
    if meant.not_read and not asked:
        name, why = next(iter(meant.not_read.items()))
        raise UsageError(f"{shortened(name)} cannot be read ({why}), and others may belong to it: select tensors (-l)")
    sources = (one for whole in meant.quantized.values() for one in whole.sources.values())
    scales = {one.name for one in sources if one.type in FLOAT_BYTES}
    return replace(model, tensors=tuple(tensor for tensor in model.tensors if tensor.name not in scales))


def carry_out(operation: Operation, request: Request) -> Rewrite:
    """Do what was asked for, or refuse before anything is written.

    Raises
    ------
    Refused, UsageError, ModelFileError, OSError
        Before anything is written, or with nothing left behind.
    Unfinished
        In place only: interrupted.
    """
    model, tensors, allow = operation.model, operation.tensors, set(request.allow)
    out = Path(request.out) if request.out is not None else None
    if out is not None:
        check_output(model, out, request.force)
    if request.in_place:
        _check_in_place(operation, request, allow)
    else:
        for part in model.parts:
            check_layout(part, allow)
    planned = replace(operation.plan(request.progress), file=str(model.path))
    unfinished = request.in_place and any(read_marker(part.path) is not None for part in model.parts)
    if request.dry_run or not (planned.changed or unfinished):
        return planned
    step = stepper(request.progress, model.size)
    if out is not None:
        _write_new(operation, out, planned, request.force, step)
        return replace(operation.done(planned), written=True, output=str(out))

    def verify(changed: int, paths: list[Path]) -> None:
        planned.check(changed)
        operation.check_written(paths)

    undo_file = Path(request.undo_file) if request.undo_file else None
    repeatable, blocks = operation.is_repeatable, operation.blocks
    job = InPlace(model, tensors, operation.record(), undo_file, allow, repeatable, blocks)
    job.write(operation.change, verify, step)
    return replace(operation.done(planned), written=True, output=planned.file)


def _check_in_place(operation: Operation, request: Request, allow: set[str]) -> None:
    check_parts(operation.model, operation.tensors, allow)
    if not (operation.is_repeatable or request.undo_file or request.dry_run):
        raise UsageError(
            "in place, formats with shared scales need --undo-file: an interrupted rewrite cannot be run again, "
            "because values that are rounded already would give other scales"
        )


def _write_new(operation: Operation, out: Path, planned: Rewrite, force: bool, step: Callable[[int], None]) -> None:
    """Write every file of the model under a temporary name, verify all, then name them."""
    model = operation.model
    of_part = [[one for one in operation.tensors if one.part == number] for number in range(len(model.parts))]
    with new_model(model, out, force) as files:
        jobs = list(zip(model.parts, files, of_part, strict=True))
        changed = sum(
            write_copy(part, file.descriptor, mine, operation.change, step, operation.blocks)
            for part, file, mine in jobs
        )

        def verify_all() -> None:
            planned.check(changed)
            for part, file, mine in jobs:
                check_copy(part, file, mine, operation.is_changed, operation.blocks)

        flush_and_verify([file.descriptor for file in files], verify_all)
