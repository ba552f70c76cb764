"""A GGUF against the checkpoint that it claims to come from: what became of every tensor on the way.

What a converter does is done to the checkpoint's tensors, in F32, and the result is compared with the GGUF
bit for bit. First as if nothing had gone wrong, which reads each side once; only a tensor that is not so
is looked at again, to find out what became of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import truebits_native as native
from truebits.comparing.sides import Side
from truebits.errors import UsageError, printable
from truebits.files.claims import missing_blocks
from truebits.files.mapping import Files
from truebits.files.model import Model, Regexes, open_gguf, open_model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.lineage.blocks import judge_blocks
from truebits.lineage.comparison import UNRELATED, Comparison, Effort, Outcome
from truebits.lineage.kin import Siblings
from truebits.lineage.matching import Matching, Pair, Unplaced, match
from truebits.lineage.mistakes import suspects
from truebits.lineage.plain import judge_plain
from truebits.lineage.renamed import found_by_value
from truebits.lineage.siblings import siblings
from truebits.lineage.source import Expected, reader_of, why_unread
from truebits.lineage.traces import LeftOut, TensorTrace, Trace
from truebits.lineage.ways import Verdict
from truebits.precision.batches import Progress
from truebits.precision.converters import UNDONE, Kind, is_known
from truebits.precision.coverage import NOT_SELECTED, Coverage
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.weights import meaning_of

ALL_ZERO = "all zero: the adapter does nothing there"


def trace(
    gguf: Model | str | os.PathLike[str],
    source: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    thorough: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Trace | Siblings:
    """Compare a GGUF with the checkpoint that it was converted from, or with another GGUF of it.

    Parameters
    ----------
    gguf, source : Model or path-like
        A GGUF; a Hugging Face folder, an index or a safetensors file, or a GGUF too.
    select, exclude : regex or regexes, optional
        On names of the GGUF's tensors. With a selection nothing is called missing.
    thorough : bool
        Quantize all of each quantized tensor again, not only its first 262,144 values.
    threads, progress
        As for `scan`.

    Returns
    -------
    Trace or Siblings
        Of a GGUF as source what `siblings` finds.

    Raises
    ------
    NotTheSource
        The headers tell that the GGUF is not of this checkpoint; no data is read then.
    UsageError
        The GGUF does not say its architecture, or is to be compared thoroughly with another GGUF.
    SelectionError, ModelFileError, OSError
    """
    model = open_gguf(gguf, remote=True)
    checkpoint = open_model(source)
    if checkpoint.format == "gguf":
        if thorough:
            raise UsageError("`thorough` is for a GGUF and its checkpoint, and both are GGUFs")
        return siblings([model, checkpoint], select, exclude, threads=threads, progress=progress)
    chosen = {tensor.name for tensor in model.select(select, exclude)}
    meant = meaning_of(checkpoint)
    matching = match(model, meant.model, meant.swapped)
    native.expect_work("rounding", sum(tensor.values for tensor in model.tensors if tensor.name in chosen))
    with model.map() as ours, checkpoint.map() as theirs:
        matching = found_by_value(matching, ours, theirs)
        pairs = [pair for pair in matching.pairs if pair.tensor.name in chosen]
        work = Work(model, meant, ours, theirs, Effort(thorough, threads), matching.left_out)
        found = list(work.traced(pairs, progress))
    is_whole = not (select or exclude)
    if is_whole:
        found += [_missing(name, tensor) for name, tensor in matching.missing]
        found += _promised(model)
    return Trace(
        str(model.path),
        str(checkpoint.path),
        printable(matching.family),
        is_known(matching.family),
        tuple(found),
        tuple(one.tensor.label for one in matching.left_out if one.why is None),
        tuple(LeftOut(one.tensor.label, one.why) for one in matching.left_out if one.why is not None),
        _coverage(matching, found, is_whole),
    )


class Work:
    """A GGUF and its checkpoint, all files mapped."""

    def __init__(
        self, model: Model, meant: Meaning, ours: Files, theirs: Files, settings: Effort, left_out: Sequence[Unplaced]
    ):
        self.model, self.meant, self.ours, self.theirs = model, meant, ours, theirs
        self.settings = settings
        self.unplaced = [one.tensor.values for one in left_out if one.why is None]

    def traced(self, pairs: Sequence[Pair], progress: Progress | None) -> Iterator[TensorTrace]:
        """Trace tensor after tensor."""
        total, done, reached = sum(pair.tensor.nbytes for pair in pairs), 0, 0

        def advance(count: int) -> None:
            nonlocal reached
            for file in (*self.ours.values(), *self.theirs.values()):
                file.check()
            reached = max(reached, done + count)  # a tensor may be looked at twice
            if progress is not None:
                progress(reached, total)

        for pair in pairs:
            outcome = self._outside(pair) or self._compared(pair, advance)
            done += pair.tensor.nbytes
            advance(0)
            yield _traced(pair, outcome)

    def _compared(self, pair: Pair, advance: Callable[[int], None]) -> Outcome:
        side = Side(pair.tensor, self.ours)
        expected = Expected([reader_of(self.meant, self.theirs, tensor) for tensor in pair.sources], pair)
        mistakes = tuple(suspects(pair, self.meant.quantized, self.theirs))
        judge = judge_plain if side.tensor.type in FLOAT_BYTES else judge_blocks
        outcome = judge(Comparison(expected, side, self.settings, advance, mistakes))
        if outcome.verdict is Verdict.ALTERED and pair.is_unsure and _is_unrelated(outcome, pair):
            return Outcome(Verdict.UNCOMPARED, _reason(pair))
        is_zero = pair.tensor.name.endswith(".lora_b") and not side.words(0, pair.tensor.values, "F32").any()
        return outcome._replace(detail=ALL_ZERO) if is_zero and not outcome.verdict.is_fault else outcome

    def _outside(self, pair: Pair) -> Outcome | None:
        """Say what becomes of a tensor that is not compared; None if it is."""
        if pair.has(Kind.MADE) and not pair.sources:
            return Outcome(Verdict.MADE, _reason(pair, Kind.MADE))
        if pair.has(Kind.COMPUTED):
            return Outcome(Verdict.UNCOMPARED, _reason(pair, Kind.COMPUTED))
        if not pair.sources:
            if (
                pair.is_unsure
                or pair.has(Kind.REARRANGED)
                or any(values >= pair.tensor.values for values in self.unplaced)
            ):
                return Outcome(Verdict.UNCOMPARED, "which of the checkpoint's tensors it was made of is not known")
            return Outcome(Verdict.EXTRA)
        if pair.problem:
            verdict = Verdict.UNCOMPARED if pair.is_unsure else Verdict.ALTERED
            return Outcome(verdict, pair.problem, differing=0 if pair.is_unsure else pair.tensor.values)
        why = why_unread(self.meant, self.theirs, pair)
        if why is not None:
            return Outcome(Verdict.UNCOMPARED, why)
        if not pair.tensor.values:
            return Outcome(Verdict.IDENTICAL)
        return None


def _is_unrelated(outcome: Outcome, pair: Pair) -> bool:
    """Tell whether so much differs that it may be the converter's doing, which is not known here."""
    if outcome.error is not None:
        return outcome.error > UNRELATED
    return 2 * outcome.differing > pair.tensor.values


