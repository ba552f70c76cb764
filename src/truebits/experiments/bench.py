"""What rounding some tensors of a model does to its predictions, asked again and again of one loaded base."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack, closing
from math import ceil
from typing import Any, NamedTuple

from truebits.errors import UsageError
from truebits.evaluation.baseline import Baseline
from truebits.evaluation.crew import check_numbers, cut_chunks, load_models, settings_of
from truebits.evaluation.dialogue import read_text
from truebits.evaluation.llama import require_llama
from truebits.evaluation.scores import Divergence, Scores, divergence
from truebits.evaluation.worker import Worker
from truebits.experiments.scratch import Scratch
from truebits.files.model import Model
from truebits.rewriting.rules import Pairs
from truebits.rewriting.temporary import temporary_folder
from truebits_native.reference import Difference

FIRST_CHUNKS = 8
"""Chunks of text that the first measurement begins with; from its error follows how many are needed."""

ENOUGH = 0.05
"""Of a mean divergence, its standard error: so precise the first measurement has to be."""


class RoundingEffect(NamedTuple):
    """What a rounding changes.

    Attributes
    ----------
    difference : Difference
        In the values.
    divergence : Divergence or None
        In the predictions; None where no value changes, and so nothing else can.
    """

    difference: Difference
    divergence: Divergence | None


class Bench:
    """A base's predictions of a text, and one copy of the base in which tensors are rounded for a while.

    Parameters
    ----------
    model : Model
    text : path-like
    n_ctx, threads, backend
        As for `evaluate`.
    chunks : int, optional
        Of the text; from the first measurement's error if not given.
    most : float
        Share of the text's chunks that may be used: the rest is kept for whoever judges what is found.
    skip : int
        Chunks at the beginning of the text that are left out, because something was found on them.

    Attributes
    ----------
    floor : Divergence
        The untouched copy's predictions against the base's: what is no effect of a rounding.
    settings : dict
        All that the numbers depend on.
    digest : str
        SHA-256 of the base's logits for the first chunks.

    Raises
    ------
    TruebitsError, OSError
        As `evaluate`.
    """

    def __init__(
        self,
        model: Model,
        text: str | os.PathLike[str],
        *,
        n_ctx: int = 512,
        chunks: int | None = None,
        most: float = 1.0,
        skip: int = 0,
        threads: int | None = None,
        backend: str | None = None,
    ):
        require_llama(backend)
        check_numbers(n_ctx=n_ctx, chunks=chunks, threads=threads, rounds=0, answer_tokens=1)
        contents = read_text(text)
        settings = settings_of(n_ctx, threads, backend)
        with ExitStack() as stack:
            self._stack = stack
            folder = stack.enter_context(temporary_folder())
            self.scratch = Scratch(model, folder, threads)
            self.base, self.candidate = (
                stack.enter_context(closing(Worker(role, str(path), settings)))
                for role, path in (("base", model.parts[0].path), ("candidate", self.scratch.path))
            )
            vocabulary = load_models([self.base, self.candidate], n_ctx)
            self.vocabulary = vocabulary.size
            whole = cut_chunks(self.base.ask("tokenize", contents), vocabulary, n_ctx, None)
            self.chunks = whole[skip : ceil(most * len(whole))][:chunks]
            if not len(self.chunks):
                raise UsageError(
                    f"the text has {len(whole):,} chunks, and all of them were used to find what is to be judged: "
                    "take more text, or less of it (--chunks)"
                )
            self.settings: dict[str, Any] = {
                "text": os.fspath(text),
                "text_sha256": hashlib.sha256(contents.encode()).hexdigest(),
                **settings._asdict(),
                **self.base.ask("versions"),
            }
            self.baselines: list[Baseline] = []
            self._take(0, FIRST_CHUNKS)
            self.digest = self.baselines[0].digest
            self.floor = divergence(self.baselines[0].score(self.candidate, 1))
            if chunks is not None:
                self._take(FIRST_CHUNKS, chunks)
            self.is_settled = chunks is not None
            self._stack = stack.pop_all()

    def _take(self, start: int, stop: int) -> None:
        """Let the base decode some more of the text."""
        if start < min(stop, len(self.chunks)):
            baseline = Baseline(self.base, self.chunks[start:stop], self.vocabulary)
            self.baselines.append(self._stack.enter_context(closing(baseline)))

    @property
    def used(self) -> int:
        """Chunks of text that are measured on."""
        return sum(len(baseline.chunks) for baseline in self.baselines)

    def measure(self, pairs: Pairs) -> RoundingEffect:
        """Round tensors, have the text predicted, and put the tensors back.

        Raises
        ------
        UsageError, Refused, VerificationFailed
            As `Scratch.rounded`.
        EvaluationFailed
        """
        with self.scratch.rounded(pairs) as difference:
            if not difference.changed:
                return RoundingEffect(difference, None)
            self.candidate.ask("load")
            found = [baseline.score(self.candidate) for baseline in self.baselines]
            if not self.is_settled:
                first = divergence(found[0])
                needed = ceil(FIRST_CHUNKS * (first.error / first.mean / ENOUGH) ** 2) if first.mean else 0
                self._take(FIRST_CHUNKS, needed)
                self.is_settled = True
                found += [baseline.score(self.candidate) for baseline in self.baselines[1:]]
        return RoundingEffect(difference, divergence(Scores.joined(found)))

    def close(self) -> None:
        """End the processes and remove the copy."""
        self._stack.close()
