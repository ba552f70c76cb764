"""Several requests at once, on threads that nobody waits for when it is over: a slow server holds no Ctrl-C up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def at_once(work: Callable[[Job], Result], jobs: Iterable[Job], threads: int) -> Iterator[tuple[Job, Result]]:
    """Do work on so many threads; yield jobs with their results as they are done.

    After an error, or Ctrl-C, nothing new is begun; what is under way is left to itself, and ends with the process.
    """
    todo: SimpleQueue[Job] = SimpleQueue()
    done: SimpleQueue[tuple[Job, Result | None, BaseException | None]] = SimpleQueue()
    jobs, is_over = list(jobs), threading.Event()
    for job in jobs:
        todo.put(job)

    def help() -> None:
        while not is_over.is_set():
            try:
                job = todo.get_nowait()
            except Empty:
                return
            try:
                done.put((job, work(job), None))
            except BaseException as error:
                is_over.set()
                done.put((job, None, error))

    for _ in range(min(threads, len(jobs))):
        threading.Thread(target=help, name="truebits-fetch", daemon=True).start()
    try:
        for _ in jobs:
            job, result, error = done.get()
            if error is not None:
                raise error
            yield job, result  # type: ignore[misc]
    finally:
        is_over.set()
