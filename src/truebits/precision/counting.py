"""Words -> counts: what kernels count in a model's floating-point tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

import truebits_native as native
from truebits import errors
from truebits.files.garbage import uncollected
from truebits.files.model import Model, Regexes, open_model
from truebits.files.tensor import Tensor
from truebits.files.types import SMALL_FLOATS
from truebits.precision.batches import Batch, Progress, batches, over_batches
from truebits.precision.bins import APART, FLOAT_LAYOUTS
from truebits.precision.profile import PrecisionProfile
from truebits.precision.swapped import is_swapped, perhaps_swapped

if TYPE_CHECKING:
    from truebits.precision.evidence import Evidence
    from truebits.precision.origin import Origin

WORDS_APART = {
    "F32": {480.0: 0x43F00000, 65504.0: 0x477FE000},
    "F16": {480.0: 0x5F80, 65504.0: 0x7BFF},
    "BF16": {480.0: 0x43F0},
    "F64": {480.0: 0x407E << 48, 65504.0: 0x40EFFC << 40},
}

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
    _origin: Origin | None = field(default=None, init=False, repr=False)

    @property
    def stored(self) -> str:
        """The storage type; `type` but for quantized checkpoints, whose values are counted as F32."""
        return self.tensor.type

    @property
    def is_plain(self) -> bool:
        """The values stand in the file as they are counted."""
        return self.tensor.type == self.type

    @property
    def is_scaled(self) -> bool:
        """Each value is a code times a scale, or more: it has no precision of its own."""
        return not self.is_plain and self.stored not in SMALL_FLOATS

    @property
    def narrowest(self) -> str | None:
        """As for any profile; None for what is quantized, and so narrower than any."""
        return super(TensorPrecision, self).narrowest if self.is_plain else None

    @property
    def is_made(self) -> bool:
        """A converter makes the tensor, of settings and not of weights, as ``rope_freqs.weight``."""
        from truebits.precision.converters import is_made

        return is_made(self.tensor.name)

    @property
    def origin(self) -> Origin:
        """The format the values came from, and how sure that is; before the converter changed them."""
        from truebits.precision.origin import origin_of

        if self._origin is None:
            self._origin = origin_of([self])
        return self._origin


@dataclass(frozen=True)
class Counts:
    """What was counted in tensors, or in ranges of them; adds up.

    Attributes
    ----------
    pieces : dict of str to tuple of (ndarray, ndarray)
        By tensor that has values: bins and counts, of one part of it or several.
    first : dict of str to dict of str to int
        By tensor that has any, where the first ``nan`` and ``inf`` stand.
    swapped : set of str
        Tensors whose first words make weights if their bytes are swapped.
    """

    pieces: dict[str, tuple[Piece, ...]]
    first: dict[str, dict[str, int]]
    swapped: set[str]

    @classmethod
    def merge(cls, parts: Iterable[Counts]) -> Counts:
        """Add counts of ranges up; of a tensor those of its start come first."""
        whole = cls({}, {}, set())
        for part in parts:
            for name, pieces in part.pieces.items():
                whole.pieces[name] = whole.pieces.get(name, ()) + pieces
            for name, places in part.first.items():
                whole.first[name] = places | whole.first.get(name, {})
            whole.swapped.update(part.swapped)
        return whole


def profiles(
    model: Model,
    tensors: list[Tensor],
    architecture: str | None,
    threads: int | None = None,
    progress: Progress | None = None,
    counts: Counts | None = None,
) -> dict[str, TensorPrecision]:
    """Count each of a model's floating-point tensors, in the order given, unless they are counted already."""
    counts = counts or count_words(model, tensors, threads, progress)
    with uncollected():
        found = {tensor.name: joined(tensor, tensor.type, counts.pieces.get(tensor.name, ())) for tensor in tensors}
    for name in found.keys() & counts.first.keys():
        found[name].first = counts.first[name]
    for name in found.keys() & counts.swapped:
        found[name].is_swapped = True
    _undo_conversion(model, found, architecture)
    return found


def count_words(
    model: Model, tensors: list[Tensor], threads: int | None = None, progress: Progress | None = None
) -> Counts:
    """Count the words of tensors, or of ranges of them: no more than one of each."""
    is_large = native.expect_work("profiles", sum(tensor.values for tensor in tensors))
    return Counts.merge(counts for _, counts in over_batches(count_batch, model, tensors, threads, progress, is_large))


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
    model = open_model(source)
    chosen = floating(model.select(select, exclude), ("F32",), asked=True)
    is_large = native.expect_work("matching_counts", sum(tensor.values for tensor in chosen))
    counts = {tensor.name: 0 for tensor in chosen}

    def counted(batch: Batch) -> np.ndarray:
        return native.low_zero_counts(batch.words, batch.starts, batch.stops, bits)

    for batch, found in over_batches(counted, model, chosen, threads, progress, is_large):
        for tensor, count in zip(batch.tensors, found.tolist(), strict=True):
            counts[tensor.name] += count
    return counts


