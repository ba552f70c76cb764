"""A GGUF's tensors and the tensors of the checkpoint that they were converted from, by their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import NamedTuple

import numpy as np

from truebits.errors import NotTheSource
from truebits.files.model import Model
from truebits.files.tensor import Tensor, shape_text
from truebits.lineage.facts import Facts
from truebits.lineage.layout import Arrange, Strip, strips, whole
from truebits.lineage.names import Names, why_left_out
from truebits.lineage.rearranging import permuted, targets
from truebits.precision.converters import Kind, Transform, is_known, transforms_of

PLAUSIBLE = 0.5
"""Of a GGUF's tensors, so many must have a namesake of their shape in the checkpoint."""

HEAD_SIZES = (64, 128, 32, 80, 96, 256, 48, 112, 160, 192, 16, 8)

CUT_AT_THE_END = ("token_embd.weight", "output.weight")
CUT_AT_THE_START = ("position_embd.weight",)
"""What converters leave rows of out: tokens that the vocabulary does not have, RoBERTa's first positions."""


class Home(NamedTuple):
    """A tensor of a checkpoint and how it goes into a GGUF's."""

    tensor: Tensor
    arrange: Arrange


class Unplaced(NamedTuple):
    """A tensor of a checkpoint that has no place in the GGUF.

    Attributes
    ----------
    tensor : Tensor
    why : str or None
        None if it is not known.
    """

    tensor: Tensor
    why: str | None


@dataclass(frozen=True)
class Pair:
    """A tensor of a GGUF and what it was made of.

    Attributes
    ----------
    tensor : Tensor
        In the GGUF.
    sources : tuple of Tensor
        In the checkpoint: one, or one of each expert in their order; empty if there is none.
    transforms : tuple of Transform
        What converters do to it on the way.
    strips : tuple of Strip
        Where the GGUF's values stand in the sources, in its order.
    problem : str or None
        Why the two cannot be compared although they have one name.
    is_unsure : bool
        What converters do to it is not known for certain: where much differs, it may be their doing.
    is_renamed : bool
        It was found by its values.
    candidates : tuple of tuple of Strip
        Where the number of heads is not known: what each would make of it.
    rows_left_out : int
        Rows of the source that converters leave out: tokens that the vocabulary does not have, and positions.
    """

    tensor: Tensor
    sources: tuple[Tensor, ...]
    transforms: tuple[Transform, ...] = ()
    strips: tuple[Strip, ...] = ()
    problem: str | None = None
    is_unsure: bool = False
    rows_left_out: int = 0
    is_renamed: bool = False
    candidates: tuple[tuple[Strip, ...], ...] = field(default=(), repr=False)

    def has(self, kind: Kind) -> bool:
        return _has(self.transforms, kind)


def _has(transforms: Sequence[Transform], kind: Kind) -> bool:
    return any(row.kind is kind for row in transforms)


@dataclass(frozen=True)
class Matching:
    """Which tensor is which.

    Attributes
    ----------
    pairs : tuple of Pair
        All of the GGUF, in its order.
    missing : tuple of (str, Tensor)
        GGUF name and source of tensors that the GGUF should have.
    left_out : tuple of Unplaced
        Of the checkpoint, with names that have no place in this GGUF.
    family : str
        The architecture, and of a projector whose it is.
    """

    pairs: tuple[Pair, ...]
    missing: tuple[tuple[str, Tensor], ...]
    left_out: tuple[Unplaced, ...]
    family: str


