"""Twin of `truebits_native.kernels.quantizing`."""

from __future__ import annotations

import numpy as np

from truebits_native.types import LAYOUTS

PIECE_BLOCKS = 1 << 11
"""Quantized together: what is made of them on the way stays in the cache."""


def quantized(values: np.ndarray, type: str) -> np.ndarray:
    """Quantize values to blocks.

    Parameters
    ----------
    values : ndarray of float32, shape (n,)
        Whole blocks of 32.
    type : {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}

    Returns
    -------
    ndarray of uint8, shape (bytes,)
    """
    blocks = values.reshape(-1, 32)
    raw = np.empty((len(blocks), LAYOUTS[type].nbytes), np.uint8)
    with np.errstate(all="ignore"):  # values that are Inf or NaN, scales beyond F16
        for at in range(0, len(blocks), PIECE_BLOCKS):
            raw[at : at + PIECE_BLOCKS] = _quantized(blocks[at : at + PIECE_BLOCKS], type)
    return raw.ravel()


def _quantized(blocks: np.ndarray, type: str) -> np.ndarray:
    if type == "Q8_0":
        scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
        return np.concatenate([_half(scale), _away(blocks * _inverse(scale)).astype(np.int8).view(np.uint8)], axis=1)
    most = LAYOUTS[type].levels.size - 1
    if LAYOUTS[type].offset_at is None:
        middle = np.float32(most // 2 + 1)
        largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
        scale = largest / -middle
        head, codes = [_half(scale)], blocks * _inverse(scale) + (middle + np.float32(0.5))
    else:
        least = blocks.min(axis=1, keepdims=True)
        scale = (blocks.max(axis=1, keepdims=True) - least) / np.float32(most)
        head, codes = [_half(scale), _half(least)], (blocks - least) * _inverse(scale) + np.float32(0.5)
    whole = np.trunc(codes).astype(np.uint8).clip(0, most)
    if most > 15:
        head.append(np.packbits(whole >> np.uint8(4), axis=1, bitorder="little"))
    return np.concatenate([*head, whole[:, :16] & np.uint8(15) | whole[:, 16:] << np.uint8(4)], axis=1)


def _half(singles: np.ndarray) -> np.ndarray:
    return singles.astype(np.float16).view(np.uint8)


def _inverse(scale: np.ndarray) -> np.ndarray:
    return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def _away(numbers: np.ndarray) -> np.ndarray:
    """Round to the nearest whole number, ties away from zero."""
    floor = np.floor(np.abs(numbers))
    return np.sign(numbers) * (floor + np.floor(2 * (np.abs(numbers) - floor)))
