"""What every kind of model file boils down to: tensors at byte ranges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from truebits.errors import ModelFileError, Overlap, printable, shortened


def shape_text(shape: Iterable[int]) -> str:
    """Say a shape: ``2 x 4``."""
    return " x ".join(map(str, shape)) or "scalar"


class Tensor(NamedTuple):
    """One tensor of a model file.

    Attributes
    ----------
    name : str
        As in the file; bytes that are not UTF-8 stand as surrogate escapes.
    type : str
        ggml's name of the storage type, ``F32``, ``Q4_K``; safetensors' where ggml has none, ``F8_E4M3``.
    shape : tuple of int
        In the file's order: for GGUF the first dimension is the fastest, for safetensors the last.
    offset, nbytes : int
        The byte range in its file.
    values : int
        Number of elements.
    part : int
        Which file of the model holds it.
    opaque : bool
        The type is newer than this truebits.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    values: int
    part: int = 0
    opaque: bool = False

    def about(self) -> dict[str, Any]:
        """Return what JSON documents say of a tensor."""
        return {"name": printable(self.name), "type": self.type, "shape": self.shape, "values": self.values}

    @property
    def role(self) -> str:
        """What the tensor does: its name without block number and suffix (``attn_norm``)."""
        words = self.name.removesuffix(".weight").removesuffix(".bias").split(".")
        numbers = [i for i, word in enumerate(words) if word.isdigit()]
        after = words[numbers[-1] + 1 :] if numbers else words
        return ".".join(after or words[: numbers[0]])

    @property
    def group(self) -> str:
        """The name with every number of its path replaced: ``blk.*.attn_norm.weight``."""
        return group_of(self.name)

    @property
    def label(self) -> str:
        """The name, safe to print."""
        return printable(self.name)


def group_of(name: str) -> str:
    """Return a tensor's name with every number of its path replaced."""
    return ".".join("*" if word.isdigit() else word for word in name.split("."))


def named(tensors: Sequence[Tensor]) -> str:
    """Name a tensor, or say how many there are and name the first."""
    first = shortened(tensors[0].name)
    return f"tensor {first}" if len(tensors) == 1 else f"{len(tensors)} tensors (first: {first})"


def check_overlap(path: Path, tensors: Iterable[Tensor]) -> None:
    """Raise `Overlap` if two tensors of a file share bytes."""
    end, before = 0, None
    for tensor in sorted([one for one in tensors if one.nbytes], key=attrgetter("offset")):
        if tensor.offset < end:
            assert before is not None
            names = shortened(tensor.name), shortened(before.name)
            message = f"tensor {names[0]} starts at {tensor.offset}, inside {names[1]}, which ends at {end}"
            raise Overlap(path, tensor.offset, message)
        end, before = tensor.offset + tensor.nbytes, tensor


class Oddity(NamedTuple):
    """Something odd in a readable file: `error` is what a writer would raise.

    `stops_writing` is False where only some readers stumble.
    """

    error: type[ModelFileError]
    offset: int
    message: str
    stops_writing: bool
