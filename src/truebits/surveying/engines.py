"""Who does the work of a survey: this process, processes beside it, or the workers of a Dask cluster.

All are executors as `concurrent.futures` has them. A process that is left alone ends, however its parent did: it holds
one end of a pipe of which the parent has the other.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from logging import CRITICAL
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from truebits.errors import MissingExtra, UsageError

LOCAL = "local"


class Engine(NamedTuple):
    """An executor.

    Attributes
    ----------
    submit : callable
        As `concurrent.futures.Executor.submit`.
    workers : int
        How many there are.
    dies : tuple of exception types
        What a future raises where the process that did the work has died, and will not do it again.
    renew : callable or None
        What makes the executor work again after that, where it does not by itself.
    is_there : callable
        Tells whether anything is to be expected of it still.
    """

    submit: Callable[..., Future[Any]]
    workers: int
    dies: tuple[type[BaseException], ...] = ()
    renew: Callable[[], None] | None = None
    is_there: Callable[[], bool] = lambda: True


class Here(Executor):
    """Does what it is given at once."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def engine(jobs: int, cluster: str | None) -> Iterator[Engine]:
    """Give who does the work, until the block ends; then nobody works any more.

    Parameters
    ----------
    jobs : int
        Processes of this machine; with one, this process does all.
    cluster : str, optional
        ``local`` for a cluster of Dask's own on this machine, or a scheduler's address.
    """
    if cluster is not None:
        with _dask(cluster, jobs) as found:
            yield found
    elif jobs == 1:
        yield Engine(Here().submit, 1)
    else:
        with _Processes(jobs) as processes:
            yield processes.engine


class _Processes:
    """Processes of this machine, which are killed at the end, and made anew where one has died."""

    def __init__(self, jobs: int):
        self.jobs = jobs
        self.engine = Engine(self._submit, jobs, (BrokenExecutor,), self._renew)

    def __enter__(self) -> _Processes:
        self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def _start(self) -> None:
        context = get_context("spawn")
        reading, self.writing = context.Pipe(duplex=False)
        self.executor = ProcessPoolExecutor(self.jobs, context, _begin, (reading,))

    def _stop(self) -> None:
        self.writing.close()
        self.executor.shutdown(cancel_futures=True)

    def _renew(self) -> None:
        self._stop()
        self._start()

    def _submit(self, work: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        return self.executor.submit(work, *arguments)


def _begin(alive: Connection) -> None:
    """Begin as a worker: Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()


def _end_with_parent(alive: Connection) -> None:
    alive.poll(None)
    os._exit(0)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Start processes that leave Ctrl-C to this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _dask(address: str, jobs: int) -> Iterator[Engine]:
    """Give the workers of a cluster; the scheduler gives the work of one that dies to others, three times."""
    try:
        from distributed import Client, KilledWorker, LocalCluster
    except ImportError:
        raise MissingExtra("A survey on a cluster", "distributed") from None
    if address == LOCAL:
        with _ctrl_c_ignored():
            cluster = LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None, silence_logs=CRITICAL)
        with cluster, Client(cluster) as client:
            yield Engine(client.get_executor(pure=False).submit, jobs, (KilledWorker,))
        return
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(f"no scheduler of Dask's answers at {address}: {error}") from None
    with client:
        workers = sum(client.nthreads().values())
        submit = client.get_executor(pure=False).submit
        try:
            yield Engine(submit, max(1, workers), (KilledWorker,), is_there=lambda: client.status != "closed")
        except CancelledError:
            told = "the scheduler is gone, or was told to stop: run it again, it goes on"
            raise ConnectionResetError(errno.ECONNRESET, told, address) from None
