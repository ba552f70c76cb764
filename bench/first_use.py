"""What a process needs the first time, with an empty kernel cache, and the second: in processor seconds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from compare import Runs, alternate

TIMED = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, *sys.argv[1:]], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print("processor seconds:", used.ru_utime + used.ru_stime)
"""


def first_and_second(benchmark: Any, *arguments: str, rounds: int = 3) -> tuple[Runs, Runs]:
    """Run Python with an empty cache, and with the one that leaves behind; results are what it printed."""
    with tempfile.TemporaryDirectory() as filled, tempfile.TemporaryDirectory() as emptied:

        def run(cache: str) -> str:
            command = [sys.executable, "-c", TIMED, *arguments]
            environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

        run(filled)
        return alternate(
            benchmark,
            lambda: run(emptied),
            lambda: run(filled),
            rounds,
            prepare=lambda: shutil.rmtree(emptied, ignore_errors=True),
        )


def processor_seconds(runs: Runs) -> list[float]:
    return [float(re.findall("processor seconds: (.*)", printed)[-1]) for printed in runs.results]
