"""A copy of truebits_native in a child process, with kernels for work of any size, and a cache of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import truebits_native

PACKAGE = Path(truebits_native.__file__).parent

KERNELS = """
import numpy as np
import truebits_native as native
native.dispatch.uses_kernel = lambda *_: True
"""


def copied(folder):
    """Copy the package into a folder, without what is cached."""
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / PACKAGE.name


def child(code, path=PACKAGE.parent, **environment):
    """Run code after `KERNELS`, with warnings as errors; return what it printed."""
    paths = os.pathsep.join([str(path), *(str(Path(entry).resolve()) for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-B", "-c", KERNELS + code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
