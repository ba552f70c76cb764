"""The C loops of `yardstick.c`, compiled here and now for this machine."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

SOURCE = Path(__file__).with_name("yardstick.c")
COMPILER = "cc"
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")


def compile_yardstick() -> tuple[ctypes.CDLL | None, str]:
    """Return the library and the compiler's version; without a library, the reason."""
    if shutil.which(COMPILER) is None:
        return None, f"no C compiler: {COMPILER} is not installed"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "yardstick.so"
        command = [COMPILER, *FLAGS, str(SOURCE), "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return None, f"the C yardstick does not compile: {done.stderr.strip().splitlines()[0]}"
        library = ctypes.CDLL(str(path))
    words, size, mask, threads = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint32, ctypes.c_int
    library.low_zero.argtypes, library.low_zero.restype = [words, size, mask, threads], ctypes.c_int64
    library.read_or.argtypes, library.read_or.restype = [words, size, threads], ctypes.c_uint32
    library.and_loop.argtypes, library.and_loop.restype = [words, size, mask, threads], None
    version = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True)
    return library, f"{version.stdout.splitlines()[0]}, {' '.join(FLAGS[:3])}"


def low_zero(library: ctypes.CDLL, words: np.ndarray, bits: int, threads: int) -> int:
    return library.low_zero(words.ctypes.data, words.size, (1 << bits) - 1, threads)


def read_or(library: ctypes.CDLL, words: np.ndarray, threads: int) -> int:
    return library.read_or(words.ctypes.data, words.size, threads)


def and_loop(library: ctypes.CDLL, words: np.ndarray, bits: int, threads: int) -> None:
    library.and_loop(words.ctypes.data, words.size, 0xFFFFFFFF >> bits << bits, threads)
