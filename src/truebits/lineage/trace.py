"""A GGUF against the checkpoint that it claims to come from: what became of every tensor on the way.

What a converter does is done to the checkpoint's tensors, in F32, and the result is compared with the GGUF
bit for bit. First as if nothing had gone wrong, which reads each side once; only a tensor that is not so
is looked at again, to find out what became of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

import truebits_native as native
from truebits.comparing.diff import ITEM_BYTES, Place, Side
from truebits.errors import UsageError, printable
from truebits.files.model import Model, open_gguf, open_model
from truebits.files.tensor import Tensor
from truebits.lineage.judge import Comparison, Outcome
from truebits.lineage.matching import Pair, match
from truebits.lineage.source import Expected
from truebits.lineage.ways import Verdict
from truebits.precision.converters import UNDONE, Kind, is_known
from truebits.precision.scan import Progress, Regexes

COMPUTED = (str(Kind.ADDED), str(Kind.EXPONENTIAL))
"""How the names of transforms begin that change values."""

SCALES = ("_scale_inv", "_scale", "_scale_2")
"""What follows a weight's name in the name of its scales, where a checkpoint is quantized itself."""


@dataclass(frozen=True)
class TensorTrace:
    """What became of one tensor.

    Attributes
    ----------
    name : str
        In the GGUF, where the tensor is or should be.
    type : str or None
        In the GGUF; None if missing.
    sources : tuple of str
        Names in the checkpoint: of each expert, where they were stacked.
    source_type : str or None
    values : int
    verdict : Verdict
    detail : str
        The format rounded to, how far a comparison goes, or why there is none.
    transforms : tuple of str
        What the converter does, and was done here: ``permuting heads``, ``adding 1``.
    changed : int
        Values that the way from the checkpoint changed.
    differing : int
        If altered: values that no way explains.
    first : Place or None
        If altered: the first of them, `a` in the GGUF, `b` as it should be.
    error : float or None
        If quantized: root of the squared error over the squares of the source.
    is_matrix : bool
        It has more than one dimension.
    left_out : int
        Rows at the end of the source that are not in the GGUF: tokens that the vocabulary does not have.
    """

    name: str
    type: str | None
    sources: tuple[str, ...]
    source_type: str | None
    values: int
    verdict: Verdict
    detail: str = ""
    transforms: tuple[str, ...] = ()
    changed: int = 0
    differing: int = 0
    first: Place | None = None
    error: float | None = None
    is_matrix: bool = False
    left_out: int = 0

    @property
    def described(self) -> str:
        """All that is known as a phrase: ``upcast, exact; transformed by permuting heads``."""
        return self._phrase(self.detail)

    @property
    def summary(self) -> str:
        """The same without what is one tensor's own: figures, and where it is altered."""
        return self._phrase("" if self.verdict in (Verdict.CONSISTENT, Verdict.ALTERED) else self.detail)

    def _phrase(self, detail: str) -> str:
        text = f"{self.verdict} with {self.type}" if self.verdict is Verdict.CONSISTENT else str(self.verdict)
        if detail and self.verdict in (Verdict.ROUNDED, Verdict.TRUNCATED):
            text += f"{_joined(self.verdict)}{detail}"
        elif detail:
            text += f" ({detail})"
        return f"{text}; transformed by {', '.join(self.transforms)}" if self.transforms else text

    @property
    def part(self) -> str:
        """``norms``, ``vectors`` or ``matrices``."""
        words = self.name.removesuffix(".weight").removesuffix(".bias")
        if words.endswith("norm"):
            return "norms"
        return "matrices" if self.is_matrix else "vectors"


