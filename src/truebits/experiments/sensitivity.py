"""Which tensors matter: one group at a time in a format, the rest as it is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from truebits.errors import UsageError
from truebits.evaluation.llama import require_llama
from truebits.experiments.bench import Bench
from truebits.experiments.journal import Journal
from truebits.files.model import Model, Regexes, open_gguf
from truebits.files.tensor import Tensor
from truebits.numbers.formats import Target
from truebits.numbers.rounding import Rounding
from truebits.numbers.spelling import target
from truebits.precision.batches import Progress
from truebits.precision.counting import floating
from truebits.quantizers.quantize import quantizer
from truebits.result import Result
from truebits.rewriting.dequantize import as_values
from truebits.rewriting.rules import Pairs, saved_bits

ALL = "all"
"""The group of all tensors at once."""

LAYER = re.compile(r"^(\w+\.\d+)\.")

BY: dict[str, Callable[[Tensor], str]] = {
    "tensor": lambda tensor: tensor.name,
    "layer": lambda tensor: found[1] if (found := LAYER.match(tensor.name)) else tensor.name,
    "group": lambda tensor: tensor.group,
}
"""What belongs together."""

KEPT = 0.5
"""Share of a text that a choice may be found on, if it is to be judged on the rest."""

FLOATS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class Effect:
    """What a group of tensors does when it alone is rounded to a format.

    Attributes
    ----------
    group, to : str
    tensors : tuple of str
    values, changed : int
    saved : int
        Bits that the format takes less than the tensors' storage types, shared scales counted.
    kl, error : float
        Mean Kullback-Leibler divergence from the base's predictions, nats per token, and its standard error.
    top1 : float
        Share of tokens for which the most likely token stays the same.
    """

    group: str
    to: str
    tensors: tuple[str, ...] = field(repr=False)
    values: int
    changed: int
    saved: int
    kl: float
    error: float
    top1: float

    @classmethod
    def of(cls, result: dict[str, Any]) -> Effect:
        """Return the effect that a journal's line tells.

        Raises
        ------
        UsageError
            It tells none.
        """
        try:
            return cls(**{one.name: result[one.name] for one in fields(cls)} | {"tensors": tuple(result["tensors"])})
        except (KeyError, TypeError):
            raise UsageError("the journal has a line that is no result: give another name, or remove it") from None

    @property
    def kl_per_bit(self) -> float | None:
        """Nats per token for each bit saved; None where none is."""
        return self.kl / self.saved if self.saved > 0 else None


@dataclass(frozen=True, repr=False)
class Sensitivity(Result):
    """Which tensors of a model matter.

    Attributes
    ----------
    model : str
        Its path.
    by : {"tensor", "layer", "group"}
    formats : tuple of str
    effects : tuple of Effect
        By group, in file order, and format.
    together : tuple of Effect
        All groups at once, by format.
    floor : float
        Mean divergence of an untouched copy.
    left_out : dict of str to str
        Tensors that were not rounded, and why.
    settings : dict
        All that the numbers depend on.
    """

    verb = "sensitivity"
    rows_of_document = "effects"

    model: str
    by: str
    formats: tuple[str, ...]
    effects: tuple[Effect, ...] = field(repr=False)
    together: tuple[Effect, ...] = field(repr=False)
    floor: float
    left_out: dict[str, str] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)

    def is_told(self, effect: Effect) -> bool:
        """Tell whether an effect is more than its error and the floor; where no value changes it is 0, and told."""
        return not effect.changed or effect.kl > max(2 * effect.error, self.floor)

    @property
    def unclear(self) -> tuple[Effect, ...]:
        """Effects that are not told from none: more text is needed."""
        return tuple(effect for effect in self.effects if not self.is_told(effect))

    def of(self, to: str) -> list[Effect]:
        """Return a format's effects, the largest first."""
        return sorted((effect for effect in self.effects if effect.to == to), key=lambda effect: -effect.kl)

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        rows = {
            name: [{**asdict(one), "kl_per_bit": one.kl_per_bit, "is_told": self.is_told(one)} for one in effects]
            for name, effects in (("effects", self.effects), ("together", self.together))
        }
        kept = {"model": self.model, "by": self.by, "formats": list(self.formats), "floor": self.floor}
        return {**kept, **rows, "left_out": self.left_out, "settings": self.settings}

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return f"{self.model}: {len(self.effects):,} groups of tensors, {len(self.formats)} formats"


