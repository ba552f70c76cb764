"""What names and sizes do not tell and values do: whose a tensor is, and how many heads it has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from truebits.comparing.sides import Side, spans
from truebits.files.mapping import Files
from truebits.files.types import FLOAT_BYTES, FLOAT_FORMATS
from truebits.lineage.layout import PIECE_VALUES, strips, whole
from truebits.lineage.matching import Matching, Pair
from truebits.lineage.source import Expected
from truebits.lineage.ways import Cast, same
from truebits.precision.converters import Kind

FIRST_VALUES = 256
"""Looked at of every candidate before all of one is."""


def found_by_value(matching: Matching, ours: Files, theirs: Files) -> Matching:
    """Give each tensor of the GGUF without a namesake the one tensor left over that has its very values."""
    left = {one.tensor.name: one for one in matching.left_out}
    free = [one.tensor for one in matching.left_out if one.why is None and one.tensor.type in FLOAT_BYTES]
    pairs = []
    for pair in matching.pairs:
        found = None
        if pair.candidates:
            pair = _with_heads(pair, ours, theirs)
        if _is_nameless(pair):
            side = Side(pair.tensor, ours)
            same_size = (tensor for tensor in free if tensor.values == pair.tensor.values)
            found = next((one for one in same_size if _is_same(side, Side(one, theirs))), None)
        if found is not None:
            free.remove(found)
            del left[found.name]
            pair = replace(pair, sources=(found,), strips=strips([found.shape], whole), is_renamed=True)
        pairs.append(pair)
    return replace(matching, pairs=tuple(pairs), left_out=tuple(left.values()))


def _with_heads(pair: Pair, ours: Files, theirs: Files) -> Pair:
    """Lay a pair out as the first candidate has it of which every value is the GGUF's; else leave it as it is."""
    side = Side(pair.tensor, ours)
    readers = [Side(tensor, theirs) for tensor in pair.sources]
    if pair.tensor.type not in FLOAT_BYTES or any(reader.type not in FLOAT_BYTES for reader in readers):
        return pair
    cast = Cast(FLOAT_FORMATS[pair.tensor.type])
    for candidate in pair.candidates:
        laid = replace(pair, strips=candidate, problem=None, candidates=())
        expected = Expected(readers, laid)
        if all(_is_rounded(expected, cast, side.words(*span, "F32"), *span) for span in expected.spans(1)):
            return laid
    return pair


def _is_rounded(expected: Expected, cast: Cast, stored: np.ndarray, first: int, count: int) -> bool:
    words = expected.singles(expected.words(first, count))
    if cast.format != "f32":
        cast.apply(words, None)
    return bool(same(stored, words).all())


def _is_nameless(pair: Pair) -> bool:
    is_made = pair.has(Kind.MADE) or pair.has(Kind.COMPUTED)
    return not pair.sources and not is_made and pair.tensor.type in FLOAT_BYTES and pair.tensor.values > 0


def _is_same(ours: Side, theirs: Side) -> bool:
    first = min(FIRST_VALUES, ours.tensor.values)
    return all(
        same(ours.words(at, count, "F32"), theirs.words(at, count, "F32")).all()
        for at, count in [(0, first), *spans(ours.tensor.values, PIECE_VALUES)]
    )
