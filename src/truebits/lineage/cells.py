"""Which values a code of a quantized block stands for: those that no other code is nearer to.

Blocks are dequantized with the lowest and the highest code in the place of theirs: those two tell scale and
offset of every value, for any block type that gguf-py can dequantize.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from truebits.precision.codebooks import IQ4_NL
from truebits.quantizers.blocks import block_values
from truebits_native.types import FLOAT_POINT_FOUR


class Codes(NamedTuple):
    """Where the codes of a block type stand, and what they mean.

    Attributes
    ----------
    values, nbytes : int
        Of a block.
    first, last : int
        Bytes of a block that hold codes and nothing else: the first, and the one after the last.
    levels : tuple of int
        What the codes mean in units of the scale, ascending.
    not_nearest : float
        Share of values, at most, that a quantizer gives another code than the nearest: those that do not
        choose the codes anew for the scale as it is stored, in FP16. Measured by `tests/test_nearest_code.py`.
    bytes : (int, int)
        That give two of the levels in the place of all codes.
    ends : (int, int)
        Which levels these are.
    """

    values: int
    nbytes: int
    first: int
    last: int
    levels: tuple[int, ...]
    not_nearest: float = 0
    bytes: tuple[int, int] = (0x00, 0xFF)
    ends: tuple[int, int] = (0, -1)


def _whole(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


FP4 = tuple(sorted({*FLOAT_POINT_FOUR.tolist()}))

TYPES = {
    "Q8_0": Codes(32, 34, 2, 34, _whole(-127, 127), 0.04, (0x00, 0x7F), (127, 254)),
    "Q4_0": Codes(32, 18, 2, 18, _whole(-8, 7), 0.02),
    "Q4_1": Codes(32, 20, 4, 20, _whole(0, 15), 0.02),
    "Q5_0": Codes(32, 22, 2, 22, _whole(-16, 15), 0.02),
    "Q5_1": Codes(32, 24, 4, 24, _whole(0, 31), 0.02),
    "Q2_K": Codes(256, 84, 16, 80, _whole(0, 3)),
    "Q3_K": Codes(256, 110, 0, 96, _whole(-4, 3)),
    "Q4_K": Codes(256, 144, 16, 144, _whole(0, 15)),
    "Q5_K": Codes(256, 176, 16, 176, _whole(0, 31)),
    "Q6_K": Codes(256, 210, 0, 192, _whole(-32, 31)),
    "IQ4_NL": Codes(32, 18, 2, 18, IQ4_NL, 0.003),
    "IQ4_XS": Codes(256, 136, 8, 136, IQ4_NL, 0.006),
    "MXFP4": Codes(32, 17, 1, 17, FP4, 0, (0x00, 0x77), (7, 14)),
    "TQ2_0": Codes(256, 66, 0, 64, (-1, 0, 1), 0, (0x00, 0xAA)),
}


class Cells(NamedTuple):
    """What values codes stand for; all of shape (n,).

    Attributes
    ----------
    least, most : ndarray of float32
        The ends of each interval; infinite at the first and last code, and where a scale is 0.
    step : ndarray of float32
        Distance between two levels, in units of the scale.
    offset : ndarray of float32
        How many steps zero is from the scale's own: what F32 does not tell grows with it.
    """

    least: np.ndarray
    most: np.ndarray
    step: np.ndarray
    offset: np.ndarray


class CodeCells:
    """The cells of one block type.

    Parameters
    ----------
    type : str
        One of `TYPES`.
    """

    def __init__(self, type: str):
        self.type = type
        self.codes = TYPES[type]
        self.levels = np.array(self.codes.levels, np.float32)
        self.middles = np.array([(a + b) / 2 for a, b in pairwise(self.codes.levels)], np.float32)
        self.least = np.concatenate([[-np.inf], self.middles]).astype(np.float32)
        self.most = np.concatenate([self.middles, [np.inf]]).astype(np.float32)

    def of(self, packed: np.ndarray, stored: np.ndarray) -> Cells:
        """Return the cells of whole blocks.

        Parameters
        ----------
        packed : ndarray of uint8
        stored : ndarray of float32, shape (n,)
            What the blocks mean.
        """
        blocks = packed.reshape(-1, self.codes.nbytes)
        one, other = (self._with(blocks, byte) for byte in self.codes.bytes)
        low, high = (self.levels[end] for end in self.codes.ends)
        with np.errstate(all="ignore"):  # scales that are 0, NaN or Inf
            unit = (other - one) / (high - low)
            zero = one - unit * low
            code = np.searchsorted(self.middles, (stored - zero) / unit)
            ends = zero + unit * self.least[code], zero + unit * self.most[code]
            offset = np.abs(zero / unit)
        is_unscaled = unit == 0
        least = np.where(is_unscaled, -np.inf, np.minimum(*ends)).astype(np.float32)
        most = np.where(is_unscaled, np.inf, np.maximum(*ends)).astype(np.float32)
        return Cells(least, most, np.abs(unit), offset)

    def _with(self, blocks: np.ndarray, byte: int) -> np.ndarray:
        """Dequantize blocks with a byte in the place of all codes."""
        changed = blocks.copy()
        changed[:, self.codes.first : self.codes.last] = byte
        return block_values(changed, self.type)