def negative_zeros(model: Model, tensors: Sequence[Tensor], threads: int | None = None) -> dict[str, int]:
    """Count, in each tensor, the values that are -0: a profile does not tell them from 0."""
    is_large = native.expect_work("matching_counts", sum(tensor.values for tensor in tensors))
    counts = {tensor.name: 0 for tensor in tensors}

    def counted(batch: Batch) -> np.ndarray:
        bits = FLOAT_LAYOUTS[batch.tensors[0].type].word_bits
        return native.matching_counts(batch.words, batch.starts, batch.stops, (1 << bits) - 1, 1 << (bits - 1))

    for batch, found in over_batches(counted, model, tensors, threads, None, is_large):
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


def count_batch(batch: Batch) -> Counts:
    """Count each range of a batch."""
    bins, counts, splits = native.profiles(batch.words, batch.starts, batch.stops, batch.tensors[0].type)
    pieces: dict[str, tuple[Piece, ...]] = {}
    for tensor, (a, b) in zip(batch.tensors, pairwise(splits.tolist()), strict=True):
        pieces[tensor.name] = (*pieces.get(tensor.name, ()), (bins[a:b], counts[a:b]))
    for owner, piece in _moved(batch, bins, splits):
        pieces[batch.tensors[owner].name] += (piece,)
    return Counts(pieces, _special(batch, bins, splits), _swapped(batch, bins, counts, splits))


def _moved(batch: Batch, bins: np.ndarray, splits: np.ndarray) -> Iterator[tuple[int, Piece]]:
    """Move values that are counted apart to their own bins."""
    type = batch.tensors[0].type
    layout = FLOAT_LAYOUTS[type]
    for magnitude, word in WORDS_APART[type].items():
        suspect, own = layout.bin_of(*APART[magnitude]), layout.bin_apart(magnitude)
        owners = _owners(bins == suspect, splits)
        if owners.size:
            without_sign = (1 << (layout.word_bits - 1)) - 1
            ranges = batch.starts[owners], batch.stops[owners]
            found = native.matching_counts(batch.words, *ranges, without_sign, word)
            for owner, count in zip(owners.tolist(), found.tolist(), strict=True):
                yield owner, (np.array([suspect, own]), np.array([-count, count]))


def _special(batch: Batch, bins: np.ndarray, splits: np.ndarray) -> dict[str, dict[str, int]]:
    """Find where in its tensor the first NaN and Inf of each range stand."""
    type = batch.tensors[0].type
    layout = FLOAT_LAYOUTS[type]
    first: dict[str, dict[str, int]] = {}
    for kind, mask in {"nan": layout.is_nan, "inf": layout.is_inf}.items():
        for owner in reversed(_owners(mask[bins], splits).tolist()):
            words = batch.words[batch.starts[owner] : batch.stops[owner]]
            at = int(batch.firsts[owner]) + int(mask[native.bins_of(words, type)].argmax())
            first.setdefault(batch.tensors[owner].name, {})[kind] = at
    return first


def _swapped(batch: Batch, bins: np.ndarray, counts: np.ndarray, splits: np.ndarray) -> set[str]:
    """Name the tensors whose first words are swapped."""
    type = batch.tensors[0].type
    swapped = set()
    for i in np.flatnonzero(perhaps_swapped(type, bins, splits) & (batch.firsts == 0)).tolist():
        words, own = batch.words[batch.starts[i] : batch.stops[i]], slice(splits[i], splits[i + 1])
        if is_swapped(words, type, bins[own], counts[own]):
            swapped.add(batch.tensors[i].name)
    return swapped


def _owners(mask: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Return the ranges in which `mask` is True for any bin that occurs."""
    return np.flatnonzero(np.logical_or.reduceat(mask, splits[:-1]))


def joined(tensor: Tensor, type: str, pieces: Sequence[Piece]) -> TensorPrecision:
    """Add up the pieces of one tensor, counted as words of a type; most have one, an empty tensor none."""
    if len(pieces) == 1:
        return TensorPrecision(type, *pieces[0], tensor)
    nothing = np.empty(0, np.int64)
    bins = np.concatenate([nothing, *(bins for bins, _ in pieces)])
    counts = np.concatenate([nothing, *(counts for _, counts in pieces)])
    whole = PrecisionProfile.of(type, bins, counts)
    return TensorPrecision(whole.type, whole.bins, whole.counts, tensor)
