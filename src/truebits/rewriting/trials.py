"""What each of several formats would make of a model, with nothing written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

from truebits.errors import Refused, UsageError
from truebits.files.model import Model, Regexes, open_model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.numbers.figures import error_figures
from truebits.numbers.formats import Target
from truebits.numbers.rounding import Rounding, check
from truebits.numbers.spelling import target
from truebits.precision.batches import Progress
from truebits.precision.counting import floating
from truebits.precision.coverage import count
from truebits.quantizers.quantize import quantizer
from truebits.result import Result
from truebits.rewriting.dequantize import as_values
from truebits.rewriting.fakequant import measure
from truebits.rewriting.operation import open_to_rewrite
from truebits.rewriting.rules import bits_per_weight, is_left, only_left
from truebits_native.reference import Difference, merged


class Trial(NamedTuple):
    """What one format would make of a model.

    Attributes
    ----------
    to : str
    bits : float or None
        Per weight of the whole model, shared scales included.
    difference : Difference or None
        None where the format cannot take them.
    problem : str or None
        Why it cannot.
    tensors : int
        How many it rounds.
    """

    to: str
    bits: float | None
    difference: Difference | None
    problem: str | None = None
    tensors: int = 0


@dataclass(frozen=True, repr=False)
class Sweep(Result, Sequence[Trial]):
    """What `sweep` found: a sequence of `Trial`.

    Attributes
    ----------
    file : str
    trials : tuple of Trial
        In the order that the formats were given.
    """

    verb = "fakequant-sweep"
    rows_of_document = "formats"

    file: str
    trials: tuple[Trial, ...]

    @overload
    def __getitem__(self, index: int) -> Trial: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Trial, ...]: ...

    def __getitem__(self, index: int | slice) -> Trial | tuple[Trial, ...]:
        return self.trials[index]

    def __len__(self) -> int:
        return len(self.trials)

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        rows = [
            {
                "to": trial.to,
                "bits_per_weight": trial.bits,
                "problem": trial.problem,
                "tensors": trial.tensors,
                "values": of.values if (of := trial.difference) else None,
                "changed": of.changed if of else None,
                **error_figures(of),
            }
            for trial in self.trials
        ]
        return {"file": self.file, "formats": rows}

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return f"{self.file}: {count(len(self.trials), 'format')} tried"


def sweep(
    source: Model | str | os.PathLike[str],
    formats: Iterable[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    rounding: Rounding | str = "nearest",
    dequantize: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Measure what each of several formats would make of a model's tensors; nothing is written.

    Parameters
    ----------
    source : Model or path-like
    formats : iterable of str
        As `to` of `fakequant`, which has the other parameters, too.

    Returns
    -------
    Sweep
    """
    targets = [target(name) for name in formats]
    if not targets:
        raise UsageError("give formats to compare: --sweep bf16,fp8_e4m3fn,int8")
    how = Rounding.of(rounding)
    for format in targets:
        check(format, how)
    original = open_model(source)
    with as_values(original, dequantize) as values:
        model = open_to_rewrite(values, bool(select))
        tensors = floating(model.select(select, exclude), FLOAT_BYTES, asked=True)
        found = tuple(_tried(model, tensors, format, how, threads, progress) for format in targets)
    return Sweep(str(original.path), found)


def _tried(
    model: Model,
    tensors: list[Tensor],
    format: Target,
    rounding: Rounding,
    threads: int | None,
    progress: Progress | None,
) -> Trial:
    taken = [tensor for tensor in tensors if not is_left(tensor, format)]
    if not taken:
        return Trial(format.name, None, None, only_left(tensors, format.name))
    try:
        pairs = [(tensor, quantizer(format, tensor, model.row(tensor), rounding)) for tensor in taken]
        difference = merged(measure(model, pairs, threads, progress).values())
    except (UsageError, Refused) as error:
        return Trial(format.name, None, None, str(error))
    bits = bits_per_weight(model, [(tensor, format) for tensor in taken])
    return Trial(format.name, bits, difference, tensors=len(taken))
