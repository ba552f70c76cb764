"""Coverage: how much of the evidence a verdict has read, and what it has not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from truebits.files.tensor import Tensor

NUMBERS = ("tensors", "tensors_read", "values", "values_read", "bytes", "bytes_read")

NOT_SELECTED = "not selected"
NO_WEIGHTS = "whole numbers, no weights"
SAMPLED = "by sample; --blocks reads every scale"
SCALES_READ = "all scales read, codes by sample"
NOT_NEEDED = (NOT_SELECTED, NO_WEIGHTS, SCALES_READ)
"""Why tensors were not read, or not whole, that a verdict on a selection's weights does not need more of."""


@dataclass(frozen=True)
class NotRead:
    """Tensors of one type that were not read, or not whole.

    Attributes
    ----------
    type : str
        Storage type.
    tensors : int
    values : int
        Those that were not read.
    why : str
    """

    type: str
    tensors: int
    values: int
    why: str


@dataclass(frozen=True)
class Coverage:
    """What was read of a model, or of several; adds up with ``+`` and `merge`.

    Attributes
    ----------
    tensors, tensors_read : int
        All there are, and those that were read whole.
    values, values_read : int
    bytes, bytes_read : int
        Of tensor data; metadata does not count.
    not_read : tuple of NotRead
        One for each type and reason.
    """

    tensors: int = 0
    tensors_read: int = 0
    values: int = 0
    values_read: int = 0
    bytes: int = 0
    bytes_read: int = 0
    not_read: tuple[NotRead, ...] = ()

    @classmethod
    def of_tensor(cls, tensor: Tensor, why: str | None = None, bytes_read: int = 0) -> Coverage:
        """Return the coverage of one tensor: read whole, or (for a reason) not, or only so many bytes of it."""
        values, size = tensor.values, tensor.nbytes
        if why is None:
            return cls.of_whole([tensor])
        read = values * bytes_read // size if size else 0
        return cls(1, 0, values, read, size, bytes_read, (NotRead(tensor.type, 1, values - read, why),))

    @classmethod
    def of_whole(cls, tensors: Collection[Tensor]) -> Coverage:
        """Return the coverage of tensors that were read whole."""
        values, size = (sum(getattr(tensor, name) for tensor in tensors) for name in ("values", "nbytes"))
        return cls(len(tensors), len(tensors), values, values, size, size)

    @classmethod
    def of(cls, tensors: Iterable[Tensor], not_read: Mapping[str, str], selected: Collection[str]) -> Coverage:
        """Return the coverage of a model of which all selected tensors were read but for some, by name and reason."""
        return cls.merge(
            cls.of_tensor(tensor, not_read.get(tensor.name) if tensor.name in selected else NOT_SELECTED)
            for tensor in tensors
        )

    @classmethod
    def merge(cls, parts: Iterable[Coverage]) -> Coverage:
        """Add coverages up."""
        parts = list(parts)
        reasons: dict[tuple[str, str], list[NotRead]] = {}
        for one in (one for part in parts for one in part.not_read):
            reasons.setdefault((one.type, one.why), []).append(one)
        not_read = tuple(
            NotRead(type, sum(one.tensors for one in some), sum(one.values for one in some), why)
            for (type, why), some in reasons.items()
        )
        return cls(**{name: sum(getattr(part, name) for part in parts) for name in NUMBERS}, not_read=not_read)

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage.merge([self, other])

    @property
    def undecided(self) -> tuple[NotRead, ...]:
        """What was asked for and not read, and is needed: because of it a verdict is not verified."""
        return tuple(one for one in self.not_read if one.why not in NOT_NEEDED)

    @property
    def is_complete(self) -> bool:
        """All that was asked for was read whole."""
        return not self.undecided

    @property
    def is_blind(self) -> bool:
        """Not one tensor was read, whole or in part: there may be none."""
        return not self.tensors_read and not self.values_read

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in a JSON document under ``coverage``."""
        return asdict(self)

    def __str__(self) -> str:
        """Return a sentence: ``Read: 12 of 14 tensors, 99.2 % of the values; 2 Q4_K tensors not: unknown type.``"""
        if not self.not_read:
            return f"Read: all of {count(self.tensors, 'tensor')}, {count(self.values, 'value')}."
        read = f"Read: {self.tensors_read:,} of {count(self.tensors, 'tensor')}, {share(self.values_read, self.values)}"
        missing = (f"{count(one.tensors, f'{one.type} tensor')} not: {one.why}" for one in self.not_read)
        return f"{'; '.join([read, *missing])}."


def count(number: int, what: str) -> str:
    """Say how many there are: ``1 tensor``, ``2 tensors``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def share(part: int, whole: int) -> str:
    """Say what share of the values something is; never 0 or 100 % of what is neither."""
    if part in (0, whole):
        return "all values" if part else "no value"
    percent = 100 * part / whole
    digits = next(digits for digits in range(1, 18) if 0 < round(percent, digits) < 100)
    return f"{percent:.{digits}f} % of the values"
