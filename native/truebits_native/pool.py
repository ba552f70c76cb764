"""Who runs kernels: threads, which do so at once because a kernel holds no lock of the interpreter's.

The caller waits, so that Ctrl-C is answered on the main thread, and no signal meets Numba while it loads or runs a
kernel. Callers share the threads, each no more than it asks for; none are left after a fork, and new ones are made;
where none can be started, the caller does the work.

An exception that a signal's handler raises can come after any call in Python code, also after one that has taken a lock
and before what would release it: whoever needs that lock then waits for ever. So what the caller shares with its
threads is queues, locks and threads of the interpreter itself, not those of `threading` and `concurrent.futures`, and
nothing is imported meanwhile.
"""

from __future__ import annotations

import os
import sys
import threading
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

RUNS = 4
"""Runs of chunks for each thread: as many as make up for one that is slow."""

LOADING: list[Any] = [threading.RLock()]
"""Locks that are held while kernels are imported and compiled: a child could do neither, had the fork come then."""

_jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
_idle: list[bool] = []
"""An entry for each thread that waits for a job."""

_here = threading.local()


class Outcome(NamedTuple):
    """What came of a task: a result, or what was raised."""

    result: Any
    error: BaseException | None = None

    def value(self) -> Any:
        """Return the result, or raise."""
        if self.error is not None:
            raise self.error
        return self.result


Slot = SimpleQueue[Outcome]
"""Where what comes of one task is put."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allowed(threads: int | None) -> int:
    """Return how many threads work when so many are asked for: all cores for None, and never more than cores."""
    return cores() if threads is None else max(1, min(threads, cores()))


def over_runs(work: Callable[[slice], None], chunks: int, threads: int | None = None) -> None:
    """Do `work` on all of so many chunks, a run of them at a time.

    Parameters
    ----------
    work : callable
        Gets the run: it writes rows that no other run writes.
    chunks : int
    threads : int, optional
        As for `allowed`.
    """
    runs = min(chunks, RUNS * allowed(threads))
    borders = [chunks * i // runs for i in range(runs + 1)] if runs else []
    for _ in in_order(work, map(slice, borders, borders[1:]), min(allowed(threads), runs)):
        pass


def in_order(work: Callable[[Task], Result], tasks: Iterable[Task], threads: int | None = None) -> Iterator[Result]:
    """Do `work` on each task, several at a time, and yield the results in the order of the tasks.

    Parameters
    ----------
    work : callable
    tasks : iterable
        Drawn by the threads, one at a time.
    threads : int, optional
        As for `allowed`.

    Yields
    ------
    object
        An exception of `work` or of `tasks` is raised where its result would come. When that, Ctrl-C or the caller
        ends it early, no work is running any more.
    """
    count = allowed(threads)
    if getattr(_here, "is_ours", False) or (count == 1 and threading.current_thread() is not threading.main_thread()):
        yield from map(work, tasks)
        return
    slots: SimpleQueue[Slot | None] = SimpleQueue()
    running, todo = _Running(), iter(tasks)

    def draw() -> tuple[Slot, Task] | None:
        with running.starting:
            if running.is_over:
                return None
            slot: Slot = SimpleQueue()
            try:
                task = next(todo)
            except BaseException as error:
                running.is_over = True
                if not isinstance(error, StopIteration):
                    slot.put(Outcome(None, error))
                    slots.put(slot)
                slots.put(None)
                return None
            running.slots.add(slot)
            slots.put(slot)
            return slot, task

    def help() -> None:
        while drawn := draw():
            slot, task = drawn
            running.do(slot, partial(work, task))

    try:
        if _start(help, count):
            while (slot := slots.get()) is not None:
                yield slot.get().value()
        else:
            yield from map(work, todo)
    finally:
        running.end()


@contextmanager
def beside() -> Iterator[Callable[[Callable[[], Any]], Callable[[], Any]]]:
    """Give a function that begins work beside the caller's; it returns one that waits for the result.

    Where no thread can be started it does the work at once. When the block is left, no work is running any more.
    """
    running = _Running()

    def begin(work: Callable[[], Any]) -> Callable[[], Any]:
        slot: Slot = SimpleQueue()

        def job() -> None:
            with running.starting:
                if running.is_over:
                    return
                running.slots.add(slot)
            running.do(slot, work)

        if not _start(job, 1):
            job()
        return lambda: slot.get().value()

    try:
        yield begin
    finally:
        running.end()


class _Running:
    """What of one caller's work threads are doing.

    Attributes
    ----------
    slots : set of SimpleQueue
        Those of what is being done.
    starting : lock
        Held to begin something.
    is_over : bool
        Nothing may begin any more.
    """

    def __init__(self) -> None:
        self.slots: set[Slot] = set()
        self.starting = allocate_lock()
        self.is_over = False

    def do(self, slot: Slot, work: Callable[[], Any]) -> None:
        """Do what has begun."""
        try:
            outcome = Outcome(work())
        except BaseException as error:
            outcome = Outcome(None, error)
        self.slots.discard(slot)
        slot.put(outcome)

    def end(self) -> None:
        """Wait until nothing is running, whatever comes meanwhile: nobody may write on when the caller goes on."""
        interrupt: BaseException | None = None
        self.is_over = True
        while True:
            try:
                with self.starting:
                    pass  # what was about to begin is among the slots now
                while left := self.slots.copy():
                    left.pop().get()
                break
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


def _start(help: Callable[[], None], count: int) -> int:
    """Give the work to so many threads, or to as many as can be started; returns how many."""
    _heed_forks()
    for started in range(count):
        try:
            _idle.pop()
        except IndexError:
            try:
                start_new_thread(_work, ())
            except RuntimeError:  # no thread to be had, or the interpreter is ending
                return started
        _jobs.put(help)
    return count


def _work() -> None:
    sys.settrace(threading.gettrace())
    _here.is_ours = True
    while True:
        _jobs.get()()
        _idle.append(True)


def _before_fork() -> None:
    for lock in LOADING:
        lock.acquire()


def _after_fork() -> None:
    for lock in reversed(LOADING):
        lock.release()


def _in_child() -> None:
    """Forget the threads: they are the parent's."""
    global _jobs, _here
    _jobs, _here = SimpleQueue(), threading.local()
    _idle.clear()
    _after_fork()


@cache
def _heed_forks() -> None:
    """Register what a fork needs: after `logging` did, whose lock an import may wait for while ours is held."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
