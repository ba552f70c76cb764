"""What is said of each result besides its figures by tensor: the verdict in lines, then sections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from truebits.errors import printable, shortened
from truebits.report.sections import Section
from truebits.report.table import Table
from truebits.result import Result

if TYPE_CHECKING:
    from truebits.comparing.diff import Diff
    from truebits.evaluation.evaluate import Evaluation
    from truebits.experiments.experiment import Experiment, ExperimentSweep
    from truebits.experiments.recipe import Recipe
    from truebits.experiments.sensitivity import Sensitivity
    from truebits.lineage.kin import Siblings
    from truebits.lineage.ranking import Ranking
    from truebits.lineage.traces import Trace
    from truebits.precision.gate import Gate
    from truebits.precision.report import Report
    from truebits.surveying.answers import Survey

WIDTH, MOST_RUNS = 100, 200
"""Columns of the verdict's lines, and runs of rows that are listed."""


class Told(NamedTuple):
    """What is said of a result.

    Attributes
    ----------
    of : str
        The model, or the models.
    lines : list of (str, str)
        The verdict, each line with its kind: ``error``, ``warning`` or nothing.
    sections : list of Section
    measured : str
        On which text, where models ran.
    """

    of: str
    lines: list[tuple[str, str]]
    sections: list[Section]
    measured: str = ""


def told(result: Result) -> Told:
    """Say what a result comes to; its summary, where nothing more is known of it."""
    return _TOLD.get(result.verb, lambda one: Told("", [("", one.summary)], []))(result)


def _name(path: str) -> str:
    return printable(Path(path).name or path)


def _said(*lines: str) -> list[tuple[str, str]]:
    return [("", line) for line in lines]


def _measured(settings: dict[str, Any]) -> str:
    return f"{_name(settings['text'])}, {settings['chunks']:,} chunks of {settings['n_ctx']:,} tokens"


def _scanned(report: Report) -> Told:
    from truebits.report import listing, screen, text

    runs = text.row_runs(report)
    more = [f"and {len(runs.rows) - MOST_RUNS:,} more"] if len(runs.rows) > MOST_RUNS else []
    rows = Section("Runs of rows", [Table(runs.columns, runs.rows[:MOST_RUNS]), *more])
    of, lines = shortened(listing.name_of(report.model)), list(screen.lines(report, WIDTH, more=False))
    return Told(of, lines, [rows])


def _checked(gate: Gate) -> Told:
    from truebits.report.gate import line

    return Told(_name(gate.file), [("error" if gate.failed else "", line(gate))], [])


def _compared(found: Diff) -> Told:
    from truebits.report import figures

    sections = [
        Section("What differs", [figures.diff(found, by_tensor=False)]),
        Section("Where", [figures.places(found)]),
        Section("What else", [*figures.differences(found)]),
    ]
    return Told(f"{_name(found.a)} and {_name(found.b)}", _said(figures.verdict(found)), sections)


def _traced(found: Trace) -> Told:
    from truebits.report import trace

    sections = [
        Section("What became of each", [trace.groups(found)]),
        Section("Altered", [trace.places(found)]),
        Section("What else", [*trace.remarks(found)]),
    ]
    return Told(f"{_name(found.gguf)} from {_name(found.source)}", _said(trace.verdict(found)), sections)


def _related(found: Siblings) -> Told:
    from truebits.report import siblings as kin

    sections = [
        Section("Models", [kin.models(found)]),
        Section("What they are to A", [kin.groups(found), *kin.remarks(found)]),
    ]
    return Told(", ".join(_name(one.path) for one in found.models), _said(*kin.conclusions(found)), sections)


def _ranked(found: Ranking) -> Told:
    from truebits.report import rank

    sections = [
        Section("Models", [rank.models(found)]),
        Section("Error by group", [rank.groups(found), *rank.remarks(found)]),
    ]
    return Told(f"quantizations of {_name(found.source)}", _said(f"{found.conclusion}."), sections)


def _experiment(done: Experiment) -> Told:
    from truebits.report import experiment as story

    sections = [section for section in story.story(done) if section.heading != "Conclusion"]
    of, verdict = f"{done.operation} of {_name(done.model)}", _said(story.conclusion(done))
    return Told(of, verdict, sections, _measured(done.evaluation.settings) if done.evaluation else "")


def _swept(found: ExperimentSweep) -> Told:
    from truebits.report import experiment as story

    verdict = _said(story.sweep_conclusion(found))
    settings = next(one.evaluation.settings for one in found.candidates if one.evaluation)
    return Told(printable(found.summary), verdict, story.swept(found), _measured(settings))


def _evaluated(found: Evaluation) -> Told:
    from truebits.report import experiment as story

    of = f"{_name(found.candidate)} against {_name(found.base)}"
    return Told(of, _said(story.effect(found)), story.evaluated(found), _measured(found.settings))


def _sensitive(found: Sensitivity) -> Told:
    from truebits.report import sensitivity as matter

    verdicts = _said(*(f"{whole.to}: {matter.verdict(found, whole)}" for whole in found.together))
    of = f"{_name(found.model)}, one {found.by} at a time"
    return Told(of, verdicts, matter.ranked(found), _measured(found.settings))


def _chosen(found: Recipe) -> Told:
    from truebits.report import sensitivity as matter

    return Told(_name(found.model), _said(matter.kept(found)), matter.chosen(found))


def _surveyed(found: Survey) -> Told:
    from truebits.report import survey

    sections = [Section(f"By {table.columns[0]}", [table]) for table in survey.tables(found)]
    wrong = Section("What is wrong with some", [line for _, line in survey.examples(found)])
    return Told(f"{found.models:,} models", list(survey.verdict(found)), [*sections, wrong])


_TOLD: dict[str, Callable[[Any], Told]] = {
    "scan": _scanned,
    "check": _checked,
    "diff": _compared,
    "trace": _traced,
    "trace-siblings": _related,
    "rank": _ranked,
    "experiment": _experiment,
    "experiment-sweep": _swept,
    "eval": _evaluated,
    "sensitivity": _sensitive,
    "recipe": _chosen,
    "survey": _surveyed,
}
"""By the result's verb."""
