"""Tensors whose names tell nothing: found in the checkpoint by their values."""

from __future__ import annotations

from dataclasses import replace

from truebits.comparing.diff import Side, spans
from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.files.types import FLOAT_BYTES
from truebits.lineage.layout import PIECE_VALUES, strips, whole
from truebits.lineage.matching import Matching, Pair
from truebits.lineage.source import Files
from truebits.lineage.ways import same
from truebits.precision.converters import Kind

FIRST_VALUES = 256
"""Looked at of every candidate before all of one is."""


def found_by_value(matching: Matching, model: Model, source: Model, ours: Files, theirs: Files) -> Matching:
    """Give each tensor of the GGUF without a namesake the one tensor left over that has its very values."""
    left = {one.tensor.name: one for one in matching.left_out}
    free = [one.tensor for one in matching.left_out if one.why is None and one.tensor.type in FLOAT_BYTES]
    pairs = []
    for pair in matching.pairs:
        found = None
        if _is_nameless(pair):
            side = Side(model, pair.tensor)
            file = ours[pair.tensor.part]
            same_size = (tensor for tensor in free if tensor.values == pair.tensor.values)
            found = next((one for one in same_size if _is_same(side, file, Side(source, one), theirs[one.part])), None)
        if found is not None:
            free.remove(found)
            del left[found.name]
            pair = replace(pair, sources=(found,), strips=strips([found.shape], whole), is_renamed=True)
        pairs.append(pair)
    return Matching(tuple(pairs), matching.missing, tuple(left.values()))


def _is_nameless(pair: Pair) -> bool:
    is_made = pair.has(Kind.MADE) or pair.has(Kind.COMPUTED)
    return not pair.sources and not is_made and pair.tensor.type in FLOAT_BYTES and pair.tensor.values > 0


def _is_same(ours: Side, file: MappedFile, theirs: Side, other: MappedFile) -> bool:
    first = min(FIRST_VALUES, ours.tensor.values)
    return all(
        same(ours.words(file, at, count, "F32"), theirs.words(other, at, count, "F32")).all()
        for at, count in [(0, first), *spans(ours.tensor.values, PIECE_VALUES)]
    )