def match(model: Model, source: Model, swapped: Collection[str] = ()) -> Matching:
    """Match a GGUF with a checkpoint by their headers; no data is read.

    Parameters
    ----------
    model, source : Model
        Of a checkpoint that is quantized itself, what its tensors mean.
    swapped : collection of str
        Names of the source's tensors whose last two dimensions are stored the other way round.

    Raises
    ------
    NotTheSource
        Sizes, layers, names or shapes tell that the GGUF is not of this checkpoint.
    UsageError
        The GGUF does not say its architecture.
    """
    facts = Facts(model, source, swapped)
    facts.check()
    names = Names(facts.architecture, facts.layers)
    homes: defaultdict[str, dict[int, Home]] = defaultdict(dict)
    left_out = []
    known = {tensor.name for tensor in model.tensors}
    for tensor in source.tensors:
        places = _places(tensor, names, known, facts)
        if isinstance(places, str):
            left_out.append(Unplaced(tensor, places))
            continue
        places = {at: home for at, home in places.items() if at[1] not in homes[at[0]]}
        if not places:
            left_out.append(Unplaced(tensor, None))
        for (name, number), home in places.items():
            homes[name][number] = home
    pairs = tuple(_pair(tensor, homes, facts) for tensor in model.tensors)
    _check_plausible(pairs)
    missing = []
    for name, of in homes.items():
        first = next(iter(of.values()), None)
        if name in known or first is None:
            continue
        if facts.may_lack(name):
            left_out.append(Unplaced(first.tensor, "the same as the embedding"))
        elif is_known(facts.family):
            missing.append((name, first.tensor))
        else:
            left_out += [Unplaced(home.tensor, None) for home in of.values()]
    return Matching(pairs, tuple(missing), tuple(left_out), facts.family)


def _places(tensor: Tensor, names: Names, known: set[str], facts: Facts) -> dict[tuple[str, int], Home] | str:
    """Return where a tensor goes in the GGUF, by name and number; or why it goes nowhere."""
    why = why_left_out(tensor.name, facts.architecture)
    if why is not None:
        return why
    home, expert = names.find(tensor.name, known)
    if split := targets(tensor.name, known, facts):
        return {(target.name, expert): Home(tensor, target.arrange) for target in split}
    if home is None:
        return {}
    if facts.is_beyond(home):
        return "in a block that the GGUF leaves out"
    return {(home, expert): Home(tensor, whole)}


def _pair(tensor: Tensor, homes: Mapping[str, Mapping[int, Home]], facts: Facts) -> Pair:
    of = homes.get(tensor.name)
    if not of and tensor.name == "output.weight":  # embeddings that are the output, too
        of = homes.get("token_embd.weight")
    transforms = _transforms(tensor.name, facts)
    if not of:
        return Pair(tensor, (), transforms, is_unsure=not is_known(facts.family))
    found = [of[number] for number in sorted(of)]
    sources = tuple(home.tensor for home in found)
    arrange = found[0].arrange
    if arrange is not whole:
        kept = (Kind.ADDED, Kind.EXPONENTIAL, Kind.REARRANGED, Kind.SPLIT)
        transforms = tuple(row for row in transforms if row.kind in kept) or (_UNNAMED,)
    else:
        done = {Kind.STACKED} if len(sources) == 1 else set()
        done |= {Kind.PERMUTED} if not _is_of_halves(sources) else set()
        transforms = tuple(row for row in transforms if row.kind not in (Kind.SPLIT, *done))
    if len(sources) > 1 and not _has(transforms, Kind.STACKED):
        transforms = (*transforms, _STACKED)
    is_unsure = not is_known(facts.family) or (arrange is whole and _has(transforms, Kind.REARRANGED))
    pair = Pair(tensor, sources, transforms, is_unsure=is_unsure)
    return _laid_out(pair, arrange, facts)


_STACKED = Transform(Kind.STACKED, (), "", "one matrix of each expert")
_UNNAMED = Transform(Kind.REARRANGED, (), "", "split or reordered")


def _transforms(name: str, facts: Facts) -> tuple[Transform, ...]:
    """Return what converters do: to an adapter's second half what they do to the rows of what it changes."""
    stem, _, half = name.partition(".lora_")
    rows = transforms_of(facts.family, stem)
    return tuple(row for row in rows if not half or (half == "b" and row.kind is Kind.PERMUTED))


def _is_of_halves(sources: Sequence[Tensor]) -> bool:
    """Tell whether heads are in Hugging Face's order: Mistral's own files have wq, wk in ggml's order already."""
    return all(re.search(r"[qk]_proj(\.lora_B(\.\w+)?)?\.(weight|bias)$", source.name) for source in sources)


