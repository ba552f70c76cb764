"""Whether each code of quantized blocks is the nearest to its value, by the blocks' own scales.

Quantizers search for scales, under an importance matrix or without; but with the scales and minima that they
have stored, the best code of a value is the one nearest to it (``quantize_row_q4_K_impl`` and its kin in
``ggml-quants.c`` choose codes anew at the end). Which that is needs no quantizer.
"""

from __future__ import annotations

import numpy as np

from truebits.lineage.cells import CodeCells

PIECE_VALUES = 1 << 16
"""Looked at together: what is made of them on the way stays in the cache."""

SLACK = 1e-4
"""Of a step, that a value may be nearer to another code: builds of ggml round differently."""

SLACK_OF_OFFSET = 1e-6
"""The same, of an offset's size in steps: so much of it F32 does not tell."""


class NearestCodes:
    """How many codes of one tensor are not the nearest, added up piece by piece.

    Parameters
    ----------
    type : str
        One of `truebits.lineage.cells.TYPES`.

    Attributes
    ----------
    values, wrong : int
        Looked at, and those whose codes are not the nearest.
    first_wrong : int or None
        The first of these.
    """

    def __init__(self, type: str):
        self.cells = CodeCells(type)
        self.codes = self.cells.codes
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
            wrong = self._wrong(blocks[at : at + step], stored[part], expected[part])
            if self.first_wrong is None and wrong.any():
                self.first_wrong = first + at * values + int(np.argmax(wrong))
            self.values += wrong.size
            self.wrong += int(np.count_nonzero(wrong))

    def _wrong(self, blocks: np.ndarray, stored: np.ndarray, expected: np.ndarray) -> np.ndarray:
        cells = self.cells.of(blocks, stored)
        with np.errstate(all="ignore"):  # values that are NaN or Inf
            slack = cells.step * (SLACK + SLACK_OF_OFFSET * cells.offset)
            wrong: np.ndarray = (cells.least - expected > slack) | (expected - cells.most > slack)
        return wrong

    @property
    def problem(self) -> str | None:
        """Say that too many codes are not the nearest."""
        if self.wrong <= self.codes.not_nearest * self.values:
            return None
        return f"{self.wrong:,} of {self.values:,} codes are not the nearest to their values"
