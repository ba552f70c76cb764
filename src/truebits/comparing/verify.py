"""Model against manifest: is every tensor there, and is it what it was?"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from truebits.comparing.fingerprint import Fingerprint
from truebits.comparing.manifest import read_manifest
from truebits.errors import SelectionError, printable
from truebits.files.model import Model, Regexes, matching, open_model, patterns
from truebits.files.tensor import Tensor, shape_text
from truebits.precision.batches import Progress
from truebits.precision.coverage import Coverage
from truebits.precision.hashing import TensorFingerprint, hashes, kind_of, significant
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.weights import meaning_of
from truebits.result import Result

VERDICTS = ("same", "changed", "requantized", "absent", "extra")


class Check(NamedTuple):
    """What became of one tensor.

    Attributes
    ----------
    name : str
    verdict : {"same", "changed", "requantized", "absent", "extra"}
        ``requantized``: of another type, and not both are plain floating point. ``absent``: only in the manifest.
        ``extra``: only in the model.
    was, now : str or None
        Its type in the manifest and in the model.
    reason : str
    """

    name: str
    verdict: str
    was: str | None
    now: str | None
    reason: str


@dataclass(frozen=True, repr=False)
class Verification(Result):
    """What `verify` found.

    Attributes
    ----------
    file : str
        The model.
    checks : tuple of Check
        One for each tensor of the manifest, in its order, then one for each that only the model has.
    coverage : Coverage
        What was compared of the model's tensors.
    """

    verb = "verify"

    file: str
    checks: tuple[Check, ...] = field(repr=False)
    coverage: Coverage = field(repr=False, default_factory=Coverage)

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors by verdict, each verdict included."""
        found = Counter(check.verdict for check in self.checks)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def is_same(self) -> bool:
        """Every tensor of either side is the same on the other."""
        return self.verdict == "same"

    @property
    def verdict(self) -> str:
        """``same``, ``different``, or ``not verified`` where only what is not comparable by hash may differ."""
        found = {check.verdict for check in self.checks}
        if found <= {"same"}:
            return "same"
        return "not verified" if found <= {"same", "requantized"} else "different"

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        checks = [{**check._asdict(), "name": printable(check.name)} for check in self.checks]
        about = {"file": self.file, "same": self.is_same}
        about |= {"verdict": self.verdict, "coverage": self.coverage.to_dict()}
        return {**about, "counts": self.counts, "tensors": checks}

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return f"{self.verdict}: {self.file}"


def verify(
    source: Model | str | os.PathLike[str],
    manifest: Fingerprint | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check every tensor of a model and of a manifest against the other side.

    Parameters
    ----------
    source : Model or path-like
    manifest : Fingerprint or path-like
        What `fingerprint` found, or a file of what `scan --fingerprint --json` printed.
    select, exclude : regex or regexes, optional
        Searched for in the tensor names of both sides; `exclude` wins.
    threads, progress
        As for `scan`.

    Returns
    -------
    Verification

    Raises
    ------
    SelectionError
        The selection has no tensor on either side.
    BadManifest
        As `read_manifest`.
    ModelFileError, OSError
        As `open`; and if the file changes meanwhile.
    """
    recorded = manifest if isinstance(manifest, Fingerprint) else read_manifest(manifest)
    of = meaning_of(open_model(source))
    model = of.model
    wanted, unwanted = patterns(select), patterns(exclude)
    rows = {row.name: row for row in matching(recorded.tensors, wanted, unwanted)}
    tensors = {tensor.name: tensor for tensor in matching(model.tensors, wanted, unwanted)}
    if (wanted or unwanted) and not rows and not tensors:
        raise SelectionError("the selection has no tensor, neither in the model nor in the manifest")
    found = hashes(of, [one for one in tensors.values() if _may_be_same(rows, one, of)], threads, progress)
    checks = tuple(_check(name, rows.get(name), tensors.get(name), found.get(name), of) for name in {**rows, **tensors})
    not_read = {check.name: check.reason for check in checks if check.name in tensors and check.name not in found}
    return Verification(str(model.path), checks, Coverage.of(model.tensors, not_read, tensors.keys()))


def _may_be_same(rows: dict[str, TensorFingerprint], tensor: Tensor, of: Meaning) -> bool:
    """Tell whether a tensor's hash is worth computing."""
    row = rows.get(tensor.name)
    return row is not None and _is_alike(row, tensor, of) and significant(row.shape) == significant(tensor.shape)


def _is_alike(row: TensorFingerprint, tensor: Tensor, of: Meaning) -> bool:
    """Tell whether the same is hashed on both sides."""
    return row.kind == kind_of(tensor, of) and (row.kind == "values" or row.type == tensor.type)


def _check(name: str, row: TensorFingerprint | None, tensor: Tensor | None, hash: str | None, of: Meaning) -> Check:
    if tensor is None:
        assert row is not None
        return Check(name, "absent", row.type, None, "only the manifest has it")
    if row is None:
        return Check(name, "extra", None, tensor.type, "only the model has it")
    types = row.type, tensor.type
    if not _is_alike(row, tensor, of):
        return Check(name, "requantized", *types, f"stored as {tensor.type}, was {row.type}: not comparable by hash")
    if hash is None:
        now, was = (shape_text(shape) for shape in (tensor.shape, row.shape))
        return Check(name, "changed", *types, f"its shape is {now}, was {was}")
    if hash != row.hash:
        return Check(name, "changed", *types, f"other {row.kind}")
    stored = f", stored as {tensor.type}" if row.type != tensor.type else ""
    return Check(name, "same", *types, f"same {row.kind}{stored}")
