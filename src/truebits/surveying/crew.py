"""Tasks to workers, and their results together: of a large model, the counts of its ranges."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any

from truebits.precision.counting import Counts
from truebits.surveying.engines import Engine
from truebits.surveying.rows import failed_row
from truebits.surveying.sources import Source
from truebits.surveying.tables import part_of
from truebits.surveying.tasks import Ranges, Reading, count_ranges, finish_model, survey_model

WAITING = 2
"""Tasks for each of several workers that are given out at once: the next is there when one is done."""

LOOK_AFTER = 10.0
"""Seconds without a result, after which one looks whether anybody works."""

DIED = "the process that reads it dies, each time"


@dataclass(eq=False)
class Task:
    """What a worker is to do; `number` is that of a large model's ranges."""

    source: Source
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    number: int = 0


@dataclass
class Large:
    """A model whose ranges are counted by several workers, and what they have counted."""

    ranges: Ranges
    found: dict[int, Counts]


def parts(todo: deque[Source], workers: Engine, reading: Reading) -> Iterator[tuple[Source, bytes]]:
    """Survey models; yield each with its part as it is done."""
    crew = Crew(workers, reading)
    while crew.give(todo):
        done = wait(crew.running, LOOK_AFTER, FIRST_COMPLETED).done
        if not done and not workers.is_there():
            raise CancelledError
        for future in done:
            if future in crew.running and (part := crew.take(future)) is not None:
                yield part


class Crew:
    """What is to be done, what is being done, and what there is of large models."""

    def __init__(self, workers: Engine, reading: Reading):
        self.workers = workers
        self.reading = reading
        self.waiting: deque[Task] = deque()
        self.suspects: deque[Task] = deque()
        self.running: dict[Future[Any], Task] = {}
        self.large: dict[str, Large] = {}

    def give(self, todo: deque[Source]) -> bool:
        """Give the workers what they have room for; tell whether there is anything to wait for."""
        if self.suspects:
            if not self.running:
                self._start(self.suspects[0])
            return True
        room = WAITING * self.workers.workers if self.workers.workers > 1 else 1
        while len(self.running) < room and (self.waiting or todo):
            if not self.waiting:
                source = todo.popleft()
                self.waiting.append(Task(source, survey_model, (source, self.reading)))
            self._start(self.waiting.popleft())
        return bool(self.running)

    def _start(self, task: Task) -> None:
        self.running[self.workers.submit(task.work, *task.arguments)] = task

    def take(self, future: Future[Any]) -> tuple[Source, bytes] | None:
        """Take the result of a task; return a model with its part if that is one."""
        task = self.running.pop(future)
        try:
            outcome = future.result()
        except self.workers.dies:
            if self.workers.renew is not None and not self._died_alone(task):
                return None
            outcome = part_of(failed_row(task.source.name, task.source.state or "", DIED))
        if self.suspects and self.suspects[0] is task:
            self.suspects.popleft()
        part = self._taken(task, outcome)
        return None if part is None else (task.source, part)

    def _died_alone(self, task: Task) -> bool:
        """Tell whether a task killed its worker. Where others ran beside it, all are tried again, one by one."""
        assert self.workers.renew is not None
        self.workers.renew()
        if self.suspects:
            return True
        self.suspects.extend([task, *self.running.values()])
        self.running.clear()
        return False

    def _taken(self, task: Task, outcome: bytes | Ranges | Counts) -> bytes | None:
        """Keep what there is of a large model; return a part."""
        source = task.source
        if task.work is count_ranges and source.name not in self.large:  # another of its ranges could not be counted
            return None
        if isinstance(outcome, bytes):
            self.large.pop(source.name, None)
            self.waiting = deque(other for other in self.waiting if other.source != source)
            return outcome
        if isinstance(outcome, Ranges):
            self.large[source.name] = Large(outcome, {})
            for number, (tensors, starts) in enumerate(zip(outcome.tasks, outcome.starts, strict=True)):
                arguments = (source, outcome.state, tensors, starts, self.reading)
                self.waiting.append(Task(source, count_ranges, arguments, number))
            return None
        large = self.large[source.name]
        large.found[task.number] = outcome
        if len(large.found) == len(large.ranges.tasks):
            counts = [large.found[number] for number in sorted(large.found)]
            self.waiting.appendleft(Task(source, finish_model, (source, large.ranges.state, counts, self.reading)))
        return None
