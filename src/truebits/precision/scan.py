"""Model -> profiles: what precision each tensor really has.

The file is mapped and read in batches, each one kernel call over all its byte ranges. Between
batches the progress moves, Ctrl-C is answered, the file is checked to be still the same, and the
pages read are unmapped, so that memory does not grow with the file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

import truebits_native as native
from truebits import errors
from truebits.files.mapping import MappedFile
from truebits.files.model import Model, open_model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.numbers.formats import find
from truebits.precision.coverage import NO_WEIGHTS, WHOLE_NUMBERS, Coverage
from truebits.precision.profile import APART, LAYOUTS, PrecisionProfile
from truebits.precision.swapped import is_swapped
from truebits_native.chunks import cut
from truebits_native.reference.blocks import LAYOUTS as BLOCK_LAYOUTS

if TYPE_CHECKING:
    from truebits.precision.blocks import BlockPrecision
    from truebits.precision.evidence import Evidence
    from truebits.precision.findings import Finding
    from truebits.precision.origin import Origin

BATCH_BYTES = 32 << 20
"""Read per kernel call: about a millisecond of work when the file is in memory."""

RUN_GAP = 1 << 20
"""Ranges nearer than this are announced and unmapped together."""

WORDS_APART = {
    "F32": {480.0: 0x43F00000, 65504.0: 0x477FE000},
    "F16": {480.0: 0x5F80, 65504.0: 0x7BFF},
    "BF16": {480.0: 0x43F0},
    "F64": {480.0: 0x407E << 48, 65504.0: 0x40EFFC << 40},
}

Regexes = Iterable[str] | str | None
Progress = Callable[[int, int], None]
Piece = tuple[np.ndarray, np.ndarray]


@dataclass(eq=False, slots=True)
class TensorPrecision(PrecisionProfile):
    """The profile of one tensor of a model.

    Attributes
    ----------
    tensor : Tensor
    before : Evidence or None
        Of values that converters change, unless they are BF16 as they stand: what they were before.
    first : dict of str to int
        Where the first ``nan`` and the first ``inf`` stand, if there are any.
    is_swapped : bool
        The words make weights if their bytes are swapped, and none as they stand.
    """

    tensor: Tensor
    before: Evidence | None = None
    first: dict[str, int] = field(default_factory=dict)
    is_swapped: bool = False

    @property
    def is_made(self) -> bool:
        """A converter makes the tensor, of settings and not of weights, as ``rope_freqs.weight``."""
        from truebits.precision.converters import is_made

        return is_made(self.tensor.name)

    @property
    def origin(self) -> Origin:
        """The format the values came from, and how sure that is; before the converter changed them."""
        from truebits.precision.origin import origin_of

        return origin_of([self])


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


@dataclass(frozen=True)
class Batch:
    """Ranges of one storage type in one file, for one kernel call.

    Attributes
    ----------
    tensors : tuple of Tensor
        One for each range; a long tensor goes through several batches.
    words : ndarray
        Read-only view of the mapping, in words of the type's size.
    starts, stops : ndarray of int64
        In words.
    """

    tensors: tuple[Tensor, ...]
    words: np.ndarray
    starts: np.ndarray
    stops: np.ndarray


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
    return Coverage.of(report.model.tensors, not_read, {tensor.name for tensor in selected})


def _why_not(tensor: Tensor) -> str:
    if tensor.type in WHOLE_NUMBERS:
        return NO_WEIGHTS
    if tensor.type in BLOCK_LAYOUTS:
        return "quantized, read with --blocks"
    return "unknown type" if tensor.opaque else "no reader for this type"


def profiles(
    model: Model,
    tensors: list[Tensor],
    architecture: str | None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, TensorPrecision]:
    """Count each of a model's floating-point tensors, in the order given."""
    native.expect_work("profiles", sum(tensor.values for tensor in tensors))
    pieces: dict[str, list[Piece]] = {tensor.name: [] for tensor in tensors}
    first: dict[str, dict[str, int]] = {tensor.name: {} for tensor in tensors}
    seen, swapped = dict.fromkeys(pieces, 0), set()
    for batch in batches(model, tensors, progress):
        counted = list(_pieces(batch, threads))
        for tensor, piece in counted:
            pieces[tensor.name].append(piece)
        for (tensor, (bins, _)), start, stop in zip(counted, batch.starts.tolist(), batch.stops.tolist(), strict=False):
            words = batch.words[start:stop]
            first[tensor.name] = _special(tensor.type, bins, words, seen[tensor.name]) | first[tensor.name]
            if not seen[tensor.name] and is_swapped(words, tensor.type, bins):
                swapped.add(tensor.name)
            seen[tensor.name] += stop - start
    found = {tensor.name: _joined(tensor, pieces[tensor.name]) for tensor in tensors}
    for name, precision in found.items():
        precision.first, precision.is_swapped = first[name], name in swapped
    _undo_conversion(model, found, architecture)
    return found


