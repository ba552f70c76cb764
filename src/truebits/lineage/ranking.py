"""Ranking: how near several quantizations are to one source, by tensor, by group and in all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf, sqrt
from pathlib import Path
from typing import Any, NamedTuple

from truebits.errors import printable
from truebits.files.tensor import group_of
from truebits.precision.coverage import Coverage
from truebits.result import Result, finite


class Error(NamedTuple):
    """How far one tensor, or several, are from the source.

    Attributes
    ----------
    squared : float
        Sum of the squared errors; infinite where a value is NaN or Inf and should not be.
    squares : float
        Of the source's squared values.
    """

    squared: float = 0.0
    squares: float = 0.0

    @property
    def relative(self) -> float:
        """Root of the squared error over the squares of the source."""
        if not self.squared:
            return 0.0
        return sqrt(self.squared / self.squares) if self.squares else inf


def summed(errors: Iterable[Error]) -> Error:
    """Add errors up."""
    found = list(errors)
    return Error(sum(one.squared for one in found), sum(one.squares for one in found))


@dataclass(frozen=True)
class TensorRank:
    """One tensor of a model.

    Attributes
    ----------
    name, type : str
    source : str or None
        Its name in the source.
    error : Error or None
        None where it was not compared.
    why : str or None
        Why not.
    is_renamed : bool
        The same values under another name.
    """

    name: str
    type: str
    source: str | None
    error: Error | None
    why: str | None = None
    is_renamed: bool = False


@dataclass(frozen=True)
class Ranked:
    """One of the models.

    Attributes
    ----------
    path : str
    bits_per_weight : float
        Of all tensors' data.
    tensors : tuple of TensorRank
    coverage : Coverage
    """

    path: str
    bits_per_weight: float
    tensors: tuple[TensorRank, ...] = field(repr=False)
    coverage: Coverage = field(repr=False)

    @property
    def error(self) -> float:
        """Relative, of all tensors that were compared."""
        return summed(one.error for one in self.tensors if one.error).relative

    @property
    def worst(self) -> TensorRank | None:
        """The tensor with the largest relative error."""
        compared = [one for one in self.tensors if one.error is not None]
        return max(compared, key=lambda one: one.error.relative if one.error else 0.0, default=None)

    @property
    def groups(self) -> dict[str, float]:
        """Relative error by group of tensors."""
        members: defaultdict[str, list[Error]] = defaultdict(list)
        for one in self.tensors:
            if one.error is not None:
                members[group_of(one.name)].append(one.error)
        return {name: summed(of).relative for name, of in members.items()}


@dataclass(frozen=True, repr=False)
class Ranking(Result):
    """What `rank` found.

    Attributes
    ----------
    source : str
    models : tuple of Ranked
        The nearest first.
    """

    verb = "rank"
    rows_of_document = "models"

    source: str
    models: tuple[Ranked, ...]

    @property
    def is_verified(self) -> bool:
        """Every tensor of every model was compared."""
        return all(one.coverage.is_complete for one in self.models)

    @property
    def conclusion(self) -> str:
        """Which is nearest, and by how much."""
        first, *others = self.models
        name = printable(Path(first.path).name)
        start = f"{name} is nearest: off by {100 * first.error:.3g} % of the weights' size"
        if not others:
            return start.replace(" is nearest: ", " is ")
        second = printable(Path(others[0].path).name)
        if others[0].error == first.error:
            return f"{start}, as {second} is"
        times = others[0].error / first.error if first.error else inf
        digits = next((some for some in range(3, 16) if f"{times:.{some}g}" != "1"), 16)
        by = f"{times:.{digits}g} times as far" if times < inf else f"off by {100 * others[0].error:.3g} %"
        return f"{start}; {second} is {by}"

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        models = [
            {
                "file": one.path,
                "bits_per_weight": one.bits_per_weight,
                "error": finite(one.error),
                "worst": one.worst.name if one.worst else None,
                "groups": {name: finite(error) for name, error in one.groups.items()},
                "coverage": one.coverage.to_dict(),
                "tensors": [
                    {
                        "name": tensor.name,
                        "type": tensor.type,
                        "source": tensor.source,
                        "error": finite(tensor.error.relative) if tensor.error else None,
                        "not_compared": tensor.why,
                        "renamed": tensor.is_renamed,
                    }
                    for tensor in one.tensors
                ],
            }
            for one in self.models
        ]
        verified = self.is_verified
        return {"source": self.source, "conclusion": self.conclusion, "verified": verified, "models": models}

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return self.conclusion.splitlines()[0]