@dataclass(frozen=True)
class Trace:
    """What `trace` found.

    Attributes
    ----------
    gguf, source : str
        Paths.
    architecture : str
    is_known : bool
        Whether it is known what converters do to the architecture; if not, values are compared as they are.
    tensors : tuple of TensorTrace
        Of the GGUF in its order, then those that it should have.
    unmatched : tuple of str
        Names in the checkpoint that have no place in a GGUF of this architecture, or not in this one.
    """

    gguf: str
    source: str
    architecture: str
    is_known: bool
    tensors: tuple[TensorTrace, ...] = field(repr=False)
    unmatched: tuple[str, ...] = ()

    @property
    def is_faithful(self) -> bool:
        """Nothing is altered, missing or extra."""
        return not any(tensor.verdict.is_fault for tensor in self.tensors)

    @property
    def counts(self) -> dict[Verdict, int]:
        """Number of tensors by verdict."""
        return dict(Counter(tensor.verdict for tensor in self.tensors))

    @property
    def conclusion(self) -> str:
        """What the trace comes to, in a sentence that can be quoted."""
        compared = [t for t in self.tensors if t.verdict not in (*_OUTSIDE, Verdict.MISSING, Verdict.EXTRA)]
        if not compared:
            return "no tensor could be compared with this checkpoint"
        start = "converted from this checkpoint" if self.is_faithful else "not this checkpoint as it is"
        phrases = [
            _phrase(part, members)
            for part in ("norms", "vectors", "matrices")
            if (members := [tensor for tensor in compared if tensor.part == part])
        ]
        counts = self.counts
        phrases += [f"{counts[v]:,} {v}" for v in (Verdict.MISSING, Verdict.EXTRA, *_OUTSIDE) if v in counts]
        return f"{start}: {'; '.join(phrases)}"


_OUTSIDE = (Verdict.MADE, Verdict.UNCOMPARED)


def _phrase(part: str, members: Sequence[TensorTrace]) -> str:
    """Say what became of the norms, the vectors or the matrices."""
    groups: dict[str, int] = {}
    for tensor in members:
        text = _outcome(tensor)
        groups[text] = groups.get(text, 0) + 1
    return ", ".join(
        f"{count:,} of {len(members):,}{f' {part}' if number == 0 else ''} {text}"
        for number, (text, count) in enumerate(groups.items())
    )


def _outcome(tensor: TensorTrace) -> str:
    if tensor.verdict.is_exact:
        computed = [text for text in tensor.transforms if text.startswith(COMPUTED)]
        how = "to one unit in the last place" if str(Kind.EXPONENTIAL) in computed else "bit-identical to"
        return ", ".join([f"{how} the {tensor.source_type} source", *computed])
    if tensor.verdict is Verdict.CONSISTENT:
        return f"consistent with {tensor.type}"
    if tensor.verdict is Verdict.SAME_BLOCKS:
        return f"byte for byte the reference quantizer's {tensor.type}"
    if tensor.verdict in (Verdict.ROUNDED, Verdict.TRUNCATED):
        return f"{tensor.verdict}{_joined(tensor.verdict)}{tensor.detail}"
    return str(tensor.verdict)


def _joined(verdict: Verdict) -> str:
    """Return what stands before a format: "rounded to nearest BF16", "truncated to BF16"."""
    return " to " if verdict is Verdict.TRUNCATED else " "


