"""Report: what a scan found, tensor by tensor, and by groups of tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import truebits_native as native
from truebits.errors import printable
from truebits.files.model import Model
from truebits.numbers.spelling import find
from truebits.precision.batches import batches
from truebits.precision.counting import TensorPrecision
from truebits.precision.coverage import Coverage
from truebits.precision.coverage import count as how_many
from truebits.precision.origin import origin_of
from truebits.precision.profile import PrecisionProfile
from truebits.result import Result

if TYPE_CHECKING:
    from truebits.precision.blocks import BlockPrecision
    from truebits.precision.findings import Finding
    from truebits.precision.origin import Origin
    from truebits.precision.rows import MixedRows

UNTOLD = ("ambiguous", "constant")
"""Verdicts of tensors that have too little to tell by: they stand with the others of their type."""


@dataclass(frozen=True, repr=False)
class Report(Result, Mapping[str, TensorPrecision]):
    """What `scan` found: a mapping from tensor name to `TensorPrecision`.

    Attributes
    ----------
    model : Model
        With the tensors that are meant, where a checkpoint is quantized itself.
    tensors : dict of str to TensorPrecision
        The selected F32, F16, BF16 and F64 tensors, in file order; and those of a quantized checkpoint, whose `type` is
        F32 and whose `stored` says the format.
    architecture : str or None
        What the file says it is, as ``llama``: from it follows what converters changed.
    blocks : dict of str to BlockPrecision
        The selected tensors of the block types whose codes are read; empty unless asked for.
    made_from : dict of str to Origin
        What the values of floating-point matrices were dequantized from; empty unless asked for.
    rows : dict of str to MixedRows or None
        The tensors of which some rows are of a narrower format; None unless asked for.
    coverage : Coverage
        What was read of all the model's tensors.
    findings : tuple of Finding
        What is wrong with them, worst first.
    """

    verb = "scan"

    model: Model
    tensors: dict[str, TensorPrecision] = field(repr=False)
    architecture: str | None = None
    blocks: dict[str, BlockPrecision] = field(repr=False, default_factory=dict)
    made_from: dict[str, Origin] = field(repr=False, default_factory=dict)
    rows: dict[str, MixedRows] | None = field(repr=False, default=None)
    coverage: Coverage = field(repr=False, default_factory=Coverage)
    findings: tuple[Finding, ...] = ()

    def __getitem__(self, name: str) -> TensorPrecision:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def members(self) -> dict[str, list[TensorPrecision]]:
        """Put together tensors that differ only in numbers: ``blk.*.attn_norm.weight``.

        Where a group has tensors of several storage types, each type stands for itself, as
        ``blk.*.attn_norm.weight (F16)``.
        """
        members: dict[tuple[str, str], list[TensorPrecision]] = {}
        for precision in self.tensors.values():
            members.setdefault((precision.tensor.group, precision.stored), []).append(precision)
        types = Counter(group for group, _ in members)
        return {group if types[group] == 1 else f"{group} ({type})": of for (group, type), of in members.items()}

    def exceptions(self, name: str, limit: int = 3) -> list[tuple[int, str]]:
        """Find the first values of a tensor that the format of most of its values does not hold.

        Parameters
        ----------
        name : str
        limit : int

        Returns
        -------
        list of (int, str)
            Index, and the word in hex; none where `Origin.exceptions` is 0.

        Raises
        ------
        OSError
            The file has changed since the scan.
        """
        precision = self[name]
        origin, tensor = precision.origin, precision.tensor
        if not origin.exceptions or precision.before is not None or not precision.is_plain:
            return []
        from truebits.precision.evidence import at_scale

        layout, format = precision.layout, at_scale(precision, find(str(origin.holds_most)))
        held = layout.fits(format) | layout.is_nan
        found: list[tuple[int, str]] = []
        first = 0
        for batch in batches(self.model, [tensor]):
            for start, stop in zip(batch.starts, batch.stops, strict=True):
                words = batch.words[start:stop]
                at = np.flatnonzero(~held[native.bins_of(words, tensor.type)])[: limit - len(found)]
                found += [(first + i, f"{words[i]:0{2 * words.itemsize}x}") for i in at.tolist()]
                first += words.size
            if len(found) == limit:
                break
        return found

    def origins(self) -> dict[str, Origin]:
        """Judge all tensors of each storage type together."""
        from truebits.precision.origin import origin_of

        return {type: origin_of(members) for type, members in self.by_type().items()}

    def groups(self) -> dict[str, PrecisionProfile]:
        """Merge the profiles of each group of `members`."""
        return {name: PrecisionProfile.merge(members) for name, members in self.members().items()}

    def totals(self) -> dict[str, PrecisionProfile]:
        """Merge all profiles of each storage type."""
        return {type: PrecisionProfile.merge(members) for type, members in self.by_type().items()}

    def by_type(self) -> dict[str, list[TensorPrecision]]:
        """Put together the tensors of each storage type."""
        members: dict[str, list[TensorPrecision]] = {}
        for precision in self.tensors.values():
            members.setdefault(precision.stored, []).append(precision)
        return members

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        groups = [
            {"name": printable(name), "type": members[0].stored, **_answers(members)}
            for name, members in self.members().items()
        ]
        return {
            **self.model.about(),
            "tensors": [
                {
                    **one.tensor.about(),
                    **_answers([one]),
                    "exceptions": _exceptions(self, one),
                    "made_from": _made_from(self, name),
                    "rows": self.rows[name].to_dict() if self.rows and name in self.rows else None,
                }
                for name, one in self.tensors.items()
            ],
            "blocks": [
                {**one.tensor.about(), **one.answers(), "made_from": asdict(one.made_from)}
                for one in self.blocks.values()
            ],
            "groups": groups,
            "total": _total(self),
            "totals": {type: of.answers() for type, of in self.totals().items()},
            "origins": {type: asdict(origin) for type, origin in self.origins().items()},
            "coverage": self.coverage.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
        }

    @property
    def summary(self) -> str:
        """The result in one short line."""
        read = f"{len(self.tensors):,} unquantized, {len(self.blocks):,} quantized tensors"
        return f"{printable(self.model.path.name)}: {read}, {how_many(len(self.findings), 'finding')}"


def by_format(members: Sequence[TensorPrecision]) -> list[tuple[str, list[TensorPrecision]]]:
    """Sort tensors by what they came from, most values first; those too small to tell go to the first that fits."""
    by_format: dict[str, list[TensorPrecision]] = {}
    for one in members:
        by_format.setdefault(one.origin.format, []).append(one)
    rows = sorted(by_format.items(), key=lambda row: -sum(one.values for one in row[1]))
    sure = [row for row in rows if row[0] not in UNTOLD]
    if not sure:
        return rows
    (first, some), others = sure[0], sure[1:]
    few = [one for format, them in rows if format in UNTOLD for one in them]
    return [(first, [*some, *few]), *others]


def _exceptions(report: Report, one: TensorPrecision) -> list[dict[str, Any]]:
    """The first values that the format of most of a tensor does not hold."""
    return [{"at": at, "word": word} for at, word in report.exceptions(one.tensor.name)]


def _answers(members: Sequence[PrecisionProfile]) -> dict[str, Any]:
    profile = PrecisionProfile.merge(members)
    return {
        **profile.answers(),
        "mantissa_bits": {"100": profile.mantissa_bits(), "99.9": profile.mantissa_bits(0.999)},
        "exponent_range": profile.exponent_range,
        "exponent_entropy": profile.exponent_entropy,
        "bytes_saved": sum(one.bytes_saved for one in members),
        "origin": asdict(origin_of(members)),
    }


def _made_from(report: Report, name: str) -> dict[str, Any] | None:
    """What a matrix's values were dequantized from; None where that was not asked, or it is no matrix."""
    return asdict(report.made_from[name]) if name in report.made_from else None


def _total(report: Report) -> dict[str, Any]:
    """Add the answers of all storage types up. ``low_zero`` is of each type's own words: see ``totals``."""
    total: dict[str, Any] = {"tensors": len(report), "values": 0, "low_zero": {}, "fits": {}}
    for profile in report.totals().values():
        for key, count in profile.answers().items():
            if isinstance(count, dict):
                for name, number in count.items():
                    total[key][name] = total[key].get(name, 0) + number
            else:
                total[key] = total.get(key, 0) + count
    total["bytes_saved"] = sum(profile.bytes_saved for profile in report.tensors.values())
    return total
