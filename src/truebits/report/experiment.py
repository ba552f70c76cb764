"""The experiment's report: what was there, what was done, what was measured, why, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from truebits.errors import printable
from truebits.evaluation.dialogue import Answer
from truebits.evaluation.evaluate import Evaluation
from truebits.evaluation.scores import Divergence, Perplexity, Timing
from truebits.experiments.experiment import Experiment, ExperimentSweep
from truebits.report import text
from truebits.report.sections import Section
from truebits.report.table import Scientific, Table, percent

SHOWN_ANSWER = 160
"""Characters of an answer in the report."""


def story(of: Experiment) -> list[Section]:
    """Tell an experiment."""
    sections = [Section("What is there", [_types(of), _groups(of)]), Section("What was done", _done(of))]
    if of.evaluation is not None or of.diff is not None:
        sections.append(Section("What was measured, before against after", [_measures(of)]))
    if of.evaluation is not None:
        sections.append(Section("How the text was predicted", _predicted(of.evaluation)))
        sections.append(Section("What was answered", [_answers(of.evaluation.answers)]))
    sections.append(Section("What proves it", _proofs(of)))
    sections.append(Section("Conclusion", [conclusion(of)]))
    return sections


def evaluated(of: Evaluation) -> list[Section]:
    """Tell an evaluation of two models."""
    table = Table(("measure", "result", "why"))
    table.rows = [("perplexity", *_perplexity(of)), ("dialogue", *_dialogue(of.answers)), *_timings(of)]
    return [
        Section("What was measured, base against candidate", [table]),
        Section("How the text was predicted", _predicted(of)),
        Section("What was answered", [_answers(of.answers)]),
    ]


def _types(of: Experiment) -> Table:
    table = Table(("type", "tensors"))
    table.rows = list(of.types.items())
    return table


def _groups(of: Experiment) -> Table:
    return text.precision(text.rows_of(of.report, by_tensor=False), 16)


def _done(of: Experiment) -> list[str | Table]:
    reason = of.plan.reason[0].upper() + of.plan.reason[1:]
    return [f"`{of.operation}`. {reason}.", f"{of.coverage}"]


def _measures(of: Experiment) -> Table:
    """The report's table: four measures, and the reason for each."""
    table = Table(("measure", "result", "why"))
    if of.diff is not None:
        table.rows.append(("numeric difference", _numeric(of), _why_numeric(of)))
    if of.evaluation is not None:
        table.rows += [
            ("perplexity", *_perplexity(of.evaluation)),
            ("dialogue", *_dialogue(of.evaluation.answers)),
            *_timings(of.evaluation),
        ]
    return table


def _numeric(of: Experiment) -> str:
    assert of.diff is not None
    if not of.diff.changed:
        return "0"
    total = of.diff.total
    return f"{of.diff.changed:,} of {of.plan.values:,} values, RMS {total.rms:.2e}, SNR {total.snr_db:.1f} dB"


def _why_numeric(of: Experiment) -> str:
    if of.plan.changed:
        return f"the plan said {of.plan.changed:,}, from counts alone"
    return "every value is exact already"


def _perplexity(of: Evaluation) -> tuple[str, str]:
    base, candidate, seen = of.perplexity_base, of.perplexity_candidate, of.divergence
    shown = f"{base.value:.4f} to {candidate.value:.4f}"
    if not seen.changed:
        return f"identical, {base.value:.4f}", "not one logit differs"
    if abs(seen.log_ratio) <= 2 * seen.log_ratio_error:
        return (
            shown,
            f"not told from no change: {_signed(seen.log_ratio)} +- {seen.log_ratio_error:.1e} in its logarithm",
        )
    return shown, f"{_signed(seen.log_ratio)} +- {seen.log_ratio_error:.1e} in its logarithm"


def _signed(number: float) -> str:
    return f"{number:+.1e}"


def _dialogue(answers: Sequence[Answer]) -> tuple[str, str]:
    parted = [answer for answer in answers if answer.first_difference is not None]
    if not parted:
        return f"all {len(answers)} answers identical", "the most likely token is the same each time"
    gaps = [answer.gap for answer in parted if answer.gap is not None]
    return (
        f"{len(parted)} of {len(answers)} answers part",
        f"where they do the base's first two logits are {min(gaps):.3f} to {max(gaps):.3f} apart",
    )


