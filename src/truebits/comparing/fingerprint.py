"""A hash of a whole model, that storage types, order, sharding and metadata have no part in."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from truebits.files.model import Model, Regexes, open_model
from truebits.precision.batches import Progress
from truebits.precision.coverage import Coverage
from truebits.precision.hashing import ALGORITHM, TensorFingerprint, fingerprints, together
from truebits.quantizers.weights import meaning_of
from truebits.result import Result


@dataclass(frozen=True, repr=False)
class Fingerprint(Result):
    """What `fingerprint` found.

    Attributes
    ----------
    file : str
    tensors : tuple of TensorFingerprint
        In file order.
    coverage : Coverage
        What was hashed of the model's tensors; nothing where the fingerprint was read from a manifest.
    """

    verb = "fingerprint"

    file: str
    tensors: tuple[TensorFingerprint, ...] = field(repr=False)
    coverage: Coverage = field(repr=False, default_factory=Coverage)

    @property
    def unquantized(self) -> tuple[TensorFingerprint, ...]:
        """The tensors whose values are hashed."""
        return tuple(tensor for tensor in self.tensors if tensor.kind == "values")

    @property
    def value(self) -> str | None:
        """The hash of all unquantized tensors' values, in hex; None where there is no such tensor."""
        return together(self.unquantized) if self.unquantized else None

    @property
    def whole(self) -> str:
        """The hash of all tensors, in hex."""
        return together(self.tensors)

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        return {
            "file": self.file,
            "algorithm": ALGORITHM,
            "fingerprint": self.value,
            "whole": self.whole,
            "tensors": [tensor._asdict() for tensor in self.tensors],
            "coverage": self.coverage.to_dict(),
        }

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return f"{self.value} {self.file}"


def fingerprint(
    source: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Fingerprint:
    """Hash the values of a model's unquantized tensors, and the bytes of all others.

    Neither storage type, order, file name, sharding nor metadata have a part in it.

    Parameters
    ----------
    source : Model or path-like
    select, exclude : regex or regexes, optional
        Searched for in tensor names; `exclude` wins.
    threads, progress
        As for `scan`.

    Returns
    -------
    Fingerprint

    Raises
    ------
    SelectionError
        The selection has no tensor.
    ModelFileError, OSError
        As `open`; and if the file changes meanwhile.
    """
    of = meaning_of(open_model(source))
    chosen = of.model.select(select, exclude)
    rows = tuple(fingerprints(of, chosen, threads, progress))
    return Fingerprint(str(of.model.path), rows, Coverage.of(of.model.tensors, {}, {one.name for one in rows}))
