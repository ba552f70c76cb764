"""Rows of an embedding in words: the tokens that they stand for, named in a line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from truebits.errors import printable
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.vocabulary import vocabulary

EMBEDDING = re.compile(r"emb|wte|lm_head|^output\.weight$|decoder\.weight$", re.IGNORECASE)
"""Names of the tensors that have a row for each token."""

PADDING = 1024
"""Rows that such a tensor may have beyond its vocabulary: some round its length up."""

NUMBERED = re.compile(r"^(?P<before>.*?)(?P<number>0x[0-9A-Fa-f]+|[0-9]+)(?P<after>[^0-9]*)$", re.DOTALL)
PIECE = "##"
"""How WordPiece begins what continues a word."""

FEWEST = 3
"""Tokens that make a range, or pieces that are counted and not named."""

MOST_NAMED, LONGEST = 3, 24
"""Tokens that are named one by one, as many ranges of them; and characters of each."""

WIDE = ("W", "F")
COMBINING = ("Mn", "Mc", "Me")


def tokens_of(model: Model, tensors: Iterable[tuple[Tensor, int]]) -> dict[str, list[str]]:
    """Return the tokens that the rows of tensors stand for, by tensor: of those that are embeddings of the vocabulary.

    Parameters
    ----------
    model : Model
    tensors : iterable of (Tensor, int)
        With their numbers of rows.
    """
    asked = [(tensor, rows) for tensor, rows in tensors if EMBEDDING.search(tensor.name)]
    tokens = vocabulary(model) if asked else []
    return {tensor.name: tokens for tensor, rows in asked if tokens and 0 <= rows - len(tokens) <= PADDING}


def named(tokens: Sequence[str]) -> str:
    """Name tokens in a line, safe to print: ``[PAD]``, numbered ones by range, pieces by count, some of the rest."""
    pieces = [token for token in tokens if token.startswith(PIECE) and token != PIECE]
    counted = set(pieces) if len(pieces) > FEWEST else set()
    told: list[str] = []
    ranges = lone = left = 0
    for first, last, count in _ranges(token for token in tokens if token not in counted):
        if count > 1 and ranges < MOST_NAMED:
            told.append(f"{_shown(first)} to {_shown(last)}")
            ranges += 1
        elif count == 1 and lone < MOST_NAMED:
            told.append(_shown(first))
            lone += 1
        else:
            left += count
    if counted:
        told.append(f"{len(pieces):,} `{PIECE}` pieces")
    return ", ".join([*told, *([f"{left:,} more"] if left else [])])


def _ranges(tokens: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """Put together tokens that follow each other and are numbered so; yield the first, the last, how many."""
    run: list[str] = []
    expected: tuple[str, int, str] | None = None
    for token in tokens:
        place = _place(token)
        if run and (place is None or place != expected):
            yield from _run(run)
            run = []
        run.append(token)
        expected = None if place is None else (place[0], place[1] + 1, place[2])
    yield from _run(run)


def _run(run: list[str]) -> Iterator[tuple[str, str, int]]:
    if len(run) >= FEWEST:
        yield run[0], run[-1], len(run)
    else:
        yield from ((one, one, 1) for one in run)


def _place(token: str) -> tuple[str, int, str] | None:
    found = NUMBERED.match(token) if len(token) <= 4 * LONGEST else None
    if found is None:
        return None
    base = 16 if found["number"].startswith("0x") else 10
    return found["before"], int(found["number"], base), found["after"]


def _shown(token: str) -> str:
    """Return a token in quotes, cut, in characters that take one column each."""
    whole = printable(token if len(token) <= LONGEST else token[: LONGEST - 1] + "…")
    return "`" + "".join(one if _is_narrow(one) else _escaped(one) for one in whole) + "`"


def _is_narrow(character: str) -> bool:
    wide = unicodedata.east_asian_width(character) in WIDE
    return not wide and unicodedata.category(character) not in COMBINING


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