def _laid_out(pair: Pair, arrange: Arrange, facts: Facts) -> Pair:
    """Lay the sources out in the order of the GGUF, or say what keeps them from being compared."""
    shapes = [source.shape for source in pair.sources]
    if len(set(shapes)) > 1:
        return replace(pair, problem=f"its {len(shapes)} sources have several shapes", is_unsure=True)
    shape = shapes[0]
    left_out = _rows_left_out(pair) if arrange is whole else 0
    if pair.has(Kind.PERMUTED):
        heads = facts.heads(pair.tensor.name)
        if heads is None:
            problem = "the number of its heads is not known: the GGUF has no attention.head_count"
            return replace(pair, problem=problem, is_unsure=True, candidates=_candidates(shapes))
        arrange_all: Arrange = partial(_permuted, heads=heads) if heads else whole
    elif pair.has(Kind.TRANSPOSED) and arrange is whole:
        arrange_all = _transposed
    elif left_out:
        start = left_out if pair.tensor.name in CUT_AT_THE_START else 0
        arrange_all = partial(_rows, start=start, count=shape[0] - left_out)
    else:
        arrange_all = arrange
    if pair.sources[0].name in facts.swapped:
        shapes = [(*one[:-2], one[-1], one[-2]) for one in shapes]
        arrange_all = partial(_swapped, arrange=arrange_all)
    try:
        laid = strips(shapes, arrange_all)
    except (ValueError, IndexError) as error:
        return replace(pair, problem=str(error), is_unsure=pair.is_unsure or arrange is not whole)
    wrong = _shape_problem(pair, arrange, shape, left_out, laid)
    if wrong is not None:
        return replace(pair, problem=wrong, is_unsure=pair.is_unsure or arrange is not whole)
    return replace(pair, strips=laid, rows_left_out=left_out)


def _candidates(shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[Strip, ...], ...]:
    """Lay sources out for each number of heads of a usual size; first as they are."""
    rows = shapes[0][0] if shapes[0] else 0
    heads = [rows // size for size in HEAD_SIZES if rows % size == 0 and rows >= size]
    return (strips(shapes, whole), *(strips(shapes, partial(_permuted, heads=number)) for number in heads))


def _permuted(outline: np.ndarray, heads: int) -> list[np.ndarray]:
    return [permuted(outline, heads)]


def _swapped(outline: np.ndarray, arrange: Arrange) -> Sequence[np.ndarray]:
    return arrange(outline.swapaxes(-1, -2))


def _transposed(outline: np.ndarray) -> list[np.ndarray]:
    return [outline.T]


def _rows(outline: np.ndarray, start: int, count: int) -> list[np.ndarray]:
    return [outline[start : start + count]]


def _shape_problem(
    pair: Pair, arrange: Arrange, shape: tuple[int, ...], left_out: int, laid: Sequence[Strip]
) -> str | None:
    ours = tuple(d for d in pair.tensor.shape[::-1] if d != 1)
    theirs = (len(pair.sources), *shape) if pair.has(Kind.STACKED) else shape
    if pair.has(Kind.TRANSPOSED):
        theirs = theirs[::-1]
    if left_out:
        theirs = (theirs[0] - left_out, *theirs[1:])
    theirs = tuple(d for d in theirs if d != 1)
    values = sum(strip.values for strip in laid)
    is_same = values == prod(ours) if pair.has(Kind.RESHAPED) or arrange is not whole else ours == theirs
    if not is_same or (len(shape) != 2 and pair.has(Kind.TRANSPOSED) and arrange is whole):
        return f"its shape is {shape_text(ours)}, the source's {shape_text(theirs)}"
    return None


def _rows_left_out(pair: Pair) -> int:
    ours, theirs = pair.tensor.shape[::-1], pair.sources[0].shape
    is_table = pair.tensor.name in (*CUT_AT_THE_END, *CUT_AT_THE_START) and len(ours) == len(theirs) == 2
    return max(0, theirs[0] - ours[0]) if is_table and ours[1] == theirs[1] else 0


def _check_plausible(pairs: tuple[Pair, ...]) -> None:
    """Raise `NotTheSource` if too few tensors of a GGUF have a namesake of their shape."""
    asked = [pair for pair in pairs if not (pair.has(Kind.MADE) or pair.has(Kind.REARRANGED) or pair.is_unsure)]
    good = [pair for pair in asked if pair.sources and not pair.problem]
    if len(good) >= PLAUSIBLE * len(asked):
        return
    worst = next(pair for pair in asked if pair.problem or not pair.sources)
    why = worst.problem or "it has no namesake there"
    raise NotTheSource(
        f"not what this GGUF was made of: of its {len(asked):,} tensors, {len(good):,} are in the checkpoint by "
        f"name and shape; {worst.tensor.label}: {why}"
    )