def _reason(pair: Pair, *kinds: Kind) -> str:
    rows = (row for row in pair.transforms if row.kind in (kinds or (Kind.REARRANGED,)))
    return next((f"{row.kind}: {row.source}" for row in rows), "what converters do to it is not known")


def _traced(pair: Pair, outcome: Outcome) -> TensorTrace:
    tensor, sources = pair.tensor, pair.sources
    applied = outcome.verdict not in (Verdict.MADE, Verdict.UNCOMPARED, Verdict.EXTRA)
    if pair.is_renamed and not outcome.detail:
        outcome = outcome._replace(detail="known by its values, not by its name")
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


def _promised(model: Model) -> Iterator[TensorTrace]:
    """Yield the first block that the metadata promises and that has no tensor."""
    blocks = missing_blocks(model)
    if blocks is not None:
        yield TensorTrace(blocks.first, None, (), None, 0, Verdict.MISSING, blocks.message)


def _coverage(matching: Matching, found: Iterable[TensorTrace], is_whole: bool) -> Coverage:
    """Add up what was compared, and what was not: of the GGUF, and of the checkpoint's tensors without a place."""
    why = {
        one.name: one.detail if one.verdict is Verdict.UNCOMPARED else None
        for one in found
        if one.verdict is not Verdict.MADE
    }
    made = {one.name for one in found if one.verdict is Verdict.MADE}
    parts = [
        Coverage.of_tensor(pair.tensor, why.get(pair.tensor.label, NOT_SELECTED))
        for pair in matching.pairs
        if pair.tensor.label not in made
    ]
    if is_whole:
        parts += [
            Coverage.of_tensor(one.tensor, "what became of it is not known")
            for one in matching.left_out
            if one.why is None
        ]
    return Coverage.merge(parts)