def trace(
    gguf: Model | str | os.PathLike[str],
    source: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    thorough: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Trace:
    """Compare a GGUF with the checkpoint that it was converted from.

    Parameters
    ----------
    gguf, source : Model or path-like
        A GGUF; a Hugging Face folder, an index or a safetensors file.
    select, exclude : regex or regexes, optional
        On names of the GGUF's tensors. With a selection nothing is called missing.
    thorough : bool
        Quantize all of each quantized tensor again, not only its first 262,144 values.
    threads, progress
        As for `scan`.

    Returns
    -------
    Trace

    Raises
    ------
    NotTheSource
        The headers tell that the GGUF is not of this checkpoint; no data is read then.
    UsageError
        The GGUF's architecture is not known to gguf-py, or the source is no checkpoint.
    SelectionError, ModelFileError, OSError
    """
    model = open_gguf(gguf)
    checkpoint = source if isinstance(source, Model) else open_model(source)
    if checkpoint.format != "safetensors":
        raise UsageError(f"{printable(str(checkpoint.path))} is a GGUF: a checkpoint is expected, as safetensors")
    chosen = {tensor.name for tensor in model.select(select, exclude)}
    matching = match(model, checkpoint)
    pairs = [pair for pair in matching.pairs if pair.tensor.name in chosen]
    native.expect_work("rounding", sum(pair.tensor.values for pair in pairs))
    found = list(_tensors(model, checkpoint, pairs, Settings(thorough, threads), progress))
    if not (select or exclude):
        found += [_missing(name, tensor) for name, tensor in matching.missing]
    architecture = str(model.value("general.architecture"))
    unmatched = tuple(tensor.label for tensor in matching.unmatched)
    paths = str(model.path), str(checkpoint.path)
    return Trace(*paths, printable(architecture), is_known(architecture), tuple(found), unmatched)


class Settings(NamedTuple):
    """What a trace was asked for."""

    thorough: bool
    threads: int | None


def _tensors(
    model: Model, source: Model, pairs: Sequence[Pair], settings: Settings, progress: Progress | None
) -> Iterator[TensorTrace]:
    """Trace tensor after tensor, all files mapped."""
    total, done = sum(pair.tensor.nbytes for pair in pairs), 0
    names = {tensor.name for tensor in source.tensors}
    with ExitStack() as stack:
        ours, theirs = (
            {number: stack.enter_context(part.map()) for number, part in enumerate(of.parts)} for of in (model, source)
        )

        reached = 0

        def advance(count: int) -> None:
            nonlocal reached
            for file in (*ours.values(), *theirs.values()):
                file.check()
            reached = max(reached, done + count)  # a tensor may be looked at twice
            if progress is not None:
                progress(reached, total)

        for pair in pairs:
            outcome = _outside(pair, names)
            if outcome is None:
                file = ours[pair.tensor.part]
                expected, side = Expected(source, theirs, pair), Side(model, pair.tensor)
                outcome = Comparison(expected, side, file, *settings, advance).outcome()
                if outcome.verdict is Verdict.ALTERED and pair.has(Kind.REARRANGED):
                    outcome = Outcome(Verdict.UNCOMPARED, _reason(pair, Kind.REARRANGED))
            done += pair.tensor.nbytes
            advance(0)
            yield _traced(pair, outcome)


def _outside(pair: Pair, names: Collection[str]) -> Outcome | None:
    """Say what becomes of a tensor that is not compared; None if it is."""
    if pair.has(Kind.MADE) and not pair.sources:
        return Outcome(Verdict.MADE, _reason(pair, Kind.MADE))
    for kind in (Kind.COMPUTED, Kind.REARRANGED):
        if pair.has(kind) and (kind is Kind.COMPUTED or not pair.sources or pair.problem):
            return Outcome(Verdict.UNCOMPARED, _reason(pair, kind))
    if not pair.sources:
        return Outcome(Verdict.EXTRA)
    if pair.problem:
        return Outcome(Verdict.ALTERED, pair.problem, differing=pair.tensor.values)
    types = {tensor.type for tensor in pair.sources}
    if len(types) > 1 or not types <= ITEM_BYTES.keys():
        return Outcome(Verdict.UNCOMPARED, f"the source is {' and '.join(sorted(types))}")
    scaled = [tensor.label for tensor in pair.sources if any(tensor.name + end in names for end in SCALES)]
    if scaled:
        return Outcome(Verdict.UNCOMPARED, f"{scaled[0]} is quantized, with scales of its own")
    if not pair.tensor.values:
        return Outcome(Verdict.IDENTICAL)
    return None


def _reason(pair: Pair, kind: Kind) -> str:
    return next(f"{row.kind}: {row.source}" for row in pair.transforms if row.kind is kind)


def _traced(pair: Pair, outcome: Outcome) -> TensorTrace:
    tensor, sources = pair.tensor, pair.sources
    applied = outcome.verdict not in (Verdict.MADE, Verdict.UNCOMPARED, Verdict.EXTRA)
    return TensorTrace(
        tensor.label,
        tensor.type,
        tuple(source.label for source in sources),
        sources[0].type if sources else None,
        tensor.values,
        transforms=tuple(str(row) for row in pair.transforms if row.kind in UNDONE) if applied else (),
        is_matrix=len(tensor.shape) > 1,
        left_out=pair.rows_left_out,
        **outcome._asdict(),
    )


def _missing(name: str, tensor: Tensor) -> TensorTrace:
    is_matrix = len(tensor.shape) > 1
    return TensorTrace(
        printable(name), None, (tensor.label,), tensor.type, tensor.values, Verdict.MISSING, is_matrix=is_matrix
    )
