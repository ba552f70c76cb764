"""What a trace finds: of each tensor, of all together, and in a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from truebits.comparing.measure import Place
from truebits.lineage.ways import Verdict
from truebits.precision.converters import Kind
from truebits.precision.coverage import Coverage, share
from truebits.result import Result, finite

COMPUTED = (str(Kind.ADDED), str(Kind.EXPONENTIAL))
"""How the names of transforms begin that change values."""


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


class LeftOut(NamedTuple):
    """A tensor of the checkpoint that has no place in the GGUF, and why."""

    name: str
    why: str


@dataclass(frozen=True, repr=False)
class Trace(Result):
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
        Names in the checkpoint of which it is not known what became of them.
    left_out : tuple of LeftOut
        Those that converters leave out, or whose values the GGUF has elsewhere.
    coverage : Coverage
        Of the GGUF's tensors and the checkpoint's `unmatched` ones: compared, or why not.
    """

    verb = "trace"

    gguf: str
    source: str
    architecture: str
    is_known: bool
    tensors: tuple[TensorTrace, ...] = field(repr=False)
    unmatched: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def is_verified(self) -> bool:
        """All that should be compared was, and nothing is altered, missing or extra."""
        return self.is_faithful and self.coverage.is_complete

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
            return "not verified: no tensor could be compared with this checkpoint"
        start = "converted from this checkpoint" if self.is_faithful else "not this checkpoint as it is"
        if self.is_faithful and not self.coverage.is_complete:
            start = f"not verified, {self._gaps} not compared; of the rest"
        phrases = [
            _phrase(part, members)
            for part in ("norms", "vectors", "matrices")
            if (members := [tensor for tensor in compared if tensor.part == part])
        ]
        counts = self.counts
        phrases += [f"{counts[v]:,} {v}" for v in (Verdict.MISSING, Verdict.EXTRA, *_OUTSIDE) if v in counts]
        return f"{start}: {'; '.join(phrases)}"

    @property
    def _gaps(self) -> str:
        """Say how much was not compared."""
        values = sum(one.values for one in self.coverage.undecided)
        return share(values, self.coverage.values) + (" was" if values < 2 else " were")

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        tensors = [
            {
                "name": one.name,
                "type": one.type,
                "sources": one.sources,
                "source_type": one.source_type,
                "values": one.values,
                "verdict": str(one.verdict),
                "detail": one.detail,
                "transforms": one.transforms,
                "changed": one.changed,
                "differing": one.differing,
                "first": finite(one.first._asdict()) if one.first else None,
                "relative_error": one.error,
                "rows_left_out": one.left_out,
            }
            for one in self.tensors
        ]
        return {
            "gguf": self.gguf,
            "source": self.source,
            "architecture": self.architecture,
            "architecture_known": self.is_known,
            "faithful": self.is_faithful,
            "conclusion": self.conclusion,
            "counts": {str(verdict): count for verdict, count in self.counts.items()},
            "tensors": tensors,
            "verified": self.is_verified,
            "coverage": self.coverage.to_dict(),
            "unmatched": self.unmatched,
            "left_out": [one._asdict() for one in self.left_out],
        }

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return self.conclusion.splitlines()[0]


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
