"""BlockProfile: what the codes and scales of block-quantized tensors tell.

A *code* is the number a value is stored as; a *group* is what has a scale of its own: a block of Q4_0, an eighth of
one of Q4_K. A group that uses few of the codes it could use, or only one, wastes bits or was made from something
coarser; one whose values are all zero is dead. Counts add up: chunks to tensors, tensors to groups of tensors.

The scales of all blocks are read: one NaN, Inf or zero may hide anywhere. Codes are those of a sample, the blocks that
the verdict on what was quantized before looks at: a kind of block that makes up a share p is missed with a chance
near (1 - p)^2048, if such blocks lie singly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from truebits.files.tensor import Tensor
from truebits.precision.coverage import SAMPLED, SCALES_READ, Coverage
from truebits.precision.origin import Origin
from truebits_native.codes import MOST_CODES, cells
from truebits_native.types import (
    BLOCKS,
    EXPONENTS,
    FACTS,
    GREATEST,
    LAYOUTS,
    LEAST,
    NEGATIVE,
    NO_SCALE,
    SPECIAL,
    USUAL,
    ZERO,
    BlockLayout,
    add_facts,
)


@dataclass(eq=False, slots=True)
class BlockProfile:
    """What the blocks of tensors of one type use; made by `truebits.scan` with ``blocks=True``.

    Attributes
    ----------
    type : str
        Storage type, a block type of ggml.
    facts : ndarray of int64, shape (8,)
        About the scales of all blocks: see `truebits_native.types.FACTS`.
    distinct : ndarray of int64, shape (33,)
        Of the sampled blocks, groups by the number of distinct codes of their values. Neighbouring codes of Q8_0
        are counted as one, four by four.
    dead : int
        Of the sampled blocks, the groups whose values are all zero.
    used : int
        Of the sampled blocks, a mask of the codes that occur, the lowest in bit 0.
    """

    type: str
    facts: np.ndarray
    distinct: np.ndarray
    dead: int
    used: int

    @classmethod
    def empty(cls, type: str) -> BlockProfile:
        facts = np.zeros(len(FACTS), np.int64)
        facts[LEAST] = NO_SCALE
        return cls(type, facts, np.zeros(MOST_CODES + 1, np.int64), 0, 0)

    @classmethod
    def merge(cls, profiles: Iterable[BlockProfile]) -> BlockProfile:
        """Add profiles of one type up.

        Raises
        ------
        ValueError
            There are none, or they are of several types.
        """
        profiles = list(profiles)
        types = sorted({profile.type for profile in profiles})
        if len(types) != 1:
            raise ValueError(f"profiles of one type can be merged, not of {', '.join(types) or 'none'}")
        whole = cls.empty(types[0])
        for profile in profiles:
            add_facts(whole.facts, profile.facts)
            whole.distinct += profile.distinct
            whole.dead += profile.dead
            whole.used |= profile.used
        return whole

    def __add__(self, other: BlockProfile) -> BlockProfile:
        return BlockProfile.merge([self, other])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, BlockProfile)
            and (self.type, self.dead, self.used) == (other.type, other.dead, other.used)
            and np.array_equal(self.facts, other.facts)
            and np.array_equal(self.distinct, other.distinct)
        )

    @property
    def blocks(self) -> int:
        return int(self.facts[BLOCKS])

    @property
    def sampled_groups(self) -> int:
        """Number of groups that `typical`, `codes`, `dead` and `degenerate` are about."""
        return int(self.distinct.sum())

    @property
    def sampled_blocks(self) -> int:
        return self.sampled_groups // self.layout.groups

    @property
    def layout(self) -> BlockLayout:
        return LAYOUTS[self.type]

    @property
    def groups(self) -> int:
        return self.blocks * self.layout.groups

    @property
    def levels(self) -> int:
        """Number of codes (cells of four, for Q8_0) that the type has."""
        return int(cells(self.layout).max()) + 1

    @property
    def possible(self) -> int:
        """Most distinct codes that a group can use."""
        return min(self.levels, self.layout.values // self.layout.groups)

    @property
    def typical(self) -> int | None:
        """Median over the sampled groups of the number of distinct codes; None if there are no groups."""
        total = self.sampled_groups
        return int(np.searchsorted(self.distinct.cumsum(), (total + 1) // 2)) if total else None

    @property
    def codes(self) -> int:
        """Number of different codes (cells of four, for Q8_0) that occur in the sampled blocks."""
        return self.used.bit_count()

    @property
    def degenerate(self) -> int:
        """Number of sampled groups whose values have one and the same code (for Q8_0: the same cell)."""
        return int(self.distinct[1])

    @property
    def special(self) -> int:
        """Number of scales or offsets that are Inf or NaN."""
        return int(self.facts[SPECIAL])

    @property
    def zero_scales(self) -> int:
        return int(self.facts[ZERO])

    @property
    def negative_scales(self) -> int:
        return int(self.facts[NEGATIVE])

    @property
    def scale_range(self) -> tuple[float, float] | None:
        """The least and the greatest magnitude of scales that are finite and not zero; None if there is none.

        Of the scales that a block stores in floating point: the factors of a K type's groups come on top.
        """
        if self.facts[LEAST] == NO_SCALE:
            return None
        return self._magnitude(int(self.facts[LEAST])), self._magnitude(int(self.facts[GREATEST]))

    @property
    def scale_exponent(self) -> float | None:
        """Mean exponent of these scales: they are 2 to the power of it, typically."""
        usual = int(self.facts[USUAL])
        return float(self.facts[EXPONENTS]) / usual - self.layout.scale.bias if usual else None

    def _magnitude(self, bits: int) -> float:
        """Return the value of a scale's bits."""
        scale = self.layout.scale
        if not scale.shift:
            return 2.0 ** (bits - scale.bias)
        exponent, fraction = divmod(bits, 1 << scale.shift)
        return (fraction / (1 << scale.shift) + (exponent > 0)) * 2.0 ** (max(exponent, 1) - scale.bias)

    def answers(self) -> dict[str, Any]:
        """Every number that ``scan --json`` gives of block-quantized tensors, by its key there."""
        return {
            "blocks": self.blocks,
            "groups": self.groups,
            "sampled_blocks": self.sampled_blocks,
            "sampled_groups": self.sampled_groups,
            "codes": self.codes,
            "levels": self.levels,
            "possible": self.possible,
            "typical": self.typical,
            "distinct": {str(number): count for number, count in enumerate(self.distinct.tolist()) if count},
            "dead": self.dead,
            "degenerate": self.degenerate,
            "special_scales": self.special,
            "zero_scales": self.zero_scales,
            "negative_scales": self.negative_scales,
            "scale_range": self.scale_range,
            "scale_exponent": self.scale_exponent,
        }


