"""What a child process does instead of running a model: it answers as it is asked to."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from typing import Any

from truebits.evaluation.inference import Failure


def serve(connection: Connection, path: str, settings: Any) -> None:
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        if method == "die":
            os._exit(arguments[0])
        if method == "kill":
            os.kill(os.getpid(), arguments[0])
        if method == "blocked":
            connection.send(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
            continue
        connection.send(Failure("no\x1b") if method == "fail" else (path, method, *arguments))
