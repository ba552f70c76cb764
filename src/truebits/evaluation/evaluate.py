"""What a change of a model's weights does to what the model says, and to how fast it says it.

Base and candidates run in llama.cpp, each in a process of its own, one at a time and with all threads. The
logits come through shared memory, in F32, and are gone when their statistics are computed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from truebits.errors import UsageError
from truebits.evaluation.crew import check_numbers, cut_chunks, load_models, settings_of
from truebits.evaluation.dialogue import PROMPTS, Answer, compare_replies, read_text
from truebits.evaluation.inference import LoadSettings, Vocabulary
from truebits.evaluation.llama import require_llama
from truebits.evaluation.scores import Divergence, Perplexity, Timing, divergence, perplexity, timing
from truebits.evaluation.scoring import score_chunks, steps
from truebits.evaluation.worker import Worker
from truebits.files.model import Model, open_gguf
from truebits.precision.batches import Progress, stepper
from truebits.result import Result

SPEED_TOKENS = 32
"""Decoded one by one to measure the speed."""

FIXED = {"kv_cache": "F32", "flash_attention": False, "gpu_layers": 0}
"""Settings that `Inference` gives no choice of."""


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """What separates a candidate from its base.

    Attributes
    ----------
    base, candidate : str
        Paths.
    settings : dict
        All that the numbers depend on.
    perplexity_base, perplexity_candidate : Perplexity
    divergence : Divergence
        The candidate's predictions against the base's.
    floor : Divergence
        The base's against its own, chunks decoded twice: what is no effect of the weights.
    answers : tuple of Answer
    load : Timing or None
        Seconds; None if no rounds were asked for.
    speed : Timing or None
        Tokens per second, one at a time.
    """

    verb = "eval"
    rows_of_document = "answers"

    base: str
    candidate: str
    settings: dict[str, Any] = field(repr=False)
    perplexity_base: Perplexity
    perplexity_candidate: Perplexity
    divergence: Divergence
    floor: Divergence
    answers: tuple[Answer, ...] = field(repr=False)
    load: Timing | None
    speed: Timing | None

    @property
    def has_effect(self) -> bool:
        """False where the text tells the two apart no more than a repetition does, and no answer does."""
        return self._predicts_otherwise or any(answer.first_difference is not None for answer in self.answers)

    @property
    def _predicts_otherwise(self) -> bool:
        seen, floor = self.divergence, self.floor
        if not floor.changed:
            return seen.changed > 0
        return seen.mean > floor.mean or seen.max > floor.max or seen.right_rms > floor.right_rms

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        return {**asdict(self), "has_effect": self.has_effect}

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return f"mean KL divergence {self.divergence.mean:.2e}"


def evaluate(
    base: Model | str | os.PathLike[str],
    candidate: Model | str | os.PathLike[str],
    *,
    text: str | os.PathLike[str],
    prompts: Iterable[str] | None = None,
    n_ctx: int = 512,
    chunks: int | None = None,
    threads: int | None = None,
    rounds: int = 5,
    answer_tokens: int = 48,
    seed: int = 0,
    backend: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare what two models make of a text, what they answer, and how fast they are.

    Each model runs in a process of its own, which Python starts anew: a script that calls this has to do
    so under ``if __name__ == "__main__":``.

    Parameters
    ----------
    base, candidate : Model or path-like
        They must have the same vocabulary.
    text : path-like
        A file of text, in UTF-8.
    prompts : iterable of str, optional
        What to ask; `truebits.evaluation.dialogue.PROMPTS` if not given. Through the base's chat template, where it
        has one that llama.cpp knows.
    n_ctx : int
        Tokens per chunk of text: the second half of each is scored, as llama-perplexity does.
    chunks : int, optional
        Take the first so many chunks; all if not given.
    threads : int, optional
        All cores if not given.
    rounds : int
        Times that each model is loaded and timed, after one that does not count; 0 for none, or 5 or more.
    answer_tokens : int
        Length of an answer, at most.
    seed : int
        Of the bootstrap of the timings; all else is without chance.
    backend : {"wheel", "native"}, optional
        Whose llama.cpp: the fixed build of the extra ``eval``, or llama-cpp-python's, built on this machine. The
        first that is installed, if not given.
    progress : callable, optional
        Called with (done, total), in steps: a chunk, an answer or a round of one model.

    Returns
    -------
    Evaluation

    Raises
    ------
    MissingExtra
        llama.cpp is not installed.
    UsageError
        The text is too short, the vocabularies differ, or a number is out of range.
    ModelFileError, OSError
    EvaluationFailed
        llama.cpp refuses a model, its process died, or the logits are not finite.
    """
    (evaluation,) = evaluate_many(
        base,
        [candidate],
        text=text,
        prompts=prompts,
        n_ctx=n_ctx,
        chunks=chunks,
        threads=threads,
        rounds=rounds,
        answer_tokens=answer_tokens,
        seed=seed,
        backend=backend,
        progress=progress,
    )
    return evaluation


