"""Tensors -> for each the narrowest type of its file's format that holds the same values.

Plain types are told by counts. Block types are tried: on a few blocks first, on all of them if there is any hope.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import BY_NAME, FLOAT_BYTES, FP8_FORMATS
from truebits.numbers.words import from_singles, to_singles
from truebits.precision.batches import Progress
from truebits.precision.counting import TensorPrecision, profiles
from truebits.precision.evidence import most_exceptions
from truebits.quantizers.fp8_upcasts import Scaled
from truebits.quantizers.upcasts import TYPES, repacked
from truebits_native.pool import in_order

PLAIN = {**{type: FP8_FORMATS[type] for type in ("F8_E4M3", "F8_E5M2")}, "BF16": "bf16", "F16": "fp16", "F32": "f32"}
"""Types of one value each, narrowest first, with their formats."""

IN_F32 = re.compile(
    r"_norm\.|ffn_gate_inp|altup|laurel|per_layer_model_proj|position_embd|token_types|ssm_conv1d|ssm_a$|shortconv\.conv|"
    r"time_mix_|attn_rel_b"
)
"""Matrices that llama.cpp's converter and llama-quantize keep in F32 (tensor_allows_quantization, llama-quant.cpp)."""

SAMPLE = 16
"""Blocks, at equal distances: a type that stands for none of them is given up."""

MOST_STRAYS = 0.1
"""Share of a tensor's values that are named as exceptions, however few values there are."""

PIECE_VALUES = 1 << 15
"""Looked at by one thread at a time: what is made of them stays in the cache."""


class Stray(NamedTuple):
    """The first value that keeps a tensor from a type that holds nearly all others.

    Attributes
    ----------
    to : str
        The type.
    at : int
        Where the value stands in its tensor.
    value : float
    exceptions, of : int
        How many values, or blocks or rows of them, the type does not hold, and of how many.
    unit : {"values", "blocks", "rows"}
    """

    to: str
    at: int
    value: float
    exceptions: int
    of: int
    unit: str


class Choice(NamedTuple):
    """What becomes of one tensor.

    Attributes
    ----------
    tensor : Tensor
    to : str
        Its new type; its own where it stays.
    finer : int
        Values that the block type has finer than the file: those that were rounded when it was written.
    stray : Stray or None
    wanted : bool
        False: it stays because llama.cpp wants it as it is.
    scaled : Scaled or None
        The scales with which it becomes FP8.
    why : str
        What keeps it from becoming FP8 with scales, or MXFP4, which it could be; or nothing.
    """

    tensor: Tensor
    to: str
    finer: int = 0
    stray: Stray | None = None
    wanted: bool = True
    scaled: Scaled | None = None
    why: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes then, with its scales."""
        if self.scaled is not None:
            return self.scaled.nbytes
        layout = BY_NAME[self.to]
        return self.tensor.values // layout.values * layout.nbytes if self.changes else self.tensor.nbytes

    @property
    def changes(self) -> bool:
        return self.to != self.tensor.type

    @property
    def blocks(self) -> int | None:
        """Number of blocks that it becomes; None where it becomes none."""
        size = BY_NAME[self.to].values
        return self.tensor.values // size if self.changes and size > 1 else None


class Rules(NamedTuple):
    """What a tensor may become.

    Attributes
    ----------
    fp8 : bool
        A matrix of a checkpoint may become FP8.
    keep_f32 : bool
        In GGUF norms and what else llama.cpp wants in F32 stay.
    rounding : bool
        Values in F16 and BF16 may become blocks that are finer than they are.
    """

    fp8: bool
    keep_f32: bool = True
    rounding: bool = False


def narrowest(
    model: Model, tensors: Sequence[Tensor], rules: Rules, threads: int | None = None, progress: Progress | None = None
) -> list[Choice]:
    """Find the narrowest type of each floating-point tensor.

    Raises
    ------
    FileChanged, OSError
    """
    asked = [tensor for tensor in tensors if tensor.values and not _stays(model, tensor, rules)]
    total, done = 2 * sum(tensor.nbytes for tensor in asked), 0

    def moved(before: int, count: int, _: int) -> None:
        if progress is not None:
            progress(before + count, total)

    counts = profiles(model, asked, None, threads, partial(moved, 0))
    found, done = {}, total // 2
    for number in sorted({tensor.part for tensor in asked}):
        with model.parts[number].map() as file:
            for tensor in (tensor for tensor in asked if tensor.part == number):
                found[tensor.name] = _choice(model, file, counts[tensor.name], rules, threads)
                done += tensor.nbytes
                moved(done, 0, total)
    return [found.get(tensor.name) or Choice(tensor, tensor.type, wanted=not tensor.values) for tensor in tensors]


def _stays(model: Model, tensor: Tensor, rules: Rules) -> bool:
    """Tell whether llama.cpp wants a tensor as it is."""
    is_vector = sum(size > 1 for size in tensor.shape) < 2
    return model.format == "gguf" and rules.keep_f32 and (is_vector or IN_F32.search(tensor.name) is not None)


def _choice(model: Model, file: MappedFile, counted: TensorPrecision, rules: Rules, threads: int | None) -> Choice:
    tensor, strays = counted.tensor, []
    plain = next((type for type in _plain_types(counted, rules) if counted.fits(PLAIN[type]) == counted.values), None)
    if model.format == "gguf" and tensor.type != "F64":
        for type, stored in _block_types(tensor, model.row(tensor), plain or tensor.type, rules):
            found = _tried(file, tensor, type, stored, threads)
            if isinstance(found, Choice):
                return found
            strays += [found] if found else []
    for type in _plain_types(counted, rules) if not plain else ():
        left = counted.values - counted.fits(PLAIN[type])
        if left <= min(most_exceptions(counted.values), MOST_STRAYS * counted.values):
            strays.append(_stray_value(file, tensor, type, left))
    nearest = min(strays, key=lambda one: one.exceptions / one.of, default=None)
    return Choice(tensor, plain or tensor.type, stray=nearest)


def _plain_types(counted: TensorPrecision, rules: Rules) -> Iterator[str]:
    """Yield the plain types that come into question; conversions of some NaNs change their bits."""
    tensor = counted.tensor
    for type in PLAIN:
        is_fp8 = type in FP8_FORMATS
        may = (rules.fp8 and len(tensor.shape) > 1) or not is_fp8
        changes_nans = is_fp8 or tensor.type == "F64"
        if may and BY_NAME[type].bits < BY_NAME[tensor.type].bits and not (counted.nan and changes_nans):
            yield type


def _block_types(tensor: Tensor, row: int, plain: str, rules: Rules) -> Iterator[tuple[str, str]]:
    """Yield the block types that come into question, and what the blocks' values may have been rounded to."""
    for stored in ("F32", tensor.type) if rules.rounding and tensor.type != "F32" else ("F32",):
        for type in TYPES:
            layout = BY_NAME[type]
            if row % layout.values == 0 and layout.bits < layout.values * BY_NAME[plain].bits and len(tensor.shape) > 1:
                yield type, stored


