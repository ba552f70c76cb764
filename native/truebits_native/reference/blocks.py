"""Twin of `truebits_native.kernels.blocks`."""

from __future__ import annotations

import numpy as np

from truebits_native.types import (
    BLOCKS,
    EXPONENTS,
    FACTS,
    GREATEST,
    HALF,
    LAYOUTS,
    LEAST,
    NEGATIVE,
    NO_SCALE,
    SPECIAL,
    USUAL,
    ZERO,
    Ranges,
)


def block_counts(raw: np.ndarray, starts: Ranges, stops: Ranges, type: str) -> np.ndarray:
    """Count what the scales of the blocks of each range ``raw[start:stop]`` are.

    Parameters
    ----------
    raw : ndarray of uint8, shape (n,)
    starts, stops : ndarray of int64, shape (m,)
        Each range holds whole blocks.
    type : str
        A key of `LAYOUTS`.

    Returns
    -------
    ndarray of int64, shape (m, len(FACTS))
    """
    layout, scale = LAYOUTS[type], LAYOUTS[type].scale
    facts = np.zeros((starts.size, len(FACTS)), np.int64)
    for row, (start, stop) in zip(facts, zip(starts, stops, strict=True), strict=True):
        blocks = raw[start:stop].reshape(-1, layout.nbytes)
        stored = blocks[:, layout.scale_at : layout.scale_at + scale.nbytes * layout.scales].copy()
        stored = stored.view(f"<u{scale.nbytes}").astype(np.uint16)
        magnitude = (stored & np.uint16(scale.magnitude)) + np.uint16(scale.first)
        special = magnitude >= scale.special
        if layout.offset_at is not None:
            offset = blocks[:, layout.offset_at : layout.offset_at + 2].copy().view("<u2")
            special |= (offset & np.uint16(HALF.magnitude)) >= HALF.special
        usual = magnitude[(magnitude < scale.special) & (magnitude > 0)].astype(np.int64)
        row[BLOCKS], row[SPECIAL], row[ZERO] = len(blocks), np.count_nonzero(special), np.count_nonzero(magnitude == 0)
        row[NEGATIVE], row[USUAL] = np.count_nonzero(stored > np.uint16(0x8000)), usual.size
        row[LEAST], row[GREATEST] = usual.min(initial=NO_SCALE), usual.max(initial=0)
        row[EXPONENTS] = (usual >> scale.shift).sum()
    return facts
