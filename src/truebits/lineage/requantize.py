"""Blocks made once more of a source's values, by the reference quantizer."""

from __future__ import annotations

import numpy as np

from truebits.lineage.block_error import REFERENCE_VALUES, WORST_RATIO, is_deterministic, reference, squares
from truebits.lineage.comparison import Comparison
from truebits.lineage.detours import Detour
from truebits.quantizers.blocks import block_values

MOSTLY = 0.5
"""Where more blocks than that are the reference quantizer's, and its bytes never vary, the others are wrong."""

SEARCHED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types with an FP16 scale in the first bytes, which under an importance matrix is searched for."""

SCALE_BYTES = 2

CHANCE = 0.03
"""Of the scales that such a search finds, so many are those without one, at most: measured 0.5 to 2.8 %."""


class Requantized:
    """Blocks of a tensor made once more, from its source, by the reference quantizer.

    Parameters
    ----------
    of : Comparison
    through : Detour, optional
        What the values went through before.

    Attributes
    ----------
    blocks, equal, equal_scales : int
        Blocks made of values that are not all zero, and those of them that are equal to the GGUF's, or have its
        scale.
    first_wrong : int or None
        First value of the first block that is not equal.
    """

    def __init__(self, of: Comparison, through: Detour | None = None):
        self.of = of
        self.through = through
        self.type = of.side.tensor.type
        self.budget = of.expected.values if of.settings.thorough else REFERENCE_VALUES
        self.quantize = reference(self.type)
        self.blocks = self.equal = self.equal_scales = 0
        self.first_wrong: int | None = None
        self.squared_error = self.reference_error = 0.0

    def add(self, first: int, values: np.ndarray, stored: np.ndarray) -> None:
        """Take in a piece: values of the source and of the GGUF from value `first` on, in whole blocks."""
        block, nbytes = self.of.side.block
        count = min(values.size, (self.budget - first) // block * block)
        if self.quantize is None or count <= 0:
            return
        values, stored = values[:count], stored[:count]
        before = values if self.through is None else self.through.apply(values)
        with np.errstate(all="ignore"):  # values that are NaN or Inf
            made = self.quantize(before).reshape(-1, nbytes)
        differs = made != self.of.packed(first, count).reshape(-1, nbytes)
        unequal = differs.any(axis=1)
        telling = values.reshape(-1, block).any(axis=1)
        self.blocks += int(np.count_nonzero(telling))
        self.equal += int(np.count_nonzero(telling & ~unequal))
        self.equal_scales += int(np.count_nonzero(telling & ~differs[:, :SCALE_BYTES].any(axis=1)))
        if unequal.any() and self.first_wrong is None:
            self.first_wrong = first + int(np.argmax(unequal)) * block
        self._compare_errors(values, stored, made)

    def _compare_errors(self, values: np.ndarray, stored: np.ndarray, made: np.ndarray) -> None:
        best = block_values(made, self.type)
        with np.errstate(invalid="ignore", over="ignore"):
            self.squared_error += squares(stored - values)
            self.reference_error += squares(best - values)

    @property
    def is_same(self) -> bool:
        return self.quantize is not None and self.first_wrong is None

    @property
    def is_whole(self) -> bool:
        return self.budget >= self.of.expected.values

    @property
    def told(self) -> str:
        """What the values went through before they were quantized."""
        return f"through {self.through.name}" if self.through is not None else ""

    @property
    def ratio(self) -> float:
        """Error over that of the reference quantizer."""
        if not self.reference_error:
            return 1.0 if self.squared_error == 0 else np.inf
        return float(np.sqrt(self.squared_error / self.reference_error))

    @property
    def problem(self) -> str | None:
        """Say what is wrong with blocks that are not the reference quantizer's."""
        if self.quantize is None or self.is_same:
            return None
        if is_deterministic(self.type) and self._is_partly_the_references:
            wrong = f"{self.blocks - self.equal:,} of {self.blocks:,}"
            return f"{wrong} blocks are not the reference quantizer's, the others are"
        if self.ratio > WORST_RATIO:
            return f"error {self.ratio:.3g} times the reference quantizer's"
        return None

    @property
    def _is_partly_the_references(self) -> bool:
        """Tell whether more blocks than by chance are the reference quantizer's, though not all are."""
        if self.type not in SEARCHED:
            return self.equal > MOSTLY * self.blocks
        chance = CHANCE * self.blocks
        return self.equal_scales > chance + 5 * np.sqrt(chance + 1)

    @property
    def described(self) -> str:
        """How much is known of the bytes."""
        if self.quantize is None:
            return "no quantizer at hand to compare bytes with"
        extent = "" if self.is_whole else "first "
        if not self.equal:
            return f"error {self.ratio:.2f} times the reference quantizer's"
        through = f", {self.told}" if self.through else ""
        return f"{self.equal:,} of {extent}{self.blocks:,} blocks the reference quantizer's bytes{through}"
