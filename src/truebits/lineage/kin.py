"""What several models of one checkpoint are to the first of them: each tensor, and all together."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from truebits.files.types import FLOAT_BYTES
from truebits.precision.coverage import Coverage, count
from truebits.precision.origin import Origin
from truebits.result import Result


class Kin(StrEnum):
    """What a tensor is to its namesake in the first model."""

    SAME = "same"
    ROUNDED = "rounded"
    FINER = "finer"
    REQUANTIZED = "quantized otherwise"
    OTHER_VALUES = "other values"
    OTHER_SHAPE = "other shape"
    UNCOMPARED = "not compared"
    MADE = "made by the converter"
    ABSENT = "absent"
    EXTRA = "extra"

    @property
    def is_fault(self) -> bool:
        """It cannot be of the same checkpoint."""
        return self in (Kin.OTHER_VALUES, Kin.OTHER_SHAPE, Kin.ABSENT, Kin.EXTRA)


class Relation(NamedTuple):
    """A tensor against its namesake in the first model.

    Attributes
    ----------
    kin : Kin
    detail : str
        The format rounded to, or how much is apart, or why it is not compared.
    """

    kin: Kin
    detail: str = ""

    def __str__(self) -> str:
        if self.kin is Kin.ROUNDED:
            return f"rounded to {self.detail}"
        if self.kin is Kin.FINER:
            return f"finer: the first is it, rounded to {self.detail}"
        return f"{self.kin}: {self.detail}" if self.kin is Kin.UNCOMPARED else str(self.kin)


@dataclass(frozen=True)
class TensorKin:
    """One tensor in all models.

    Attributes
    ----------
    name : str
    types : tuple of str or None
        By model; None where it is absent.
    relations : tuple of Relation
        Of each model but the first.
    values : int
    coverage : Coverage
        Of each model but the first.
    """

    name: str
    types: tuple[str | None, ...]
    relations: tuple[Relation, ...]
    values: int
    coverage: Coverage

    @property
    def is_plain(self) -> bool:
        """It is unquantized in the first model."""
        return self.types[0] in FLOAT_BYTES


@dataclass(frozen=True)
class Sibling:
    """One of the models.

    Attributes
    ----------
    path : str
    origins : dict of str to Origin
        Of its unquantized tensors, by storage type; empty where it is the same as the first, and nothing to tell.
    """

    path: str
    origins: dict[str, Origin]


@dataclass(frozen=True, repr=False)
class Siblings(Result):
    """What `siblings` found.

    Attributes
    ----------
    models : tuple of Sibling
        As they were given.
    tensors : tuple of TensorKin
        Those of the first in its order, then those that it does not have.
    """

    verb = "trace-siblings"

    models: tuple[Sibling, ...]
    tensors: tuple[TensorKin, ...] = field(repr=False)

    @property
    def coverage(self) -> Coverage:
        """Of the tensors of all models but the first: compared with its own, or why not."""
        return Coverage.merge(tensor.coverage for tensor in self.tensors)

    @property
    def is_explained(self) -> bool:
        """Nothing was found that rounding or quantization do not explain."""
        return not any(relation.kin.is_fault for tensor in self.tensors for relation in tensor.relations)

    @property
    def is_verified(self) -> bool:
        """All was compared, and can be of one checkpoint."""
        return self.is_explained and self.coverage.is_complete

    def counts(self, number: int) -> dict[str, int]:
        """Count the relations of the tensors of one model, from 1, to those of the first."""
        found = Counter(str(tensor.relations[number - 1]) for tensor in self.tensors)
        return dict(found.most_common())

    def conclusion(self, number: int) -> str:
        """Say in a sentence what a model, from 1, is to the first."""
        kins = {tensor.relations[number - 1].kin for tensor in self.tensors}
        total = len(self.tensors)
        if kins <= {Kin.SAME, Kin.MADE}:
            return f"the same checkpoint: {'all ' if total > 1 else ''}{count(total, 'tensor')} of the same values"
        told = ", ".join(f"{some:,} of {total:,} {relation}" for relation, some in self.counts(number).items())
        if any(kin.is_fault for kin in kins):
            return f"another revision, or changed after the conversion: {told}"
        if Kin.UNCOMPARED in kins:
            return f"not verified: {told}"
        return f"the same checkpoint by another way: {told}"

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        models = [
            {
                "file": one.path,
                "origins": {type: asdict(origin) for type, origin in one.origins.items()},
                "conclusion": self.conclusion(number) if number else None,
            }
            for number, one in enumerate(self.models)
        ]
        tensors = [
            {
                "name": one.name,
                "types": one.types,
                "values": one.values,
                "relations": [{"kin": str(relation.kin), "detail": relation.detail} for relation in one.relations],
            }
            for one in self.tensors
        ]
        return {
            "explained": self.is_explained,
            "verified": self.is_verified,
            "coverage": self.coverage.to_dict(),
            "models": models,
            "tensors": tensors,
        }

    @property
    def summary(self) -> str:
        """The result in one short line."""
        how = "explained" if self.is_explained else "not explained"
        return f"{len(self.models)} models, {len(self.tensors):,} tensors: {how}"
