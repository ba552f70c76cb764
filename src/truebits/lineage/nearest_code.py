"""Whether each code of quantized blocks is the nearest to its value, by the blocks' own scales.

Quantizers search for scales, under an importance matrix or without; but with the scales and minima that they
have stored, the best code of a value is the one nearest to it (``quantize_row_q4_K_impl`` and its kin in
``ggml-quants.c`` choose codes anew at the end). Which that is needs no quantizer: blocks are dequantized with
the lowest and the highest code in the place of theirs, and those two tell scale and offset of every value.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from truebits.quantizers.ggml import in_rows

PIECE_VALUES = 1 << 16
"""Looked at together: what is made of them on the way stays in the cache."""

SLACK = 1e-4
"""Of a step, that a value may be nearer to another code: builds of ggml round differently."""

SLACK_OF_OFFSET = 1e-6
"""The same, of an offset's size in steps: so much of it F32 does not tell."""


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


NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FP4 = (-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12)

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
    "IQ4_NL": Codes(32, 18, 2, 18, NONLINEAR, 0.003),
    "IQ4_XS": Codes(256, 136, 8, 136, NONLINEAR, 0.006),
    "MXFP4": Codes(32, 17, 1, 17, FP4, 0, (0x00, 0x77), (7, 14)),
    "TQ2_0": Codes(256, 66, 0, 64, (-1, 0, 1), 0, (0x00, 0xAA)),
}


class NearestCodes:
    """How many codes of one tensor are not the nearest, added up piece by piece.

    Parameters
    ----------
    type : str
        One of `TYPES`.

    Attributes
    ----------
    values, wrong : int
        Looked at, and those whose codes are not the nearest.
    first_wrong : int or None
        The first of these.
    """

    def __init__(self, type: str):
        import gguf

        self.codes = TYPES[type]
        self.number = gguf.GGMLQuantizationType[type]
        self.levels = np.array(self.codes.levels, np.float32)
        middles = np.array([(a + b) / 2 for a, b in pairwise(self.codes.levels)], np.float32)
        self.middles = middles
        self.least = np.concatenate([[-np.inf], middles]).astype(np.float32)
        self.most = np.concatenate([middles, [np.inf]]).astype(np.float32)
        self.values = self.wrong = 0
        self.first_wrong: int | None = None

    def add(self, packed: np.ndarray, stored: np.ndarray, expected: np.ndarray, first: int) -> None:
        """Take in a piece of whole blocks, from value `first` on.

        Parameters
        ----------
        packed : ndarray of uint8
        stored, expected : ndarray of float32, shape (n,)
            What the blocks mean, and what it should be.
        first : int
        """
        nbytes, values = self.codes.nbytes, self.codes.values
        blocks = packed.reshape(-1, nbytes)
        step = PIECE_VALUES // values
        for at in range(0, len(blocks), step):
            part = slice(at * values, (at + step) * values)
            with np.errstate(all="ignore"):  # scales that are 0, NaN or Inf
                wrong = self._wrong(blocks[at : at + step], stored[part], expected[part])
            if self.first_wrong is None and wrong.any():
                self.first_wrong = first + at * values + int(np.argmax(wrong))
            self.values += wrong.size
            self.wrong += int(np.count_nonzero(wrong))

    def _wrong(self, blocks: np.ndarray, stored: np.ndarray, expected: np.ndarray) -> np.ndarray:
        one, other = (self._with(blocks, byte) for byte in self.codes.bytes)
        low, high = (self.levels[end] for end in self.codes.ends)
        unit = (other - one) / (high - low)
        zero = one - unit * low
        own, place = (stored - zero) / unit, (expected - zero) / unit
        code = np.searchsorted(self.middles, own)
        excess = np.maximum(self.least[code] - place, place - self.most[code])
        return excess > SLACK + SLACK_OF_OFFSET * np.abs(zero / unit)

    def _with(self, blocks: np.ndarray, byte: int) -> np.ndarray:
        """Dequantize blocks with a byte in the place of all codes."""
        import gguf

        changed = blocks.copy()
        changed[:, self.codes.first : self.codes.last] = byte
        rows = in_rows(changed.reshape(-1), self.codes.values, self.codes.nbytes)
        values: np.ndarray = gguf.quants.dequantize(rows, self.number).reshape(-1)
        return values

    @property
    def problem(self) -> str | None:
        """Say that too many codes are not the nearest."""
        if self.wrong <= self.codes.not_nearest * self.values:
            return None
        return f"{self.wrong:,} of {self.values:,} codes are not the nearest to their values"