def _special(type: str, bins: np.ndarray, words: np.ndarray, before: int) -> dict[str, int]:
    """Return where in a tensor the first NaN and Inf of a range stand, `before` values after its start."""
    layout = LAYOUTS[type]
    masks = {"nan": layout.is_nan, "inf": layout.is_inf}
    return {
        kind: before + int(mask[native.bins_of(words, type)].argmax())
        for kind, mask in masks.items()
        if mask[bins].any()
    }


def _undo_conversion(model: Model, found: dict[str, TensorPrecision], architecture: str | None) -> None:
    """Judge the F32 tensors whose values converters change as they were before; these are small."""
    from truebits.precision.converters import is_changed

    if not is_changed(architecture):
        return
    from truebits.precision.evidence import Evidence
    from truebits.precision.origin import BITS_WANTED
    from truebits.precision.undone import before, bits_of_fp16, change_of

    for name, precision in found.items():
        if precision.type != "F32" or precision.fits("bf16") == precision.values:
            continue
        change = change_of(architecture, name)
        if change is None:
            continue
        is_fp16, bits, parts = precision.fits("fp16") == precision.values, 0, []
        for batch in batches(model, [precision.tensor]):
            words = np.concatenate([batch.words[a:b] for a, b in zip(batch.starts, batch.stops, strict=True)])
            parts.append(before(words, change))
            bits += bits_of_fp16(words, change) if is_fp16 else 0
        if bits < BITS_WANTED:
            precision.before = Evidence.merge(parts)


