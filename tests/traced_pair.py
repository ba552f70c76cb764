"""One tensor of a GGUF beside one of a checkpoint, mapped and ready to be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from converter import write_safetensors
from models import write
from truebits.comparing.sides import Side
from truebits.files.model import Model, open_model
from truebits.lineage.comparison import Comparison, Effort, Suspect
from truebits.lineage.layout import Arrange, strips, whole
from truebits.lineage.matching import Pair
from truebits.lineage.source import Expected
from truebits.precision.converters import Transform


def a_gguf(path: Path, **tensors: tuple[str, np.ndarray]) -> Model:
    """Write a GGUF of (type, words) by name, and open it."""
    return open_model(write(path, tensors))


@contextmanager
def compared(
    folder: Path,
    stored: tuple[str, np.ndarray],
    source: np.ndarray,
    arrange: Arrange = whole,
    transforms: Sequence[Transform] = (),
    suspects: tuple[Suspect, ...] = (),
    thorough: bool = True,
) -> Iterator[Comparison]:
    """Give a comparison of a stored tensor with a source, which a converter arranges so."""
    model = a_gguf(folder / "model.gguf", a=stored)
    write_safetensors(folder / "model.safetensors", {"a": source})
    checkpoint = open_model(folder / "model.safetensors")
    (ours,), (theirs,) = model.tensors, checkpoint.tensors
    pair = Pair(ours, (theirs,), tuple(transforms), strips([theirs.shape], arrange))
    with model.map() as files, checkpoint.map() as others:
        expected = Expected([Side(theirs, others)], pair)
        yield Comparison(expected, Side(ours, files), Effort(thorough, 1), lambda _: None, suspects)
