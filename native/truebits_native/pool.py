"""Who runs kernels: Python threads, which do so at once because a kernel holds no lock of the interpreter's.

The caller waits, so that Ctrl-C is answered on the main thread, and no signal meets Numba while it loads or runs a
kernel. Callers share the threads, each no more than it asks for; none are left after a fork, and new ones are made;
where none can be started, the caller does the work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Task = TypeVar("Task")
Result = TypeVar("Result")

RUNS = 4
"""Runs of chunks for each thread: as many as make up for one that is slow."""

MOST_THREADS = 1 << 12
"""More than anybody asks for: the pool grows with what is asked."""

LOADING: list[Any] = [threading.RLock()]
"""Locks that are held while kernels are imported and compiled: a child could do neither, had the fork come then."""

_executor: ThreadPoolExecutor | None = None
_here = threading.local()


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
    from concurrent.futures import Future  # 10 ms, which small work does not need

    todo, slots, running = iter(tasks), SimpleQueue[Future[Any] | None](), set[Future[Any]]()
    drawing, is_over = threading.Lock(), False

    def draw() -> tuple[Future[Any], Task] | None:
        nonlocal is_over
        with drawing:
            if is_over:
                return None
            slot: Future[Any] = Future()
            try:
                task = next(todo)
            except BaseException as error:
                is_over = True
                if not isinstance(error, StopIteration):
                    slot.set_exception(error)
                    slots.put(slot)
                slots.put(None)
                return None
            running.add(slot)
            slots.put(slot)
            return slot, task

    def help() -> None:
        _here.is_ours = True
        while drawn := draw():
            slot, task = drawn
            try:
                slot.set_result(work(task))
            except BaseException as error:
                slot.set_exception(error)
            running.discard(slot)

    if not _start(help, count):
        yield from map(work, todo)
        return
    try:
        while (slot := slots.get()) is not None:
            yield slot.result()
    finally:
        with drawing:
            is_over = True
        _settle(running)


def _start(help: Callable[[], None], count: int) -> int:
    """Give the work to so many threads, or to as many as can be started; returns how many."""
    global _executor
    executor = _executor = _executor or _new_executor()
    for started in range(count):
        try:
            executor.submit(help)
        except RuntimeError:  # no thread to be had, or the interpreter is ending
            _executor = None  # and with it, work that waits for a thread
            return started
    return count


def _new_executor() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    _heed_forks()
    return ThreadPoolExecutor(MOST_THREADS, "truebits")


def _settle(running: set[Future[Any]]) -> None:
    """Wait until nothing is running, whatever comes meanwhile: nobody may write on when the caller goes on."""
    from concurrent.futures import wait

    interrupt: BaseException | None = None
    while running:
        try:
            wait(running.copy())
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _before_fork() -> None:
    for lock in LOADING:
        lock.acquire()


def _after_fork() -> None:
    for lock in reversed(LOADING):
        lock.release()


def _in_child() -> None:
    """Drop the pool: its threads are the parent's."""
    global _executor, _here
    _executor, _here = None, threading.local()
    _after_fork()


@cache
def _heed_forks() -> None:
    """Register what a fork needs: after `logging` did, whose lock an import may wait for while ours is held."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
