"""Ranges cut into chunks of equal size, so that threads share large and small ones alike."""

from __future__ import annotations

import numpy as np

CHUNK = 1 << 18
"""Words per chunk: 1 MiB of F32. Large enough to stream, small enough to share."""


def cut(starts: np.ndarray, stops: np.ndarray, size: int = CHUNK) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut ranges into chunks of at most `size` words.

    Parameters
    ----------
    starts, stops : ndarray of int64, shape (m,)
    size : int

    Returns
    -------
    owner, begin, end : ndarray of int64, shape (chunks,)
        The range each chunk is of, and its words. Empty ranges have no chunk.
    """
    pieces = -((starts - stops) // size)
    owner = np.repeat(np.arange(starts.size), pieces)
    order = np.arange(owner.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = starts[owner] + order * size
    return owner, begin, np.minimum(begin + size, stops[owner])
