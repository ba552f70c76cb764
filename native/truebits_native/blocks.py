"""The front door of block-quantized bytes: it checks them, and sends them to a kernel or to the twin."""

from __future__ import annotations

import numpy as np

from truebits_native import dispatch
from truebits_native.chunks import cut
from truebits_native.dispatch import readable, run
from truebits_native.pool import over_runs
from truebits_native.reference import blocks as reference_blocks
from truebits_native.reference.blocks import FACTS, LAYOUTS, LEAST, MOST_CODES, NO_SCALE, BlockCounts, add_facts

CHUNK_BYTES = 1 << 20

KERNELS = {3: "count_few", 4: "count_few", 8: "count_few", 16: "count_fours", 32: "count_fives", 64: "count_wide"}
"""By the number of codes, or of cells, that a type has."""


def block_counts(
    raw: np.ndarray, starts: np.ndarray, stops: np.ndarray, type: str, threads: int | None = None
) -> BlockCounts:
    """Count what the blocks of each range ``raw[start:stop]`` use of their codes and scales.

    Parameters
    ----------
    raw : ndarray of uint8, shape (n,)
    starts, stops : ndarray of int64, shape (m,)
        Each range holds whole blocks; they may start anywhere.
    type : str
        A key of `LAYOUTS`.
    threads : int, optional
        All cores if not given. The result does not depend on it.

    Returns
    -------
    BlockCounts

    Raises
    ------
    ValueError
        A range is not whole blocks.
    """
    raw, layout = readable(raw, np.uint8), LAYOUTS[type]
    if ((stops - starts) % layout.nbytes).any():
        raise ValueError(f"a range is not whole blocks of {layout.nbytes} bytes, as {type} has")
    name = "blocks." + KERNELS[len(set(reference_blocks.cells(layout).tolist()))]
    if not dispatch.uses_kernel(name, int((stops - starts).sum())):
        return reference_blocks.block_counts(raw, starts, stops, type)
    owner, begin, end = cut(starts, stops, CHUNK_BYTES // layout.nbytes * layout.nbytes)
    by_chunk = BlockCounts(
        np.zeros((begin.size, MOST_CODES + 1), np.int64), np.zeros((begin.size, len(FACTS)), np.int64)
    )
    how = block_layout(type)
    over_runs(
        lambda of: run(name, raw, begin[of], end[of], how, by_chunk.distinct[of], by_chunk.facts[of]),
        begin.size,
        threads,
    )
    distinct = np.zeros((starts.size, MOST_CODES + 1), np.int64)
    np.add.at(distinct, owner, by_chunk.distinct)
    facts = np.zeros((starts.size, len(FACTS)), np.int64)
    facts[:, LEAST] = NO_SCALE
    for row, of_chunk in zip(owner.tolist(), by_chunk.facts, strict=True):
        add_facts(facts[row], of_chunk)
    return BlockCounts(distinct, facts)


def block_layout(type: str) -> tuple:
    """Return what the kernels want to know of a block type."""
    from truebits_native.kernels import planes

    layout = LAYOUTS[type]
    cells, is_zero = reference_blocks.cells(layout), layout.levels == 0
    zeros = sum(1 << cell for cell in set(cells[is_zero].tolist()) - set(cells[~is_zero].tolist()))
    kind, scale = np.int64(getattr(planes, type)), layout.scale
    sizes = np.uint64(layout.nbytes), np.uint64(layout.groups)
    most = min(layout.values // layout.groups, int(cells.max()) + 1, MOST_CODES)
    return kind, *sizes, np.int64(most), np.uint64(zeros), np.uint16(scale.special), np.uint16(scale.shift)
