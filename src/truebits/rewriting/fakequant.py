"""Round values to what another format would make of them: what to write, and how far off it is.

For a floating-point format the plan comes from counts alone: a value changes if and only if the format does
not hold it, whatever the rounding. Where values share scales it has to be tried, and the plan does that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import truebits_native as native
from truebits.errors import UsageError, VerificationFailed
from truebits.files.model import Model, Regexes, open_model
from truebits.files.tensor import Tensor
from truebits.numbers.formats import Format
from truebits.numbers.rounding import Quantizer, Rounding, check
from truebits.numbers.words import to_singles
from truebits.precision.batches import Progress, stepper
from truebits.precision.counting import Counts, negative_zeros
from truebits.precision.coverage import count
from truebits.precision.scan import scan
from truebits.quantizers.quantize import quantizer
from truebits.rewriting.copy import Piece, read_pieces, single_values
from truebits.rewriting.dequantize import as_values
from truebits.rewriting.operation import Request, Rewrite, TensorChange, carry_out, open_to_rewrite
from truebits.rewriting.rules import Assignment, Rule, assign, bits_per_weight
from truebits_native.reference import Difference, merged


def fakequant(
    source: Model | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    to: str | None = None,
    rules: Iterable[Rule | str] = (),
    rounding: Rounding | str = "nearest",
    in_place: bool = False,
    undo_file: str | os.PathLike[str] | None = None,
    force: bool = False,
    allow: Iterable[str] = (),
    dequantize: bool = False,
    dry_run: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Rewrite:
    """Make values what they would be after a round trip through a format; tensors keep their type.

    Parameters
    ----------
    source : Model or path-like
        The model; never modified unless `in_place`.
    out : path-like, optional
        The new file; for a shard set the name of its first file, for a folder that of a new one.
    select, exclude : regex or regexes, optional
        Which tensors; all of type F32, F16, BF16 and F64 if not given.
    to : str, optional
        A format as `truebits.numbers.spelling.target` spells them: ``bf16 fp8_e4m3fn e5m7 int4:row mxfp4 q8_0``.
    rules : iterable of Rule or str
        ``REGEX=FORMAT`` or ``REGEX=keep``; the first that matches a tensor's name wins over `to`.
    rounding : Rounding or str
        How to round; a mode's name alone: ``nearest truncate stochastic``.
    in_place, undo_file, force, allow
        As for `truncate`. Formats with scales need an `undo_file` in place.
    dequantize : bool
        Quantized tensors become F32 values first, and are rounded as any others; not in place.
    dry_run : bool
        Refuse and measure as always, but write nothing.
    threads, progress
        As for `scan`.

    Returns
    -------
    Rewrite

    Raises
    ------
    UsageError
        Before any work: no such format, or an option it does not have; a rule that matches nothing;
        a tensor whose values cannot be rounded.
    Refused
        A NaN or Inf where values share a scale, and as `truncate`.
    """
    request = Request(out, in_place, undo_file, force, tuple(allow), dry_run, progress)
    request.check()
    if dequantize and in_place:
        raise UsageError("--dequantize makes tensors larger: it goes with an output file, not with --in-place")
    original = open_model(source)
    with as_values(original, dequantize, out) as values:
        model = open_to_rewrite(values, bool(select))
        assigned = assign(model, to, rules, select, exclude)
        done = carry_out(FakeQuant(model, assigned, Rounding.of(rounding), dry_run, threads), request)
    return replace(done, file=str(original.path))


class FakeQuant:
    """Rounding tensors to formats, as an `Operation`."""

    def __init__(self, model: Model, assigned: Assignment, rounding: Rounding, measured: bool, threads: int | None):
        pairs, self.left = assigned
        for format in dict.fromkeys(format for _, format in pairs):
            check(format, rounding)
        self.model = model
        self.tensors = [tensor for tensor, _ in pairs]
        self.formats = {tensor.name: format for tensor, format in pairs}
        self.rounding = rounding
        self.measured = measured
        self.threads = threads
        self.quantizers = {
            tensor.name: quantizer(format, tensor, model.row(tensor), rounding) for tensor, format in pairs
        }
        self.found: dict[str, list[Difference]] = {name: [] for name in self.formats}
        self.is_repeatable = all(isinstance(format, Format) for format in self.formats.values())

    def plan(self, progress: Progress | None, counts: Counts | None = None) -> Rewrite:
        """Tell what changes: from counts, which may be made elsewhere, for floating-point formats, else by trying."""
        native.expect_work("rounding", sum(tensor.values for tensor in self.tensors))
        changed = self._counted(self._floats(), progress, counts)
        tried = [tensor for tensor in self.tensors if self.measured or tensor.name not in changed]
        pairs = [(tensor, self.quantizers[tensor.name]) for tensor in tried]
        differences = measure(self.model, pairs, self.threads, progress)
        for name, difference in differences.items():
            if changed.setdefault(name, difference.changed) != difference.changed:
                raise VerificationFailed(f"{name}: {difference.changed} values change, by their counts {changed[name]}")
        changes = tuple(
            TensorChange(name, tensor.values, changed[name], self.formats[name].name, differences.get(name))
            for tensor in self.tensors
            for name in (tensor.name,)
        )
        formats = [(tensor, self.formats[tensor.name]) for tensor in self.tensors]
        return Rewrite(changes, _reason(changes, self.left), bits_per_weight=bits_per_weight(self.model, formats))

    def _floats(self) -> list[Tensor]:
        """Return the tensors that go to floating-point formats: for them counts are enough."""
        return [tensor for tensor in self.tensors if isinstance(self.formats[tensor.name], Format)]

    def _counted(self, tensors: list[Tensor], progress: Progress | None, counts: Counts | None) -> dict[str, int]:
        """Count the values that their floating-point formats do not hold."""
        if not tensors:
            return {}
        chosen = replace(self.model, tensors=tuple(tensors))
        report = scan(chosen, threads=self.threads, progress=progress, counts=counts)
        signed = [one.tensor for name, one in report.items() if one.zero and not self._format(name).has_negative_zero]
        zeros = negative_zeros(self.model, signed, self.threads)
        return {
            name: one.changed_by_cast(self._format(name), self.rounding.flush_subnormals) + zeros.get(name, 0)
            for name, one in report.items()
        }

    def _format(self, name: str) -> Format:
        format = self.formats[name]
        assert isinstance(format, Format)
        return format

    def record(self) -> dict[str, Any]:
        formats = {name: format.name for name, format in self.formats.items()}
        return {"verb": "fakequant", "to": formats, **self.rounding._asdict()}

    def blocks(self, tensor: Tensor) -> int:
        return self.quantizers[tensor.name].block

    def change(self, piece: Piece, words: np.ndarray) -> int:
        """Round words in place; return how many changed."""
        difference = self.quantizers[piece.tensor.name].round(words, piece.first, self.threads)
        self.found[piece.tensor.name].append(difference)
        return difference.changed

    def is_changed(self, piece: Piece, old: np.ndarray, new: np.ndarray) -> bool:
        """Tell whether `new` is what rounding makes of `old`."""
        expected = old.copy()
        self.quantizers[piece.tensor.name].round(expected, piece.first, self.threads)
        return np.array_equal(expected, new)

    def check_written(self, paths: list[Path]) -> None:
        """Scan what was written: every value must be exact in its floating-point format now."""
        parts = tuple(part.at(path) for part, path in zip(self.model.parts, paths, strict=True))
        counted = self._floats()
        if not counted:
            return
        for name, one in scan(replace(self.model, parts=parts, tensors=tuple(counted)), threads=self.threads).items():
            left = one.changed_by_cast(self._format(name), self.rounding.flush_subnormals)
            if left:
                raise VerificationFailed(f"tensor {one.tensor.label}: {left} values are not exact in the format")

    def done(self, planned: Rewrite) -> Rewrite:
        """Return the plan with what was measured while it was carried out."""
        tensors = (change._replace(difference=merged(self.found[change.name])) for change in planned.tensors)
        return replace(planned, tensors=tuple(tensors))


def measure(
    model: Model, pairs: list[tuple[Tensor, Quantizer]], threads: int | None, progress: Progress | None = None
) -> dict[str, Difference]:
    """Round copies of tensors, and tell how far off they are; nothing is written.

    Raises
    ------
    Refused
        A NaN or Inf where values share a scale.
    """
    quantizers = {tensor.name: one for tensor, one in pairs}
    found: dict[str, list[Difference]] = {name: [] for name in quantizers}
    native.expect_work("rounding", sum(tensor.values for tensor, _ in pairs))
    step = stepper(progress, sum(tensor.nbytes for tensor, _ in pairs))
    for tensor, one in pairs:
        one.prepare(partial(_singles, model, tensor))
    for number in sorted({tensor.part for tensor, _ in pairs}):
        tensors = [tensor for tensor, _ in pairs if tensor.part == number]
        for piece, words in read_pieces(model.parts[number], tensors, lambda tensor: quantizers[tensor.name].block):
            name = piece.tensor.name
            found[name].append(quantizers[name].round(words.copy(), piece.first, threads))
            step(piece.stop - piece.start)
    return {name: merged(parts) for name, parts in found.items()}


def _singles(model: Model, tensor: Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """Go through a tensor's values as F32 words."""
    for piece, words in read_pieces(model.parts[tensor.part], [tensor], single_values):
        yield piece.first, to_singles(words, tensor.type)


def _reason(changes: tuple[TensorChange, ...], left: Sequence[Tensor]) -> str:
    """Say in one sentence what changes, or why nothing does, and what is left."""
    stays = f"; left: {count(len(left), 'tensor')} of one dimension, which llama.cpp leaves, too" if left else ""
    return _change(changes) + stays


def _change(changes: tuple[TensorChange, ...]) -> str:
    values, changed = (sum(numbers) for numbers in zip(*(change[1:3] for change in changes), strict=True))
    names = list(dict.fromkeys(change.to for change in changes))
    format = names[0] if len(names) == 1 else "their formats"
    if changed:
        return f"{changed:,} of {values:,} values change: they are not exact in {format}"
    if not values:
        return "nothing changes: there are no values"
    return f"nothing changes: all {values:,} values are exact in {format} already"