def evaluate_many(
    base: Model | str | os.PathLike[str],
    candidates: Iterable[Model | str | os.PathLike[str]],
    *,
    text: str | os.PathLike[str],
    prompts: Iterable[str] | None = None,
    n_ctx: int = 512,
    chunks: int | None = None,
    threads: int | None = None,
    rounds: int = 5,
    answer_tokens: int = 48,
    seed: int = 0,
    backend: str | None = None,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Compare several candidates with one base, which decodes everything once for all of them.

    All models are loaded at the same time. See `evaluate` for the parameters and errors.

    Returns
    -------
    list of Evaluation
        In the candidates' order.
    """
    require_llama(backend)
    check_numbers(n_ctx=n_ctx, chunks=chunks, threads=threads, rounds=rounds, answer_tokens=answer_tokens)
    asked = list(PROMPTS if prompts is None else prompts)
    contents = read_text(text)
    paths = [str(open_gguf(model).parts[0].path) for model in (base, *candidates)]
    if len(paths) == 1:
        raise UsageError("there is no candidate to evaluate")
    settings = settings_of(n_ctx, threads, backend)
    with ExitStack() as stack:
        crew = [
            stack.enter_context(closing(Worker("candidate" if number else "base", path, settings)))
            for number, path in enumerate(paths)
        ]
        vocabulary = load_models(crew, n_ctx)
        parts = cut_chunks(crew[0].ask("tokenize", contents), vocabulary, n_ctx, chunks)
        openings, template = _openings(crew, asked, answer_tokens, settings, vocabulary)
        again = len(asked) + (rounds + 1 if rounds else 0)
        step = stepper(progress, steps(len(parts), len(crew)) + again * len(crew))
        floor, *scores = score_chunks(crew, parts, vocabulary.size, step)
        answers = _answers(crew, asked, openings, answer_tokens, step)
        timings = _timings(crew, parts[0], rounds, seed, step)
        record = {
            "text": os.fspath(text),
            "text_sha256": hashlib.sha256(contents.encode()).hexdigest(),
            "chunks": len(parts),
            **settings._asdict(),
            "rounds": rounds,
            "answer_tokens": answer_tokens,
            "seed": seed,
            "chat_template": template,
            **FIXED,
            **crew[0].ask("versions"),
        }
    repetition = divergence(floor)
    return [
        Evaluation(
            base=paths[0],
            candidate=path,
            settings=dict(record),
            perplexity_base=perplexity(one.base),
            perplexity_candidate=perplexity(one.candidate),
            divergence=divergence(one),
            floor=repetition,
            answers=tuple(replies),
            load=load,
            speed=speed,
        )
        for path, one, replies, (load, speed) in zip(paths[1:], scores, answers, timings, strict=True)
    ]


def _openings(
    crew: Sequence[Worker], prompts: list[str], count: int, settings: LoadSettings, vocabulary: Vocabulary
) -> tuple[list[np.ndarray], str | None]:
    """Return each prompt's tokens, and what became of the chat template; make room for the longest answer."""
    if not prompts:
        return [], None
    openings, templates = zip(*(crew[0].ask("prompt", prompt) for prompt in prompts), strict=True)
    longest = max(len(tokens) for tokens in openings) + count
    if longest > vocabulary.trained_context:
        raise UsageError(
            f"the longest prompt and {count} tokens of an answer are {longest:,} tokens; "
            f"the base was trained for {vocabulary.trained_context:,}"
        )
    if longest > settings.n_ctx:
        for worker in crew:
            worker.ask("widen", longest)
    return list(openings), templates[0]


def _answers(
    crew: Sequence[Worker], prompts: list[str], openings: list[np.ndarray], count: int, step: Callable[[], None]
) -> list[list[Answer]]:
    """Have all models answer; return each candidate's answers next to the base's."""
    found: list[list[Answer]] = [[] for _ in crew[1:]]
    for prompt, tokens in zip(prompts, openings, strict=True):
        replies = []
        for worker in crew:
            replies.append(worker.ask("answer", tokens, count))
            step()
        for answers, reply in zip(found, replies[1:], strict=True):
            answers.append(compare_replies(prompt, replies[0], reply))
    return found


def _timings(
    crew: Sequence[Worker], tokens: np.ndarray, rounds: int, seed: int, step: Callable[[], None]
) -> list[tuple[Timing, Timing] | tuple[None, None]]:
    """Load and time all models in turn, there and back; return each candidate's load time and speed."""
    if not rounds:
        return [(None, None) for _ in crew[1:]]
    loads: list[list[float]] = [[] for _ in crew]
    speeds: list[list[float]] = [[] for _ in crew]
    order = range(len(crew))
    for _ in range(rounds + 1):
        for number in order:
            loads[number].append(crew[number].ask("load"))
            speeds[number].append(crew[number].ask("speed", tokens[: SPEED_TOKENS + 1]))
            step()
        order = order[::-1]
    return [
        (
            timing(loads[0][1:], loads[number][1:], more_is_faster=False, seed=seed),
            timing(speeds[0][1:], speeds[number][1:], more_is_faster=True, seed=seed),
        )
        for number in range(1, len(crew))
    ]