@dataclass(eq=False, slots=True)
class BlockPrecision(BlockProfile):
    """The profile of one block-quantized tensor of a model.

    Attributes
    ----------
    tensor : Tensor
    made_from : Origin
        What the tensor was quantized to before: see `truebits.precision.dequantized`.
    """

    tensor: Tensor
    made_from: Origin

    @property
    def is_sampled(self) -> bool:
        """Some of the blocks were not looked at, not even their scales."""
        return self.blocks * self.layout.nbytes < self.tensor.nbytes

    @property
    def is_zero(self) -> bool:
        """All scales that were read are zero, and with them the values; offsets, if any, of the sampled blocks."""
        scales = self.blocks * self.layout.scales
        return 0 < scales <= self.zero_scales and self.dead == self.sampled_groups

    @property
    def coverage(self) -> Coverage:
        """All scales, and the codes of the sampled blocks; or nothing but a sample of both."""
        if self.is_sampled:
            return Coverage.of_tensor(self.tensor, SAMPLED, self.blocks * self.layout.nbytes)
        others = self.blocks - self.sampled_blocks
        if not others:
            return Coverage.of_tensor(self.tensor)
        layout = self.layout
        scales = layout.scales * layout.scale.nbytes + (0 if layout.offset_at is None else 2)
        read = self.sampled_blocks * layout.nbytes + others * scales
        return Coverage.of_tensor(self.tensor, SCALES_READ, read)