def sensitivity(
    source: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    to: str | Sequence[str],
    text: str | os.PathLike[str],
    by: str = "tensor",
    n_ctx: int = 512,
    chunks: int | None = None,
    held_out: bool = False,
    dequantize: bool = False,
    threads: int | None = None,
    backend: str | None = None,
    journal: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure what each group of tensors does when it alone is rounded to a format.

    The base's predictions are kept, and one copy of it is changed and put back for each measurement.

    Parameters
    ----------
    source : Model or path-like
    select, exclude : regex or regexes, optional
        Which tensors; all of type F32, F16, BF16 and F64 if not given.
    to : str or sequence of str
        Formats, as for `fakequant`.
    text : path-like
        What is predicted.
    by : {"tensor", "layer", "group"}
        What is rounded together; a group has all blocks' tensors of one name.
    n_ctx, threads, backend
        As for `evaluate`.
    chunks : int, optional
        Of the text; if not given, as many as bring the error of the whole model's divergence in the first
        format below 5 % of it.
    held_out : bool
        Use the first half of the text at most, so that `recipe` can judge its choice on the rest.
    dequantize : bool
        Block-quantized tensors become F32 values first: of the model that is measured, too.
    journal : path-like, optional
        A file for results as they come: where it is there already, what it has is not measured again.
    progress : callable, optional
        Called with (done, total), in measurements.

    Returns
    -------
    Sensitivity

    Raises
    ------
    UsageError
        No format applies to any tensor, or the journal belongs to something else.
    TruebitsError, OSError
        As `evaluate`.
    """
    require_llama(backend)
    if by not in BY:
        raise UsageError(f"by {by!r}: there are {', '.join(BY)}")
    original = open_gguf(source)
    formats = {format.name: format for format in map(target, [to] if isinstance(to, str) else to)}
    record = Journal(journal)
    known = {(one.group, one.to): one for one in map(Effect.of, record.results)}
    settled = next((one["chunks"] for one in record.results if one["changed"]), None)
    options: dict[str, Any] = {
        "n_ctx": n_ctx,
        "chunks": chunks or settled,
        "most": KEPT if held_out else 1.0,
        "threads": threads,
    }
    with ExitStack() as stack:
        model = stack.enter_context(as_values(original, dequantize))
        groups, left_out = _groups(model, formats, by, select, exclude)
        bench = stack.enter_context(closing(Bench(model, text, **options, backend=backend)))
        record.begin(
            {"model or text": bench.digest, "by": by, "n_ctx": n_ctx, "chunks": chunks, "part of the text": held_out}
        )
        found = []
        for done, (group, name, pairs) in enumerate(groups):
            effect = known.get((group, name))
            if effect is None or effect.tensors != tuple(tensor.name for tensor, _ in pairs):
                effect = _measured(bench, group, name, pairs)
                record.add({**asdict(effect), "chunks": bench.used})
            found.append(effect)
            if progress is not None:
                progress(done + 1, len(groups))
        return Sensitivity(
            model=str(original.parts[0].path),
            by=by,
            formats=tuple(formats),
            effects=tuple(effect for effect in found if effect.group != ALL),
            together=tuple(effect for effect in found if effect.group == ALL),
            floor=bench.floor.mean,
            left_out=left_out,
            settings={
                **bench.settings,
                "chunks": bench.used,
                "tokens": bench.used * (n_ctx - 1 - n_ctx // 2),
                "dequantize": dequantize,
            },
        )


def _groups(
    model: Model, formats: dict[str, Target], by: str, select: Regexes, exclude: Regexes
) -> tuple[list[tuple[str, str, Pairs]], dict[str, str]]:
    """Return what to round together to which format, all of a format first; and what cannot be, and why."""
    chosen = model.select(select, exclude)
    left_out = {one.name: f"is {one.type}, not of a floating-point type" for one in chosen if one.type not in FLOATS}
    fitting: dict[str, Pairs] = {name: [] for name in formats}
    for tensor in floating(chosen, FLOATS, asked=bool(select)):
        for name, format in formats.items():
            try:
                quantizer(format, tensor, model.row(tensor), Rounding())
            except UsageError as error:
                left_out[tensor.name] = str(error)
            else:
                fitting[name].append((tensor, format))
    members: dict[tuple[str, str], Pairs] = {}
    for name, pairs in fitting.items():
        members.setdefault((ALL, name), pairs)
    for name, pairs in fitting.items():
        for tensor, format in pairs:
            members.setdefault((BY[by](tensor), name), []).append((tensor, format))
    found = [(group, name, pairs) for (group, name), pairs in members.items() if pairs]
    if not found:
        raise UsageError(f"no tensor can be rounded so: {next(iter(left_out.values()))}")
    return found, left_out


def _measured(bench: Bench, group: str, to: str, pairs: Pairs) -> Effect:
    difference, seen = bench.measure(pairs)
    return Effect(
        group=group,
        to=to,
        tensors=tuple(tensor.name for tensor, _ in pairs),
        values=difference.values,
        changed=difference.changed,
        saved=saved_bits(bench.scratch.model, pairs),
        kl=seen.mean if seen else 0.0,
        error=seen.error if seen else 0.0,
        top1=seen.top1 if seen else 1.0,
    )