def _timings(of: Evaluation) -> list[tuple[str, str, str]]:
    rows = []
    for name, timing, unit, factor in (("load time", of.load, "ms", 1e3), ("speed", of.speed, "tokens/s", 1.0)):
        if timing is not None:
            shown = f"{timing.base * factor:.1f} to {timing.candidate * factor:.1f} {unit}"
            rows.append((name, shown, _verdict(timing, unit, factor)))
    return rows


def _verdict(timing: Timing, unit: str, factor: float) -> str:
    interval = f"{timing.low * factor:+.1f} to {timing.high * factor:+.1f} {unit}, 99 %"
    return f"{timing.verdict}: {interval}, {len(timing.base_rounds)} rounds"


def _predicted(of: Evaluation) -> list[str | Table]:
    return [_predictions(of), effect(of), computed_by(of.settings)]


def computed_by(settings: dict[str, Any]) -> str:
    """Say what computed the predictions."""
    flags = (flag.split() for flag in settings["cpu_features"].removeprefix("CPU : ").split("|"))
    on = (name for name, _, value in flags if value == "1")
    return (
        f"By llama.cpp from {settings['backend']} {settings['backend_version']} ({' '.join(on)}): "
        f"{settings['chunks']:,} chunks of {settings['n_ctx']:,} tokens, {settings['threads']} threads. "
        "+- is one standard error over tokens."
    )


def _predictions(of: Evaluation) -> Table:
    table = Table(("per token", "candidate against base", "base against itself"))
    for name, show in DIVERGENCES.items():
        table.rows.append((name, show(of.divergence), show(of.floor)))
    table.rows.append(("perplexity", _with_error(of.perplexity_candidate), _with_error(of.perplexity_base)))
    return table


DIVERGENCES: dict[str, Callable[[Any], str]] = {
    "KL divergence, mean": lambda of: f"{of.mean:.3e} +- {of.error:.1e}",
    "median": lambda of: f"{of.median:.3e}",
    "90 %": lambda of: f"{of.p90:.3e}",
    "95 %": lambda of: f"{of.p95:.3e}",
    "99 %": lambda of: f"{of.p99:.3e}",
    "99.9 %": lambda of: f"{of.p999:.3e}",
    "largest": lambda of: f"{of.max:.3e}",
    "same most likely token": lambda of: f"{100 * of.top1:.3f} % +- {100 * of.top1_error:.3f}",
    "right token's probability, mean change": lambda of: f"{of.right_change:+.2e}",
    "right token's probability, RMS change": lambda of: f"{of.right_rms:.2e}",
    "tokens with any logit changed": lambda of: f"{of.changed:,} of {of.tokens:,}",
}


def _with_error(of: Perplexity) -> str:
    return f"{of.value:.4f} +- {of.error:.4f}"


def effect(of: Evaluation) -> str:
    """Say whether predictions move more than a repetition moves them."""
    if not of.has_effect:
        return "No effect: nothing is above what decoding the same model twice gives."
    return "An effect: more than what decoding the same model twice gives."


def _answers(answers: Sequence[Answer]) -> Table:
    table = Table(("prompt", "base", "candidate", "same tokens", "gap"))
    for answer in answers:
        same = "all" if answer.first_difference is None else f"{answer.first_difference}, then not"
        texts = (_shortened(part) for part in (answer.prompt, answer.base, answer.candidate))
        table.rows.append((*texts, same, None if answer.gap is None else f"{answer.gap:.3f}"))
    return table


def _shortened(said: str) -> str:
    shown = printable(said).replace("|", "/")
    return shown if len(shown) <= SHOWN_ANSWER else shown[: SHOWN_ANSWER - 3] + "..."


def _proofs(of: Experiment) -> list[str | Table]:
    """Three verifications: bits by hand, the operation on its own result, and how far it reaches."""
    exact = sum(change.changed == 0 for change in of.plan.tensors)
    again = f"Done again to its own result, the operation changes {of.again:,} values."
    if not of.plan.changed:
        again = "The operation is the identity on every value here: the plan counts 0 changes, bit for bit."
    return [
        f"By hand, some values of `{printable(of.samples.name)}`, the low 16 bits apart:",
        text.bits_view(of.samples, 16),
        again,
        f"Range: {exact:,} of {len(of.plan.tensors):,} tensors do not change at all; "
        f"of all values {percent(of.plan.values - of.plan.changed, of.plan.values)} do not.",
    ]


