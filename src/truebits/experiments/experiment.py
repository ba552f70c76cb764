"""The whole before-and-after story: scan, plan, rewrite, diff, evaluate, and why.

Where the plan says that nothing changes the experiment ends there: the counts are the proof.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from truebits.comparing.diff import Diff, diff
from truebits.errors import Refused, SelectionError, UsageError
from truebits.evaluation.dialogue import read_text
from truebits.evaluation.evaluate import Evaluation, evaluate, evaluate_many
from truebits.evaluation.llama import require_llama
from truebits.files.model import Model, Regexes, open_gguf
from truebits.numbers.figures import error_figures
from truebits.numbers.rounding import Rounding
from truebits.numbers.spelling import target
from truebits.precision.batches import Progress
from truebits.precision.counting import count_words
from truebits.precision.coverage import Coverage
from truebits.precision.report import Report
from truebits.precision.samples import Samples, samples
from truebits.precision.scan import scan
from truebits.result import Result
from truebits.rewriting.dequantize import as_values
from truebits.rewriting.fakequant import fakequant
from truebits.rewriting.operation import Rewrite
from truebits.rewriting.outputs import outputs
from truebits.rewriting.plan import operation_of, plan
from truebits.rewriting.rules import Rule
from truebits.rewriting.temporary import temporary_folder
from truebits.rewriting.truncate import truncate

SHOWN_VALUES = 6


@dataclass(frozen=True, repr=False)
class Experiment(Result):
    """What an experiment did and found.

    Attributes
    ----------
    model : str
        Path of the model.
    operation : str
        What was done to it, as a command says it.
    report : Report
        The scan of the tensors that were selected.
    samples : Samples
        Some values of the first of them.
    types : dict of str to int
        Number of the model's tensors by storage type.
    plan : Rewrite
        What changes, from counts.
    again : int
        Values that the operation changes in its own result: 0.
    candidate : str or None
        Path of the rewritten model, if it was kept.
    diff : Diff or None
        Model against candidate; None where the experiment ended with the plan.
    evaluation : Evaluation or None
        The same, or no text was given.
    coverage : Coverage
        What was compared of the model's tensors; where the plan is the proof, what was counted.
    """

    verb = "experiment"

    model: str
    operation: str
    report: Report = field(repr=False)
    samples: Samples = field(repr=False)
    types: dict[str, int]
    plan: Rewrite
    again: int
    candidate: str | None = None
    diff: Diff | None = field(default=None, repr=False)
    evaluation: Evaluation | None = None
    coverage: Coverage = field(repr=False, default_factory=Coverage)

    @property
    def is_proved(self) -> bool:
        """Nothing changes, so nothing can be measured."""
        return not self.plan.changed

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        plan, total = self.plan, self.diff.total if self.diff else None
        return {
            "model": self.model,
            "operation": self.operation,
            "types": self.types,
            "plan": {"values": plan.values, "changed": plan.changed, "reason": plan.reason},
            "proved_without_effect": self.is_proved,
            "changed_when_done_again": self.again,
            "candidate": self.candidate,
            "difference": {"changed": self.diff.changed, **error_figures(total)} if self.diff else None,
            "evaluation": self.evaluation.content() if self.evaluation else None,
            "coverage": self.coverage.to_dict(),
        }

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return f"{self.operation} of {self.model}: {self.plan.changed:,} of {self.plan.values:,} values change"


class Candidate(NamedTuple):
    """One format of a sweep.

    Attributes
    ----------
    to : str
    bits : float or None
        Per weight of the whole model, shared scales included.
    plan : Rewrite or None
    evaluation : Evaluation or None
        None, as the two before, where the format cannot take the tensors.
    problem : str or None
        Why it cannot.
    """

    to: str
    bits: float | None = None
    plan: Rewrite | None = None
    evaluation: Evaluation | None = None
    problem: str | None = None

    def content(self) -> dict[str, Any]:
        """Return what the JSON document says of it."""
        return {
            "to": self.to,
            "bits_per_weight": self.bits,
            "problem": self.problem,
            "changed": self.plan.changed if self.plan else None,
            **error_figures(self.plan.difference if self.plan else None),
            "evaluation": self.evaluation.content() if self.evaluation else None,
        }


@dataclass(frozen=True, repr=False)
class ExperimentSweep(Result):
    """A model in several formats, each against the model as it is.

    Attributes
    ----------
    model : str
        Its path.
    tensors, values : int
        How many it has, rounded or not.
    candidates : tuple of Candidate
        In the order in which they were asked for.
    """

    verb = "experiment-sweep"
    rows_of_document = "formats"

    model: str
    tensors: int
    values: int
    candidates: tuple[Candidate, ...] = field(repr=False)

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        return {"model": self.model, "formats": [one.content() for one in self.candidates]}

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return f"{Path(self.model).name} in {len(self.candidates)} formats"


def experiment(
    source: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    bits: int | None = None,
    to: str | None = None,
    rules: Iterable[Rule | str] = (),
    text: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    anyway: bool = False,
    dequantize: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Experiment:
    """Lower the precision of a model and find out what that does, and why.

    Parameters
    ----------
    source : Model or path-like
    select, exclude : regex or regexes, optional
    bits, to, rules
        As for `plan`: a cut of low bits, or formats.
    text : path-like, optional
        What perplexity and divergence are measured on; without it the models are only compared value by value.
    out : path-like, optional
        Keep the rewritten model there.
    anyway : bool
        Measure even where the plan says that nothing changes.
    dequantize : bool
        Block-quantized tensors become F32 values first: of the model that is measured, too.
    threads, progress
        As for `scan`.
    **settings
        ``prompts n_ctx chunks rounds answer_tokens seed backend`` of `evaluate`.

    Returns
    -------
    Experiment

    Raises
    ------
    TruebitsError, OSError
        As the steps it takes.
    """
    original = open_gguf(source)
    rules = tuple(rules)
    chosen: dict[str, Any] = {"select": select, "exclude": exclude, "threads": threads}
    with as_values(original, dequantize) as model:
        asked = operation_of(model, select, exclude, bits, to, rules, Rounding(), threads)
        counts = count_words(model, asked.tensors, threads, progress)
        planned, names = asked.plan(progress, counts), {tensor.name for tensor in asked.tensors}
        report = scan(replace(model, tensors=tuple(asked.tensors)), threads=threads, counts=counts)
        shown = samples(model, next(iter(report)), SHOWN_VALUES)
        about = str(original.path), _operation(bits, to, rules, dequantize), report, shown, original.types
        if not planned.changed and not anyway:
            return Experiment(*about, planned, again=0, coverage=Coverage.of(model.tensors, {}, names))
        if text is not None:
            _check_measurable(text, settings.get("backend"))
        with _candidate(model, out) as path:
            _rewrite(model, path, planned, bits, to, rules, chosen, progress)
            again = plan(path, bits=bits, to=to, rules=rules, **chosen).changed
            found = diff(model, path, threads=threads, progress=progress)
            measured = (
                evaluate(model.path, path, text=text, threads=threads, progress=progress, **settings) if text else None
            )
    return Experiment(*about, planned, again, str(out) if out else None, found, measured, found.coverage)


def sweep_experiment(
    source: Model | str | os.PathLike[str],
    formats: Sequence[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    text: str | os.PathLike[str],
    dequantize: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> ExperimentSweep:
    """Evaluate a model in several formats against itself.

    Parameters
    ----------
    source : Model or path-like
    formats : sequence of str
    text : path-like
    select, exclude, dequantize, threads, progress, **settings
        As for `experiment`.

    Returns
    -------
    ExperimentSweep
    """
    if not formats:
        raise UsageError("give formats to compare: --sweep bf16,fp8_e4m3fn,int8")
    _check_measurable(text, settings.get("backend"))
    original = open_gguf(source)
    chosen: dict[str, Any] = {"select": select, "exclude": exclude, "threads": threads}
    with as_values(original, dequantize) as model, temporary_folder() as folder:
        found = {target(to).name: _planned(model, to, chosen) for to in formats}
        able = {to: one.plan for to, one in found.items() if one.plan is not None}
        if not able:
            raise UsageError(f"none of the formats can take the tensors: {next(iter(found.values())).problem}")
        paths = [folder / str(number) / model.parts[0].path.name for number in range(len(able))]
        for path, (to, planned) in zip(paths, able.items(), strict=True):
            path.parent.mkdir()
            _rewrite(model, path, planned, None, to, (), chosen, progress)
        seen = evaluate_many(model.path, paths, text=text, threads=threads, progress=progress, **settings)
    found |= {to: found[to]._replace(evaluation=this) for to, this in zip(able, seen, strict=True)}
    return ExperimentSweep(str(original.path), len(original.tensors), original.values, tuple(found.values()))


def _planned(model: Model, to: str, chosen: dict[str, Any]) -> Candidate:
    """Plan one format of a sweep; that it does not apply is a result too."""
    name = target(to).name
    try:
        planned = fakequant(model, to=to, dry_run=True, **chosen)
    except SelectionError:
        raise
    except (UsageError, Refused) as error:
        return Candidate(name, problem=str(error))
    return Candidate(name, planned.bits_per_weight, planned)


def _check_measurable(text: str | os.PathLike[str], backend: str | None) -> None:
    """Find out before a model is written that it could not be evaluated."""
    require_llama(backend)
    read_text(text)


def _operation(bits: int | None, to: str | None, rules: tuple[Rule | str, ...], dequantized: bool) -> str:
    """Say what is done, as options of a command."""
    first = ["--dequantize"] if dequantized else []
    if bits is not None:
        return " ".join([f"truncate --bits {bits}", *first])
    texts = (f"{rule.regex}={rule.format}" if isinstance(rule, Rule) else rule for rule in rules)
    return " ".join(["fakequant", *first, *([f"--to {to}"] if to else []), *(f"--rule '{text}'" for text in texts)])


@contextmanager
def _candidate(model: Model, out: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Give the path of the rewritten model: one to keep, or one that goes afterwards."""
    if out is not None:
        yield Path(out)
        return
    with temporary_folder() as folder:
        yield folder / model.parts[0].path.name


def _rewrite(
    model: Model,
    path: Path,
    planned: Rewrite,
    bits: int | None,
    to: str | None,
    rules: tuple[Rule | str, ...],
    chosen: dict[str, Any],
    progress: Progress | None,
) -> None:
    """Write the candidate; a copy where nothing changes."""
    if not planned.changed:
        for part, copy in zip(model.parts, outputs(model, path), strict=True):
            shutil.copyfile(part.path, copy)
        return
    write: Callable[..., Rewrite] = truncate if bits is not None else fakequant
    options: dict[str, Any] = {"bits": bits} if bits is not None else {"to": to, "rules": rules}
    write(model, path, progress=progress, **options, **chosen)
