"""Twin of `truebits_native.kernels.dequantizing`."""

from __future__ import annotations

import numpy as np

from truebits_native.codes import unpack
from truebits_native.types import LAYOUTS

PIECE_VALUES = 1 << 16
"""Taken apart together: what is made of them on the way stays in the cache."""


def dequantized(raw: np.ndarray, type: str) -> np.ndarray:
    """Return the values that blocks stand for.

    Parameters
    ----------
    raw : ndarray of uint8, shape (n,)
        Whole blocks.
    type : str
        A key of `LAYOUTS`.

    Returns
    -------
    ndarray of float32, shape (values,)
    """
    layout = LAYOUTS[type]
    blocks, step = raw.reshape(-1, layout.nbytes), PIECE_VALUES // layout.values
    values = np.empty((len(blocks), layout.values), np.float32)
    for at in range(0, len(blocks), step):
        values[at : at + step] = unpack(blocks[at : at + step].ravel(), type).values(layout.levels)
    return values.ravel()