def conclusion(of: Experiment) -> str:
    """What follows, in plain words, from the counts and from what was measured."""
    origins = "; ".join(
        f"The {type} values' origin is {origin.format}: {origin.reason}" for type, origin in of.report.origins().items()
    )
    if of.is_proved:
        reason = of.plan.reason[0].upper() + of.plan.reason[1:]
        said = f"{reason}. Not one bit of the model can change, so nothing can be measured"
        if of.evaluation is not None:
            found = "and nothing was" if not of.evaluation.has_effect else "BUT SOMETHING WAS: please report this"
            return f"{said}, {found}. {origins}."
        return f"{said}. {origins}."
    share = percent(of.plan.changed, of.plan.values)
    part = percent(of.plan.values, of.coverage.values)
    which = "values" if of.plan.values == of.coverage.values else f"selected values ({part} of the model's)"
    said = f"{share} of the {which} change. {origins}."
    if of.evaluation is None:
        return f"{said} What that does to the model was not measured: give a text (--text)."
    seen = of.evaluation.divergence
    if not of.evaluation.has_effect:
        return (
            f"{said} The model's predictions do not change by more than a repetition changes them: no effect was found."
        )
    parted = sum(answer.first_difference is not None for answer in of.evaluation.answers)
    return (
        f"{said} The model's predictions move by a mean KL divergence of {seen.mean:.2e} +- {seen.error:.1e} nats per "
        f"token; the most likely token stays the same for {100 * seen.top1:.2f} %, and {parted} of "
        f"{len(of.evaluation.answers)} answers part. {_size(seen)}"
    )


def _size(seen: Divergence) -> str:
    if abs(seen.log_ratio) <= 2 * seen.log_ratio_error:
        return "Perplexity does not tell this from no change, at two standard errors; the divergence does."
    direction = "worse" if seen.log_ratio > 0 else "better"
    return f"Perplexity gets {direction} by {100 * abs(seen.log_ratio):.3g} %."


def swept(of: ExperimentSweep) -> list[Section]:
    """Tell a sweep: how much of the model was rounded, which formats cannot take it, what each of the others does."""
    plan = next(one.plan for one in of.candidates if one.plan is not None)
    rounded = (
        f"{len(plan.tensors):,} of {of.tensors:,} tensors are rounded, "
        f"{percent(plan.values, of.values)} of the weights; bits are of the whole model."
    )
    problems = [f"{one.to}: n/a: {one.problem}" for one in of.candidates if one.problem]
    return [Section("What each format does", [sweep_conclusion(of), rounded, *problems, _comparisons(of)])]


def sweep_conclusion(of: ExperimentSweep) -> str:
    """Which formats have no effect, and which of the others have the least and the most."""
    seen = [(one, one.evaluation) for one in of.candidates if one.evaluation is not None]
    without = [one.to for one, evaluation in seen if not evaluation.has_effect]
    told = [f"No effect of {', '.join(without)} was found."] if without else []
    moved = sorted((pair for pair in seen if pair[1].has_effect), key=lambda pair: pair[1].divergence.mean)
    for which, (one, evaluation) in zip(("Least", "Most"), (moved[0], moved[-1]) if moved[1:] else moved, strict=False):
        mean = f"{evaluation.divergence.mean:.1e}"
        told.append(f"{which} moved by {one.to}, {one.bits:.2f} bits per weight: {mean} nats per token.")
    return " ".join(told)


def _comparisons(of: ExperimentSweep) -> Table:
    """What each format of a sweep does to the model."""
    columns = ("format", "bits", "changed", "SNR dB", "perplexity", "mean KL", "+-", "99 % KL", "same top")
    table = Table((*columns, "answers part", "effect"))
    for one in of.candidates:
        if one.plan is None or one.evaluation is None:
            table.rows.append((one.to, *(None,) * (len(table.columns) - 2), "n/a"))
            continue
        seen = one.evaluation.divergence
        parted = sum(answer.first_difference is not None for answer in one.evaluation.answers)
        snr = one.plan.difference.snr_db if one.plan.difference else None
        table.rows.append(
            (
                one.to,
                one.bits,
                percent(one.plan.changed, one.plan.values),
                snr,
                f"{one.evaluation.perplexity_candidate.value:.4f}",
                Scientific(seen.mean),
                Scientific(seen.error),
                Scientific(seen.p99),
                f"{100 * seen.top1:.2f} %",
                f"{parted} of {len(one.evaluation.answers)}",
                "yes" if one.evaluation.has_effect else "none",
            )
        )
    return table
