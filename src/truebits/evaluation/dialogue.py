"""Prompts, and where two models' greedy answers to them part."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from truebits.errors import UsageError, printable

PROMPTS = (
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a Python function that tells whether a number is prime.",
    "Tell me the beginning of a story about a lighthouse.",
)
"""Asked where no others are given."""


class Reply(NamedTuple):
    """What one model answers.

    Attributes
    ----------
    tokens : list of int
        The most likely token, each time; the last may be one that ends the answer.
    gaps : list of float
        How far, each time, the largest logit is above the second.
    text : str
    """

    tokens: list[int]
    gaps: list[float]
    text: str


@dataclass(frozen=True)
class Answer:
    """Two models' greedy answers to a prompt.

    Attributes
    ----------
    prompt, base, candidate : str
    first_difference : int or None
        Number of tokens before the first that differs; None where the answers are the same.
    gap : float or None
        How far, for that token, the base's largest logit is above its second: greedy text flips where it
        is small.
    """

    prompt: str
    base: str
    candidate: str
    first_difference: int | None
    gap: float | None


def compare_replies(prompt: str, base: Reply, candidate: Reply) -> Answer:
    """Find the first token that differs."""
    pairs = zip(base.tokens, candidate.tokens, strict=False)
    first = next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    return Answer(prompt, base.text, candidate.text, first, None if first is None else base.gaps[first])


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
    """Read a file of one prompt per line; empty lines are none.

    Raises
    ------
    OSError
    UsageError
        The file has no prompt, or is no text in UTF-8.
    """
    prompts = [line for line in read_text(path).splitlines() if line.strip()]
    if not prompts:
        raise UsageError(f"{printable(str(path))}: has no prompt: give one per line")
    return prompts


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a file of text in UTF-8, every byte of it.

    Raises
    ------
    OSError
    UsageError
        It is no text in UTF-8.
    """
    try:
        return Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{printable(str(path))}: is no text in UTF-8: byte {error.start} begins no character"
        ) from None
