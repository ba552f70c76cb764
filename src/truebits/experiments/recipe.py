"""A format for each tensor under a budget: where a bit costs least, and what the whole then costs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from truebits.errors import UsageError
from truebits.experiments.bench import Bench
from truebits.experiments.sensitivity import Effect, Sensitivity
from truebits.files.model import Model, open_gguf
from truebits.numbers.formats import GgmlType, Target
from truebits.numbers.spelling import target
from truebits.result import Result
from truebits.rewriting.dequantize import as_values
from truebits.rewriting.rules import KEEP, Pairs, Rule, saved_bits

TRIES = 5
"""Measurements of a whole, each after a correction for what the one before had shown."""

AS_GGML = {"f32": "f32", "fp16": "f16", "bf16": "bf16", "mxfp4": "mxfp4", "nvfp4": "nvfp4"}
"""Formats that llama-quantize has under another name, or with another choice of scales."""


class Whole(NamedTuple):
    """A choice for a whole model, measured.

    Attributes
    ----------
    to : str
        A format for every matrix, or ``recipe``.
    bits : float
        Per weight, of the whole model.
    predicted : float
        The sum of what its parts do alone, nats per token.
    kl, error : float
        Mean divergence of the whole, and its standard error.
    top1 : float
    """

    to: str
    bits: float
    predicted: float
    kl: float
    error: float
    top1: float


class Step(NamedTuple):
    """Taking a tensor from one format to one that saves more."""

    effect: Effect
    saved: int
    kl: float

    @property
    def price(self) -> float:
        return self.kl / self.saved


@dataclass(frozen=True, repr=False)
class Recipe(Result):
    """A format for each matrix of a model.

    Attributes
    ----------
    model, budget : str
    formats : dict of str to str
        By tensor, in file order; ``keep`` where it stays as it is.
    whole : Whole
        The recipe: predicted by what it was found on, and measured on chunks of the text that follow those.
    uniform : tuple of Whole
        Each format for every matrix that it applies to, measured on the same chunks.
    is_met : bool
        The budget is kept, by that measurement.
    settings : dict
        Those of the sensitivities, and ``judged_from_chunk`` and ``judged_chunks`` of the text.
    """

    verb = "recipe"
    rows_of_document = "uniform"

    model: str
    budget: str
    formats: dict[str, str] = field(repr=False)
    whole: Whole
    uniform: tuple[Whole, ...] = field(repr=False)
    is_met: bool
    settings: dict[str, Any] = field(repr=False)

    def rules(self) -> list[Rule]:
        """Return rules as `fakequant` takes them: one for each tensor that is rounded, and all others kept."""
        chosen = [Rule(f"^{re.escape(name)}$", to) for name, to in self.formats.items() if to != KEEP]
        return [*chosen, Rule(".", KEEP)]

    def tensor_types(self) -> list[str]:
        """Return lines for ``llama-quantize --tensor-type-file``.

        Raises
        ------
        UsageError
            A format is none of ggml's.
        """
        kinds = {to: _ggml_name(target(to)) for to in set(self.formats.values()) - {KEEP}}
        return [f"^{re.escape(name)}$={kinds[to]}" for name, to in self.formats.items() if to != KEEP]

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        kept = {"model": self.model, "budget": self.budget, "is_met": self.is_met, "formats": self.formats}
        return {
            **kept,
            "whole": self.whole._asdict(),
            "uniform": [one._asdict() for one in self.uniform],
            "settings": self.settings,
        }

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return f"{self.model} at {self.budget}: {len(self.formats):,} tensors"


def recipe(found: Sensitivity, *, bits: float | None = None, max_kl: float | None = None) -> Recipe:
    """Choose a format for each matrix, and measure the model that this makes.

    Steps to fewer bits are taken in the order of their price, divergence per bit saved: that is the best choice
    where effects add up. Whether they do is measured; where the whole costs more than its parts said, `max_kl`
    is aimed at with so much less. What is found so is judged on text that had no part in it.

    Parameters
    ----------
    found : Sensitivity
        By tensor.
    bits : float, optional
        Bits per weight of the whole model, at most.
    max_kl : float, optional
        Mean divergence, nats per token, at most. Give one of the two.

    Returns
    -------
    Recipe

    Raises
    ------
    UsageError
        Neither or both are given, the sensitivities are not by tensor, no choice has so few bits, or the
        sensitivities have used the whole text: ``held_out=True`` leaves half of it.
    TruebitsError, OSError
        As `sensitivity`.
    """
    check_budget(bits, max_kl)
    if found.by != "tensor":
        raise UsageError(f"a recipe is made of sensitivities by tensor, not by {found.by}")
    names = ("n_ctx", "chunks", "threads")
    native = "native" if found.settings["backend"] == "llama-cpp-python" else "wheel"
    options = {**{name: found.settings[name] for name in names}, "backend": native}
    text, used = found.settings["text"], found.settings["chunks"]
    with as_values(open_gguf(found.model), found.settings["dequantize"]) as model:
        steps = _steps(model, found.effects)
        if bits is not None:
            chosen = _cheapest(model, steps, bits)
        else:
            with closing(Bench(model, text, **options)) as bench:
                chosen = _within(model, bench, steps, float(max_kl))  # type: ignore[arg-type]
        with closing(Bench(model, text, skip=used, **options)) as bench:
            whole = _whole(model, bench, "recipe", chosen.values())
            uniform = [
                _whole(model, bench, to, [one for one in _of_matrices(model, found.effects) if one.to == to])
                for to in found.formats
            ]
            judged = bench.used
    return Recipe(
        model=found.model,
        budget=f"{bits:g} bits per weight" if bits is not None else f"KL {max_kl:g}",
        formats={one.name: chosen[one.name].to if one.name in chosen else KEEP for one in model.tensors},
        whole=whole,
        uniform=tuple(uniform),
        is_met=whole.bits <= bits if bits is not None else whole.kl <= float(max_kl),  # type: ignore[arg-type]
        settings={**found.settings, "judged_from_chunk": used, "judged_chunks": judged},
    )


def check_budget(bits: float | None, max_kl: float | None, for_ggml: Iterable[str] = ()) -> None:
    """Find out before anything is measured that it would be in vain.

    Raises
    ------
    UsageError
        Neither or both budgets are given, or a format that is to be ggml's is not.
    """
    if (bits is None) == (max_kl is None):
        raise UsageError("give a budget: --bits, of the whole model, or --max-kl")
    for name in for_ggml:
        _ggml_name(target(name.strip()))


def _of_matrices(model: Model, effects: Iterable[Effect]) -> list[Effect]:
    """Leave out norms and biases: llama.cpp wants them as they are, and they save nothing."""
    matrices = {tensor.name for tensor in model.tensors if len(tensor.shape) > 1}
    return [effect for effect in effects if effect.group in matrices]


def _steps(model: Model, effects: Iterable[Effect]) -> list[Step]:
    """Return steps by price, each tensor's in the order in which they are taken.

    Of a tensor's formats only those are kept that no mixture of others beats: the lower convex hull of
    divergence over bits saved.
    """
    options: dict[str, list[Effect]] = {}
    for effect in _of_matrices(model, effects):
        options.setdefault(effect.group, []).append(effect)
    return sorted((step for of_one in options.values() for step in _hull(of_one)), key=lambda step: step.price)


def _hull(effects: list[Effect]) -> list[Step]:
    steps: list[Step] = []
    for effect in sorted(effects, key=lambda one: (one.saved, one.kl)):
        saved, kl = (sum(numbers) for numbers in zip(*(step[1:] for step in steps), strict=True)) if steps else (0, 0.0)
        if effect.saved <= saved:
            continue
        step = Step(effect, effect.saved - saved, effect.kl - kl)
        while steps and steps[-1].price >= step.price:
            before = steps.pop()
            step = Step(effect, before.saved + step.saved, before.kl + step.kl)
        steps.append(step)
    return steps


def _cheapest(model: Model, steps: list[Step], bits: float) -> dict[str, Effect]:
    """Take steps until the model is small enough; give back those that were not needed after all."""
    needed = 8 * _nbytes(model) - bits * model.values
    taken: list[Step] = []
    saved = 0
    for step in steps:
        if saved >= needed:
            break
        taken.append(step)
        saved += step.saved
    if saved < needed:
        least = (8 * _nbytes(model) - saved) / model.values
        raise UsageError(f"{bits:g} bits per weight: with these formats the model takes {least:.2f} at least")
    for step in reversed(list(taken)):
        last = next(one for one in reversed(taken) if one.effect.group == step.effect.group)
        if last is step and saved - step.saved >= needed:
            taken.remove(step)
            saved -= step.saved
    return {step.effect.group: step.effect for step in taken}


def _within(model: Model, bench: Bench, steps: list[Step], max_kl: float) -> dict[str, Effect]:
    """Take steps while their sum allows it; where the whole is beyond the limit, aim at so much less."""
    limit = max_kl
    for _ in range(TRIES):
        chosen: dict[str, Effect] = {}
        left, closed = limit, set()
        for step in steps:
            name = step.effect.group
            if name not in closed and step.kl <= left:
                chosen[name] = step.effect
                left -= step.kl
            else:
                closed.add(name)
        whole = _whole(model, bench, "recipe", chosen.values())
        if whole.kl <= max_kl:
            break
        limit *= 0.98 * max_kl / whole.kl
    return chosen


def _whole(model: Model, bench: Bench, to: str, effects: Iterable[Effect]) -> Whole:
    """Measure tensors in their formats, all at once."""
    effects = list(effects)
    tensors = {tensor.name: tensor for tensor in model.tensors}
    pairs: Pairs = [(tensors[effect.group], target(effect.to)) for effect in effects]
    seen = bench.measure(pairs).divergence if pairs else None
    return Whole(
        to=to,
        bits=(8 * _nbytes(model) - saved_bits(model, pairs)) / model.values,
        predicted=sum(effect.kl for effect in effects),
        kl=seen.mean if seen else 0.0,
        error=seen.error if seen else 0.0,
        top1=seen.top1 if seen else 1.0,
    )


def _nbytes(model: Model) -> int:
    return sum(tensor.nbytes for tensor in model.tensors)


def _ggml_name(format: Target) -> str:
    name = format.type.lower() if isinstance(format, GgmlType) else AS_GGML.get(format.name)
    if name is None:
        raise UsageError(f"{format.name} is no type of ggml's: llama-quantize cannot write it")
    return name
