"""A model in a process of its own: what it takes of memory goes with it, and its crash is only its own."""

from __future__ import annotations

import errno
import mmap
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any

import numpy as np

from truebits.errors import EvaluationFailed, printable
from truebits.evaluation.inference import Failure, LoadSettings, serve


class Worker:
    """A child process that holds one model.

    Parameters
    ----------
    role : str
        What the model is called in errors.
    path : str
    settings : LoadSettings

    Attributes
    ----------
    name : str
        Role and path.
    process : multiprocessing.Process
    """

    def __init__(self, role: str, path: str, settings: LoadSettings):
        self.name = f"{role} {printable(path)}"
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(theirs, path, settings), name=f"truebits {role}", daemon=True
        )
        with theirs, _no_ctrl_c():
            self.process.start()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Have a method of `Inference` called, and wait for its answer."""
        self.send(method, *arguments)
        return self.receive()

    def send(self, method: str, *arguments: Any) -> None:
        """Ask, but do not wait.

        Raises
        ------
        EvaluationFailed
        """
        try:
            self.connection.send((method, arguments))
        except OSError:
            raise self._death() from None

    def receive(self) -> Any:
        """Wait for the answer to what was sent.

        Raises
        ------
        EvaluationFailed
            It says what went wrong, or the process is dead.
        """
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if isinstance(answer, Failure):
            raise EvaluationFailed(f"{self.name}: {printable(answer.message)}")
        return answer

    def share(self, memory: SharedLogits) -> None:
        """Let it write its logits to memory of ours."""
        self.send("share", *memory.arrays.shape[:2])
        try:
            send_handle(self.connection, memory.descriptor, self.process.pid)
        except OSError:
            raise self._death() from None
        self.receive()

    def _death(self) -> EvaluationFailed:
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return EvaluationFailed(f"{self.name}: its process ended with exit code {code}")
        why = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return EvaluationFailed(f"{self.name}: its process was killed by {signal.Signals(-code).name}{why}")

    def close(self) -> None:
        """End the process at once; it has nothing to put in order."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


@contextmanager
def _no_ctrl_c() -> Iterator[None]:
    """Have children started here never hear of a Ctrl-C, which is for us: we end them.

    They inherit what is blocked here; one that comes meanwhile reaches us at the end.
    """
    resource_tracker.ensure_running()  # which would unblock it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _available() -> int:
    """Return how many bytes of memory are free, or can be made so."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), sys.maxsize)


class SharedLogits:
    """Memory that several processes write logits to, and that has no name that could outlast them.

    Attributes
    ----------
    descriptor : int
    arrays : ndarray of float32, shape (slots, rows, vocabulary)

    Raises
    ------
    OSError
        There is not so much memory.
    """

    def __init__(self, slots: int, rows: int, vocabulary: int):
        size = slots * rows * vocabulary * 4
        if size > (available := _available()):  # the kernel would give it page by page, and then kill for want of more
            held = f"logits of {size / 1e9:,.1f} GB, and {available / 1e9:,.1f} GB of memory are free"
            raise OSError(errno.ENOMEM, f"{held}: ask for fewer chunks")
        self.descriptor = os.memfd_create("truebits logits")
        try:
            os.posix_fallocate(self.descriptor, 0, size)
            self.arrays = np.frombuffer(mmap.mmap(self.descriptor, size), np.float32).reshape(slots, rows, vocabulary)
        except BaseException:
            os.close(self.descriptor)
            raise

    def close(self) -> None:
        """Give the memory back, even where a traceback still knows of this."""
        os.close(self.descriptor)
        del self.arrays
