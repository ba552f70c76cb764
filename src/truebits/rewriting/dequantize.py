"""Block-quantized tensors, and those of quantized checkpoints, become the values that they stand for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import truebits_native as native
from truebits.errors import Refused, UsageError, shortened
from truebits.files.mapping import Files
from truebits.files.model import Model, open_local, open_model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES, FLOAT_FORMATS
from truebits.numbers.rounding import MODES, Rounding, grid_of
from truebits.numbers.spelling import find
from truebits.precision.batches import Progress, stepper
from truebits.quantizers.blocks import with_blocks
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.weights import meaning_of
from truebits.result import Result
from truebits.rewriting.outputs import new_files, outputs
from truebits.rewriting.relaid import Relaid, check_layouts, copied, gguf_head, in_layout, safetensors_head, write
from truebits.rewriting.temporary import temporary_folder

TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
"""llama.cpp's ``llama_ftype``."""

PIECE_VALUES = 1 << 20


@dataclass(frozen=True, repr=False)
class Dequantized(Result):
    """What `dequantize` wrote.

    Attributes
    ----------
    file, output : str
    to : str
        Storage type of what was dequantized.
    tensors : tuple of Tensor
        That were dequantized, as they were.
    kept : int
        Tensors that were copied as they are.
    bytes_before, bytes_after : int
        Of all tensors.
    """

    verb = "dequantize"

    file: str
    output: str
    to: str
    tensors: tuple[Tensor, ...]
    kept: int
    bytes_before: int
    bytes_after: int

    @property
    def values(self) -> int:
        """Values that were dequantized."""
        return sum(tensor.values for tensor in self.tensors)

    @property
    def types(self) -> dict[str, int]:
        """How many tensors of each type were dequantized."""
        return dict(Counter(tensor.type for tensor in self.tensors))

    @property
    def summary(self) -> str:
        """Say it in one line."""
        types = ", ".join(f"{number} {type}" for type, number in self.types.items())
        kept = f", {self.kept:,} kept as they are" if self.kept else ""
        return f"{types} as {self.values:,} {self.to} values{kept}"

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        own = {field: getattr(self, field) for field in ("file", "output", "to", "kept", "bytes_before", "bytes_after")}
        return {**own, "values": self.values, "tensors": [tensor.about() for tensor in self.tensors]}


def dequantize(
    source: Model | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: str = "f32",
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Dequantized:
    """Write a model whose quantized tensors are plain floating-point ones of the same values.

    A GGUF becomes a GGUF, a checkpoint one safetensors file, whatever the number of its own. Tensors that are not
    quantized stay as they are.

    Parameters
    ----------
    source : Model or path-like
    out : path-like
        The new file; for a shard set of GGUF the name of its first file.
    to : {"f32", "f16", "bf16"}
        ``f32`` holds the values exactly, as their formats' own code computes them in F32; the others round to
        nearest, ties to even.
    force : bool
        Replace files that are there.
    threads, progress
        As for `scan`.

    Returns
    -------
    Dequantized

    Raises
    ------
    UsageError
        No such type, or nothing is quantized.
    Refused
        The output exists; a tensor cannot be read as values, which is named; or there are bytes of no tensor.
    ModelFileError, OSError
    """
    if to not in TYPES:
        raise UsageError(f"--to is {to!r}, allowed are {', '.join(TYPES)}")
    of = with_blocks(meaning_of(open_local(source)))
    for name, why in of.not_read.items():
        raise Refused(f"{shortened(name)}: {why}")
    quantized = [tensor for tensor in of.model.tensors if tensor.name in of.quantized]
    if not quantized:
        raise UsageError("no tensor is quantized: there is nothing to dequantize")
    check_layouts(of.model)
    out = Path(out)
    paths = outputs(of.model, out) if of.model.format == "gguf" else _one_file(of.model, out)
    type = TYPES[to]
    native.expect_work("rounding", 0 if type == "F32" else sum(tensor.values for tensor in quantized))
    with of.model.map() as ours, new_files(paths, force) as files:
        relaid = [_relaid(of, tensor, ours, type, threads) for tensor in of.model.tensors]
        total = sum(one.nbytes for one in relaid)
        moved = stepper(progress, total)
        for number, file in enumerate(files):
            if of.model.format == "gguf":
                some = [one for one, tensor in zip(relaid, of.model.tensors, strict=True) if tensor.part == number]
                head = gguf_head(of.model.parts[number], some, FILE_TYPES[type])
            else:
                some = in_layout(relaid)
                head = safetensors_head(_metadata(of.model), some)
            write(file, head[0], some, head[1], moved)
    kept, before = len(relaid) - len(quantized), sum(one.nbytes for one in of.model.tensors)
    return Dequantized(str(of.model.path), str(out), type, tuple(quantized), kept, before, total)


@contextmanager
def as_values(
    source: Model | str | os.PathLike[str], is_wanted: bool, beside: str | os.PathLike[str] | None = None
) -> Iterator[Model]:
    """Give a model; if wanted one whose quantized tensors are F32 values, in files that go afterwards.

    Parameters
    ----------
    source : Model or path-like
    is_wanted : bool
        Where nothing is quantized the model itself is given all the same.
    beside : path-like, optional
        In whose folder the files are put; else where temporary files are. Of a process that is killed they stay until
        the next one puts its own there.

    Raises
    ------
    Refused, OSError
        As `dequantize`.
    """
    model = open_model(source)
    of = with_blocks(meaning_of(open_local(model))) if is_wanted else Meaning(model)
    if not (of.quantized or of.not_read):
        yield model
        return
    with temporary_folder(Path(beside).parent if beside else None) as folder:
        name = model.parts[0].path.name
        path = folder / (name if model.format == "gguf" else "model.safetensors")
        dequantize(model, path)
        yield open_model(path)


def _one_file(model: Model, out: Path) -> list[Path]:
    """Return the one path to write for all files of a checkpoint; raises `UsageError` if it is one of them."""
    for part in model.parts:
        outputs(Model(model.path, (part,), ()), out)
    return [out]


def _relaid(of: Meaning, tensor: Tensor, files: Files, type: str, threads: int | None) -> Relaid:
    """Return a tensor as the new file has it."""
    if tensor.name not in of.quantized:
        return copied(files[tensor.part], tensor)
    one = of.quantized[tensor.name]

    def pieces() -> Iterator[np.ndarray]:
        return (stored(words, type, threads).view(np.uint8) for _, words in one.pieces(files, PIECE_VALUES))

    return Relaid(tensor.name, type, tensor.shape, tensor.values * FLOAT_BYTES[type], pieces)


def stored(words: np.ndarray, type: str, threads: int | None = None) -> np.ndarray:
    """Return F32 words as those of a type, rounded to the nearest: a new array, or `words` themselves for F32."""
    if type == "F32":
        return words
    rounded = words.copy()
    grid = grid_of(find(FLOAT_FORMATS[type]), find("f32"), Rounding())
    native.round_floats(rounded, grid, MODES["nearest"], measured=False, threads=threads)
    return native.narrowed(rounded, type, threads)


def _metadata(model: Model) -> dict[str, str]:
    """Return the strings of all files' ``__metadata__``."""
    return {key: str(part.value(key)) for part in model.parts for key in part.header.keys}