def low_bits(
    source: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    bits: int = 16,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Count, in each F32 tensor, the values whose low `bits` bits are zero: one number, at memory speed.

    Parameters are those of `scan`.

    Returns
    -------
    dict of str to int
        By tensor name, in file order.

    Raises
    ------
    UsageError
        `bits` is not 1 to 31, or no F32 tensor is selected.
    """
    if not 1 <= bits <= 31:
        raise errors.UsageError(f"bits is {bits}, allowed are 1 to 31 of an F32's 32")
    model = source if isinstance(source, Model) else open_model(source)
    chosen = floating(model.select(select, exclude), ("F32",), asked=True)
    native.expect_work("matching_counts", sum(tensor.values for tensor in chosen))
    counts = {tensor.name: 0 for tensor in chosen}
    for batch in batches(model, chosen, progress):
        found = native.low_zero_counts(batch.words, batch.starts, batch.stops, bits, threads)
        for tensor, count in zip(batch.tensors, found.tolist(), strict=True):
            counts[tensor.name] += count
    return counts


def negative_zeros(model: Model, tensors: Iterable[Tensor], threads: int | None = None) -> dict[str, int]:
    """Count, in each tensor, the values that are -0: a profile does not tell them from 0."""
    counts = {tensor.name: 0 for tensor in tensors}
    for batch in batches(model, tensors):
        bits = LAYOUTS[batch.tensors[0].type].word_bits
        whole = (1 << bits) - 1
        found = native.matching_counts(batch.words, batch.starts, batch.stops, whole, 1 << (bits - 1), threads)
        for tensor, count in zip(batch.tensors, found.tolist(), strict=True):
            counts[tensor.name] += count
    return counts


def floating(tensors: Iterable[Tensor], types: Iterable[str], asked: bool) -> list[Tensor]:
    """Keep the tensors of the given types; if none is left and some were `asked` for, refuse."""
    tensors, types = list(tensors), tuple(types)
    kept = [tensor for tensor in tensors if tensor.type in types]
    if not kept and asked:
        others = ", ".join(sorted({tensor.type for tensor in tensors})) or "no tensor at all"
        raise errors.SelectionError(f"no {' or '.join(types)} tensor is selected, only {others}")
    return kept


def batches(model: Model, tensors: Iterable[Tensor], progress: Progress | None = None) -> Iterator[Batch]:
    """Yield the tensors' words batch by batch, in file order within each storage type.

    The words of a block type are bytes; a batch has whole blocks.
    """
    tensors = sorted(tensors, key=attrgetter("part", "type", "offset"))
    total = sum(tensor.nbytes for tensor in tensors)
    done = 0
    for part, of_part in groupby(tensors, key=attrgetter("part")):
        with model.parts[part].map() as file:
            for type, of_type in groupby(of_part, key=attrgetter("type")):
                for batch, nbytes in _batches_of_type(file, list(of_type), *_units(type)):
                    yield batch
                    done += nbytes
                    if progress is not None:
                        progress(done, total)


def _units(type: str) -> tuple[int, int]:
    """Return how many bytes a word of a type has, and what a batch may not cut through."""
    if type in FLOAT_BYTES:
        return FLOAT_BYTES[type], FLOAT_BYTES[type]
    return 1, BLOCK_LAYOUTS[type].nbytes


def _batches_of_type(file: MappedFile, tensors: list[Tensor], item: int, unit: int) -> Iterator[tuple[Batch, int]]:
    starts = np.array([tensor.offset for tensor in tensors], np.int64)
    stops = starts + np.array([tensor.nbytes for tensor in tensors], np.int64)
    owner, begin, end = cut(starts, stops, BATCH_BYTES // unit * unit)
    if not owner.size:
        return
    sizes = end - begin
    filled = (np.cumsum(sizes) - sizes) // BATCH_BYTES
    splits = np.flatnonzero(np.diff(filled)) + 1
    for which in np.split(np.arange(owner.size), splits):
        runs = list(_runs(begin[which], end[which]))
        file.check()
        for start, stop in runs:
            file.expect(start, stop)
        owners = tuple(tensors[i] for i in owner[which].tolist())
        yield _batch(file, owners, begin[which], end[which], item), int(sizes[which].sum())
        for start, stop in runs:
            file.forget(start, stop)


def _batch(file: MappedFile, tensors: tuple[Tensor, ...], begin: np.ndarray, end: np.ndarray, item: int) -> Batch:
    """View the ranges in words; where the file does not align them, copy them."""
    dtype = np.dtype(f"<u{item}")
    if not (begin % item).any():
        words = np.frombuffer(file.data, dtype, count=file.identity.size // item)
        return Batch(tensors, words, begin // item, end // item)
    ranges = zip(begin.tolist(), end.tolist(), strict=True)
    words = np.concatenate([np.frombuffer(file.data, np.uint8, b - a, a) for a, b in ranges]).view(dtype)
    words.flags.writeable = False
    lengths = (end - begin) // item
    stops = np.cumsum(lengths)
    return Batch(tensors, words, stops - lengths, stops)


def _runs(begin: np.ndarray, end: np.ndarray) -> Iterator[tuple[int, int]]:
    """Join ranges that lie close together."""
    breaks = np.flatnonzero(begin[1:] > end[:-1] + RUN_GAP) + 1
    firsts, lasts = np.append(0, breaks), np.append(breaks, begin.size) - 1
    return zip(begin[firsts].tolist(), end[lasts].tolist(), strict=True)


def _pieces(batch: Batch, threads: int | None) -> Iterator[tuple[Tensor, Piece]]:
    """Count each range of a batch; further pieces move values that are counted apart to their own bins."""
    type = batch.tensors[0].type
    layout = LAYOUTS[type]
    bins, counts, splits = native.profiles(batch.words, batch.starts, batch.stops, type, threads)
    borders = splits.tolist()
    for tensor, a, b in zip(batch.tensors, borders, borders[1:], strict=False):
        yield tensor, (bins[a:b], counts[a:b])
    for magnitude, word in WORDS_APART[type].items():
        suspect, own = layout.bin_of(*APART[magnitude]), layout.bin_apart(magnitude)
        owners = np.searchsorted(splits, np.flatnonzero(bins == suspect), "right") - 1
        if owners.size:
            without_sign = (1 << (layout.word_bits - 1)) - 1
            ranges = batch.starts[owners], batch.stops[owners]
            found = native.matching_counts(batch.words, *ranges, without_sign, word, threads)
            for owner, count in zip(owners.tolist(), found.tolist(), strict=True):
                yield batch.tensors[owner], (np.array([suspect, own]), np.array([-count, count]))


def _joined(tensor: Tensor, pieces: list[Piece]) -> TensorPrecision:
    """Add up the pieces of one tensor; most have one, an empty tensor none."""
    if len(pieces) == 1:
        return TensorPrecision(tensor.type, *pieces[0], tensor)
    nothing = np.empty(0, np.int64)
    bins = np.concatenate([nothing, *(bins for bins, _ in pieces)])
    counts = np.concatenate([nothing, *(counts for _, counts in pieces)])
    whole = PrecisionProfile.of(tensor.type, bins, counts)
    return TensorPrecision(whole.type, whole.bins, whole.counts, tensor)
