"""Some of a tensor's values, word by word, to be looked at by hand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from truebits.errors import SelectionError, printable
from truebits.files.model import Model
from truebits.files.types import FLOAT_BYTES


class Samples(NamedTuple):
    """Values of a tensor.

    Attributes
    ----------
    name, type : str
    words : tuple of (int, int)
        Index, and the value as it is stored.
    """

    name: str
    type: str
    words: tuple[tuple[int, int], ...]


def samples(model: Model, name: str, count: int = 8) -> Samples:
    """Read values that stand at equal distances, first to last.

    Raises
    ------
    SelectionError
        There is no such tensor, or it is not of a floating-point type.
    OSError
    """
    tensor = next((tensor for tensor in model.tensors if name in (tensor.name, tensor.label)), None)
    if tensor is None:
        raise SelectionError(f"no tensor is called {printable(name)}; `truebits show` lists them")
    if tensor.type not in FLOAT_BYTES:
        raise SelectionError(f"{tensor.label} is {tensor.type}: its values have no bits of their own")
    item = FLOAT_BYTES[tensor.type]
    places = np.unique(np.linspace(0, tensor.values - 1, min(count, tensor.values)).astype(int)).tolist()
    words = []
    with model.parts[tensor.part].map() as file:
        file.expect_all([(tensor.offset + index * item, tensor.offset + (index + 1) * item) for index in places])
        for index in places:
            at = tensor.offset + index * item
            words.append((index, int.from_bytes(file.data[at : at + item], "little")))
    return Samples(tensor.name, tensor.type, tuple(words))
