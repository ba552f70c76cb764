"""Model -> report: what precision each tensor really has, what was read, and what is wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

import truebits_native as native
from truebits.files.model import Model, Regexes, open_model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.numbers.formats import find
from truebits.precision.batches import Progress, batches
from truebits.precision.counting import TensorPrecision, floating, profiles
from truebits.precision.coverage import NO_WEIGHTS, WHOLE_NUMBERS, Coverage
from truebits.precision.profile import PrecisionProfile
from truebits_native.types import LAYOUTS as BLOCK_LAYOUTS

if TYPE_CHECKING:
    from truebits.precision.blocks import BlockPrecision
    from truebits.precision.findings import Finding
    from truebits.precision.origin import Origin


@dataclass(frozen=True)
class Report(Mapping[str, TensorPrecision]):
    """What `scan` found: a mapping from tensor name to `TensorPrecision`.

    Attributes
    ----------
    model : Model
    tensors : dict of str to TensorPrecision
        The selected F32, F16, BF16 and F64 tensors, in file order.
    architecture : str or None
        What the file says it is, as ``llama``: from it follows what converters changed.
    blocks : dict of str to BlockPrecision
        The selected tensors of the block types whose codes are read; empty unless asked for.
    made_from : dict of str to Origin
        What the values of floating-point matrices were dequantized from; empty unless asked for.
    coverage : Coverage
        What was read of all the model's tensors.
    findings : tuple of Finding
        What is wrong with them, worst first.
    """

    model: Model
    tensors: dict[str, TensorPrecision] = field(repr=False)
    architecture: str | None = None
    blocks: dict[str, BlockPrecision] = field(repr=False, default_factory=dict)
    made_from: dict[str, Origin] = field(repr=False, default_factory=dict)
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
            members.setdefault((precision.tensor.group, precision.type), []).append(precision)
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
        if not origin.exceptions or precision.before is not None:
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
            members.setdefault(precision.type, []).append(precision)
        return members


def scan(
    source: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    blocks: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Count exponents and trailing zeros of a model's floating-point tensors.

    Parameters
    ----------
    source : Model or path-like
    select, exclude : regex or regexes, optional
        Searched for in tensor names; `exclude` wins.
    blocks : bool
        Read block-quantized tensors too, and look for what tensors of both kinds were quantized to before.
    threads : int, optional
        All cores if not given. The result does not depend on it.
    progress : callable, optional
        Called with bytes done and bytes in all.

    Returns
    -------
    Report

    Raises
    ------
    SelectionError
        The selection has no F32, F16, BF16 or F64 tensor (with `blocks`, and none of a block type either).
    ModelFileError, OSError
        As `open`; and if the file changes meanwhile.
    """
    model = source if isinstance(source, Model) else open_model(source)
    selected = model.select(select, exclude)
    from truebits.precision.symptoms import findings_of

    asked, architecture = bool(select or exclude), model.architecture
    if blocks:
        from truebits.precision.blocks import scan_with_blocks

        found = scan_with_blocks(model, selected, asked, threads, progress)
    else:
        chosen = floating(selected, FLOAT_BYTES, asked)
        found = Report(model, profiles(model, chosen, architecture, threads, progress), architecture)
    report = replace(found, coverage=_coverage(found, selected))
    return replace(report, findings=findings_of(report))


def _coverage(report: Report, selected: Iterable[Tensor]) -> Coverage:
    """Say what a scan has read, and why not the rest."""
    read = report.tensors.keys() | report.blocks.keys()
    not_read = {tensor.name: _why_not(tensor) for tensor in selected if tensor.name not in read}
    others = [tensor for tensor in report.model.tensors if tensor.name not in report.blocks]
    plain = Coverage.of(others, not_read, {tensor.name for tensor in selected})
    return Coverage.merge([plain, *(one.coverage for one in report.blocks.values())])


def _why_not(tensor: Tensor) -> str:
    if tensor.type in WHOLE_NUMBERS:
        return NO_WEIGHTS
    if tensor.type in BLOCK_LAYOUTS:
        return "quantized, read with --blocks"
    return "unknown type" if tensor.opaque else "no reader for this type"
