"""The tokens of a model's vocabulary, by number: what the rows of its embeddings stand for.

GGUF has them in its metadata, a checkpoint in ``tokenizer.json`` or ``vocab.txt`` beside its weights. They name rows
and decide nothing: a file that is no vocabulary gives no names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from truebits.files.model import Model

TOKENS = "tokenizer.ggml.tokens"
LONGEST = 64 << 20
"""Bytes of a file of tokens; Gemma 3's has 33 MB."""

MOST = 1 << 21
"""Tokens."""


def vocabulary(model: Model) -> list[str]:
    """Return a model's tokens by number, empty where a number has none; an empty list where there are none to read."""
    if model.format == "gguf":
        return [str(token) for token in model.parts[0].elements(TOKENS)]
    folder = model.parts[0].path.parent
    for name, read in (("tokenizer.json", _of_tokenizer), ("vocab.txt", _of_words)):
        text = "" if model.is_remote else _text(folder / name)
        if found := read(text):
            return found
    return []


def _text(path: Path) -> str:
    """Return a file's text; none where there is no such file, or it is too long, or no text."""
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= LONGEST and path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _of_words(text: str) -> list[str]:
    """Return the tokens of a ``vocab.txt``, a line each: a token may hold what else ends a line in Unicode."""
    return text.removesuffix("\n").split("\n") if text else []


def _of_tokenizer(text: str) -> list[str]:
    """Return the tokens of a ``tokenizer.json``: its model's, a mapping or a list with scores, and those added."""
    try:
        numbers = {number: str(token) for token, number in _pairs(json.loads(text)) if 0 <= number < MOST}
        return [numbers.get(number, "") for number in range(max(numbers, default=-1) + 1)]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return []


def _pairs(document: dict[str, Any]) -> Iterator[tuple[str, int]]:
    vocab = document["model"]["vocab"]
    yield from vocab.items() if isinstance(vocab, dict) else ((one[0], number) for number, one in enumerate(vocab))
    yield from ((one["content"], one["id"]) for one in document.get("added_tokens") or ())