def _tried(file: MappedFile, tensor: Tensor, type: str, stored: str, threads: int | None) -> Choice | Stray | None:
    """Try a block type: return the choice of it, or the first value that it does not hold, or None if it is far off."""
    size = BY_NAME[type].values
    blocks = tensor.values // size
    sample = np.unique(np.linspace(0, blocks - 1, SAMPLE).astype(np.int64)).tolist()
    words = np.concatenate([singles(file, tensor, block * size, size) for block in sample])
    if not repacked(words, type, stored).held.any():
        return None

    def over(span: tuple[int, int]) -> tuple[int, int, int | None]:
        found = repacked(singles(file, tensor, *span), type, stored)
        held = found.held
        first = None if held.all() else span[0] // size + int(held.argmin())
        forget(file, tensor, *span)
        return int(found.finer.sum()), int(np.count_nonzero(~held)), first

    finer = off = 0
    first: int | None = None
    for more, not_held, at in in_order(over, spans(tensor.values, size), threads):
        finer, off, first = finer + more, off + not_held, at if first is None else first
        if off > most_exceptions(blocks):
            return None
    if first is None:
        return Choice(tensor, type, finer)
    at = first * size + _culprit(singles(file, tensor, first * size, size), type, stored)
    return Stray(type, at, _value(file, tensor, at), off, blocks, "blocks")


def _culprit(words: np.ndarray, type: str, stored: str) -> int:
    """Return which value of a block keeps it from a type: that without which the others are held; else the first."""
    others = np.tile(words, (words.size, 1))
    np.fill_diagonal(others, np.roll(words, 1))
    held = repacked(others.reshape(-1), type, stored).held
    return int(held.argmax())


def _stray_value(file: MappedFile, tensor: Tensor, type: str, exceptions: int) -> Stray:
    """Return the first value that a plain type does not hold."""
    for first, count in spans(tensor.values, 1):
        differs = ~is_kept(own_words(file, tensor, first, count), tensor.type, type)
        if differs.any():
            break
        forget(file, tensor, first, count)
    at = first + int(differs.argmax())
    return Stray(type, at, _value(file, tensor, at), exceptions, tensor.values, "values")


def _value(file: MappedFile, tensor: Tensor, at: int) -> float:
    return float(singles(file, tensor, at, 1).view(np.float32)[0])


def spans(values: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the first value and the number of values of each piece, in whole blocks of a size."""
    step = PIECE_VALUES // size * size
    for first in range(0, values, step):
        yield first, min(step, values - first)


def own_words(file: MappedFile, tensor: Tensor, first: int, count: int) -> np.ndarray:
    """Return words of a tensor of a plain type, as they are stored."""
    file.check()
    item = FLOAT_BYTES[tensor.type]
    words = np.frombuffer(file.data, f"<u{item}", count, tensor.offset + first * item)
    return words if words.flags.aligned else words.copy()


def forget(file: MappedFile, tensor: Tensor, first: int, count: int) -> None:
    """Unmap the pages of values that were read."""
    start = tensor.offset + first * FLOAT_BYTES[tensor.type]
    file.forget(start, start + count * FLOAT_BYTES[tensor.type])


def singles(file: MappedFile, tensor: Tensor, first: int, count: int) -> np.ndarray:
    """Return values of a tensor of a plain type as F32 words."""
    return to_singles(own_words(file, tensor, first, count), tensor.type, 1)


def is_kept(words: np.ndarray, own: str, type: str) -> np.ndarray:
    """Tell which words of a plain type come back, every bit of them, from another one."""
    words_of_f32 = to_singles(words, own, 1)
    with np.errstate(over="ignore"):  # values beyond F16
        kept: np.ndarray = to_singles(from_singles(words_of_f32, type, 1), type, 1) == words_of_f32
    if own == "F64":
        kept &= words_of_f32.view("<f4").astype("<f8").view("<u8") == words
    return kept
