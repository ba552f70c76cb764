"""Two ways to the same result, run in turn.

A machine shared with others changes speed by the minute, so times taken one after the other say
little: each round runs both, and a figure is the median of the rounds' own ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from goals import GOALS, MEASURES

SETTLE_SECONDS = 0.01
"""The C loops' threads spin a while after a loop: ours should not have to share a core with them."""


class Runs(NamedTuple):
    """One side's rounds."""

    seconds: list[float]
    results: list[Any]


def nothing() -> None:
    pass


def alternate(
    benchmark: Any,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    rounds: int,
    prepare: Callable[[], None] = nothing,
) -> tuple[Runs, Runs]:
    """Run theirs, ours, theirs, ours ...; `prepare`, not timed, before each.

    The benchmark's own times are those of ours. With timing disabled there is one round.
    """
    runs_of_ours, runs_of_theirs = Runs([], []), Runs([], [])

    def run(function: Callable[[], Any], runs: Runs) -> None:
        begun = time.perf_counter()
        result = function()
        runs.seconds.append(time.perf_counter() - begun)
        runs.results.append(result)

    def setup() -> None:
        prepare()
        time.sleep(SETTLE_SECONDS)
        run(theirs, runs_of_theirs)
        prepare()
        time.sleep(SETTLE_SECONDS)

    benchmark.pedantic(run, args=(ours, runs_of_ours), setup=setup, rounds=rounds)
    return runs_of_ours, runs_of_theirs


def record(benchmark: Any, ours: list[float], theirs: list[float], result: str, equal: bool | None) -> None:
    """Put the figures into the benchmark's JSON, the result beside them; a wrong result fails.

    `equal` is None where the other side has no result to compare with.
    """
    goal = GOALS[benchmark.name]
    measure = MEASURES[goal.measure]
    figures = [measure.of(a, b) for a, b in zip(ours, theirs, strict=True)]
    benchmark.extra_info.update(
        goal._asdict(),
        ours=median(ours),
        theirs=median(theirs),
        ratio=median(figures),
        spread=[min(figures), max(figures)],
        rounds=len(figures),
        result=result,
        equal=None if equal is None else bool(equal),
    )
    assert equal is None or equal, f"{benchmark.name}: results differ: {result}"
