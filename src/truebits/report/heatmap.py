"""Where tensors stand in a heat map: a row for each layer, a column for what a tensor does in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

NO_LAYER = "no layer"
"""The last row: embeddings, output, and all else that no layer has."""


class Grid(NamedTuple):
    """Rows and columns of a heat map, and where in it each tensor stands.

    Attributes
    ----------
    layers, roles : list of str
        Labels of the rows and the columns.
    places : dict of str to (int, int)
        Row and column by tensor name.
    """

    layers: list[str]
    roles: list[str]
    places: dict[str, tuple[int, int]]

    @property
    def has_layers(self) -> bool:
        return self.layers not in ([], [NO_LAYER])


def grid(names: Iterable[str]) -> Grid:
    """Place tensors, or groups of them, by name: ``blk.3.attn_q.weight`` stands in row ``3``, column ``attn_q``.

    Where layers of several kinds have numbers, as an encoder's and a decoder's, rows are called by both.
    """
    split = {name: _split(name) for name in names}
    kinds = list(dict.fromkeys(kind for kind, number, _ in split.values() if number is not None))
    rows = sorted(
        {(kind, number) for kind, number, _ in split.values()},
        key=lambda row: (row[1] is None, kinds.index(row[0]) if row[1] is not None else 0, _order(row[1])),
    )
    labels = {row: _label(*row, several=len(kinds) > 1) for row in rows}
    layers = list(dict.fromkeys(labels.values()))
    roles = list(dict.fromkeys(role for _, _, role in split.values()))
    places = {
        name: (layers.index(labels[kind, number]), roles.index(role)) for name, (kind, number, role) in split.items()
    }
    return Grid(layers, roles, places)


def _split(name: str) -> tuple[str, str | None, str]:
    """Return what comes before the layer's number, the number (``*`` for all), and what comes after."""
    words = name.removesuffix(".weight").removesuffix(".bias").split(".")
    at = next((i for i, word in enumerate(words) if word == "*" or (word.isdigit() and len(word) < 6)), None)
    bias = " bias" if name.endswith(".bias") else ""
    if at is None:
        return "", None, ".".join(words) + bias
    return ".".join(words[:at]), words[at], (".".join(words[at + 1 :]) or "all") + bias


def _order(number: str | None) -> int:
    return int(number) if number is not None and number.isdigit() else -1


def _label(kind: str, number: str | None, several: bool) -> str:
    if number is None:
        return NO_LAYER
    return f"{kind}.{number}" if several else number
