"""Twin or kernel: which of the two does a piece of work, and what both ask of their words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

LOADED_WORDS = 1 << 14
"""From this many words on a kernel that is in memory beats its twin."""

UNLOADED_WORDS = {
    "matching_counts": 1 << 27,
    "differing_count": 1 << 26,
    "profiles": 1 << 23,
    "truncate": 1 << 25,
    "rounding": 1 << 21,
    "blocks": 1 << 25,
}
"""From this many words on it is worth importing Numba (about 0.5 s) for one call."""


def uses_kernels(name: str, words: int) -> bool:
    """Tell whether work on so many words goes to the Numba kernel or to the NumPy twin."""
    return words >= (LOADED_WORDS if "numba" in sys.modules else UNLOADED_WORDS[name])


def expect_work(name: str, words: int) -> None:
    """Say how many words will come in several calls, so that kernels worth it are loaded before the first."""
    if uses_kernels(name, words):
        import numba  # noqa: F401


def check_bits(bits: int) -> None:
    if not 1 <= bits <= 31:
        raise ValueError(f"bits is {bits}, allowed are 1 to 31")


def check_words(words: np.ndarray, dtype: np.dtype | type) -> None:
    if words.dtype != dtype or words.ndim != 1:
        raise TypeError(
            f"words must be 1-D {np.dtype(dtype).name}, not {words.ndim}-D {words.dtype}: use array.ravel().view(...)"
        )


def readable(words: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Return a read-only view of aligned, contiguous words: a copy only where they are not."""
    check_words(words, dtype)
    view = np.require(words, requirements=["C", "A"])[:]
    view.flags.writeable = False
    return view


@contextmanager
def on_threads(threads: int | None) -> Iterator[None]:
    """Run kernels on so many threads, at most as many as Numba started with."""
    if threads is None:
        yield
        return
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))
    try:
        yield
    finally:
        numba.set_num_threads(before)
