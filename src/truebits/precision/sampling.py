"""Model -> blocks: the scales of all blocks of quantized tensors, the codes of a sample, and what both tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

import truebits_native as native
from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.numbers.words import to_singles
from truebits.precision.batches import Batch, Progress, over_batches
from truebits.precision.blocks import BlockPrecision, BlockProfile
from truebits.precision.columns import column_runs
from truebits.precision.dequantized import judge_blocks, judge_values, sample_runs
from truebits.precision.origin import Origin
from truebits_native.codes import code_counts
from truebits_native.types import (
    LAYOUTS,
    add_facts,
)

T = TypeVar("T")


def read_blocks(
    model: Model, plain: Sequence[Tensor], packed: Sequence[Tensor], threads: int | None, progress: Progress | None
) -> tuple[dict[str, BlockPrecision], dict[str, Origin]]:
    """Read the scales of all blocks, look at the codes of some, and at what matrices were dequantized from.

    Returns
    -------
    blocks : dict of str to BlockPrecision
        Of the `packed` tensors.
    made_from : dict of str to Origin
        Of the `plain` ones that are matrices.
    """
    facts = dict(zip((tensor.name for tensor in packed), scale_facts(model, packed, threads, progress), strict=True))
    blocks, made_from = {}, {}
    for tensor, look in looks(model, [*(tensor for tensor in plain if _is_matrix(model, tensor)), *packed]):
        if tensor.name in facts:
            blocks[tensor.name] = _joined(tensor, facts[tensor.name], look, look.raw)
        else:
            made_from[tensor.name] = look.made_from
    return _in_order(blocks, packed), _in_order(made_from, plain)


def sample_blocks(model: Model, packed: Sequence[Tensor]) -> dict[str, BlockPrecision]:
    """Look at some blocks of each quantized tensor, scales and codes: milliseconds, however large the file.

    Codes are those of every fourth of the blocks that have 256 values: of as many values as of the others.
    """
    blocks = {}
    for tensor, look in looks(model, packed):
        layout = LAYOUTS[tensor.type]
        rows = look.raw.reshape(-1, layout.nbytes)
        facts = native.block_counts(look.raw, np.array([0]), np.array([look.raw.size]), tensor.type, threads=1)[0]
        coded = rows[:: max(1, layout.values // USUAL_VALUES)] if len(rows) > FEW_BLOCKS else rows
        blocks[tensor.name] = _joined(tensor, facts, look, np.ascontiguousarray(coded).ravel())
    return _in_order(blocks, packed)


USUAL_VALUES, FEW_BLOCKS = 64, 256
"""Blocks of more values are thinned out, if they are more than a few."""


def _in_order(found: dict[str, T], tensors: Iterable[Tensor]) -> dict[str, T]:
    return {tensor.name: found[tensor.name] for tensor in tensors if tensor.name in found}


def _joined(tensor: Tensor, facts: np.ndarray, look: Sampled, coded: np.ndarray) -> BlockPrecision:
    codes = code_counts(coded, tensor.type)
    return BlockPrecision(tensor.type, facts, codes.distinct, codes.dead, codes.used, tensor, look.made_from)


def scale_facts(
    model: Model, tensors: Sequence[Tensor], threads: int | None = None, progress: Progress | None = None
) -> list[np.ndarray]:
    """Count the scales of each of a model's block-quantized tensors, in the order given."""
    found = {tensor.name: BlockProfile.empty(tensor.type).facts for tensor in tensors}
    is_large = native.expect_work("blocks", sum(tensor.nbytes // LAYOUTS[tensor.type].nbytes for tensor in tensors))

    def count(batch: Batch) -> np.ndarray:
        return native.block_counts(batch.words, batch.starts, batch.stops, batch.tensors[0].type)

    for batch, counted in over_batches(count, model, tensors, threads, progress, is_large):
        for tensor, facts in zip(batch.tensors, counted, strict=True):
            add_facts(found[tensor.name], facts)
    return [found[tensor.name] for tensor in tensors]


def _is_matrix(model: Model, tensor: Tensor) -> bool:
    """Tell whether a floating-point tensor can be a dequantized one: rows of whole blocks of 32, in GGML's formats."""
    return tensor.type in STORED and len(tensor.shape) > 1 and model.row(tensor) % 32 == 0


STORED = ("F32", "F16", "BF16")
"""Types whose values are looked at for what they were dequantized from."""


class Sampled(NamedTuple):
    """The sampled bytes of a tensor, whole blocks, and what was quantized before."""

    raw: np.ndarray
    made_from: Origin


def looks(model: Model, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Sampled]]:
    """Look at the blocks of each tensor that `dequantized.sample` names, file by file."""
    for part in sorted({tensor.part for tensor in tensors}):
        with model.parts[part].map() as file:
            for tensor in tensors:
                if tensor.part == part:
                    yield tensor, _look(file, tensor, model.rows(tensor))


def _look(file: MappedFile, tensor: Tensor, shape: tuple[int, int]) -> Sampled:
    size = LAYOUTS[tensor.type].nbytes if tensor.type in LAYOUTS else 32 * FLOAT_BYTES[tensor.type]
    runs = sample_runs(tensor.nbytes // size)
    places = [(tensor.offset + first * size, tensor.offset + stop * size) for first, stop in runs]
    file.expect_all(places)
    raw = np.frombuffer(b"".join(file.data[start:stop] for start, stop in places), np.uint8)
    file.forget(tensor.offset, tensor.offset + tensor.nbytes)
    if tensor.type in LAYOUTS:
        return Sampled(raw, judge_blocks(raw, tensor.type))
    words = raw.view(f"<u{FLOAT_BYTES[tensor.type]}")
    values = to_singles(words, tensor.type).view(np.float32)
    return Sampled(raw, _judge_matrix(file, tensor, values, *shape))


def _judge_matrix(file: MappedFile, tensor: Tensor, values: np.ndarray, rows: int, row: int) -> Origin:
    """Judge values of rows; and, if these tell nothing, of columns."""
    along_rows = judge_values(values.reshape(-1, 32), tensor.type, row)
    if along_rows.format not in ("direct", "ambiguous"):
        return along_rows
    columns = column_runs(file, tensor, rows, row)
    if columns is None:
        return along_rows
    found = judge_values(columns.reshape(-1, 32), tensor.type, columns.shape[1])
    if found.format in ("direct", "ambiguous", "constant"):
        return along_rows
    return replace(found, reason=f"along dimension 1, {found.reason}")
