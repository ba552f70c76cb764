"""ggml's block types, by gguf-py's code or by ggml's own."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

import truebits_native as native
from truebits.errors import Refused
from truebits.files.tensor import Tensor
from truebits.numbers.formats import GgmlType
from truebits.numbers.rounding import Rounding, Words
from truebits.quantizers.libggml import ggml_base
from truebits.quantizers.scales import extremes
from truebits_native.packing import QUANTIZED
from truebits_native.pool import in_order
from truebits_native.reference import Difference
from truebits_native.types import LAYOUTS

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

SLICE = 1 << 16
"""Values that gguf-py or ggml quantize at a time: what they make on the way stays in the cache."""


class GgmlQuantizer:
    """A block type of ggml, there and back."""

    def __init__(self, format: GgmlType, tensor: Tensor, rounding: Rounding):
        self.tensor = tensor
        self.block = format.block
        self.name = format.name
        self.trip = round_trip(format)

    def prepare(self, words: Words) -> None:
        """Nothing: a block knows its own scale."""

    def round(self, words: np.ndarray, first: int, threads: int | None) -> Difference:
        extremes(lambda: iter([(0, words)]), max(1, words.size), 1, self.tensor)
        old = words.copy()
        size = max(1, SLICE // self.block) * self.block
        slices = [words[at : at + size] for at in range(0, words.size, size)]

        def change(piece: np.ndarray) -> None:
            with np.errstate(all="ignore"):  # a scale beyond F16 is found below
                piece.view(np.float32)[:] = self.trip(piece.view(np.float32).reshape(-1, self.block)).ravel()

        for _ in in_order(change, slices, threads):
            pass
        if words.size and np.isnan(native.extremes(words, np.array([0]), np.array([words.size]), threads)[0][0]):
            raise Refused(f"{self.tensor.label}: a block's scale is beyond F16, in which {self.name} keeps it")
        return native.compare(old, words, threads)


def round_trip(format: GgmlType) -> Callable[[np.ndarray], np.ndarray]:
    """Return what quantizes F32 blocks, shape (n, block), to a type of ggml and back."""
    if format.type in QUANTIZED:
        return lambda blocks: native.dequantized(native.quantized(blocks.ravel(), format.type), format.type)
    import gguf

    type = gguf.GGMLQuantizationType[format.type]
    if format.by == "gguf":
        return lambda blocks: gguf.quants.dequantize(gguf.quants.quantize(blocks, type), type)
    if format.type in LAYOUTS:
        return lambda blocks: native.dequantized(quantize(blocks, type).ravel(), format.type)
    return lambda blocks: gguf.quants.dequantize(quantize(blocks, type), type)


def quantize(blocks: np.ndarray, type: GGMLQuantizationType) -> np.ndarray:
    """Quantize with ``ggml_quantize_chunk``, without an importance matrix.

    Parameters
    ----------
    blocks : ndarray of float32, shape (n, block)
    type : gguf.GGMLQuantizationType

    Returns
    -------
    ndarray of uint8, shape (n, bytes per block)
    """
    from gguf import GGML_QUANT_SIZES

    block, nbytes = GGML_QUANT_SIZES[type]
    source = np.ascontiguousarray(blocks, np.float32)
    packed = np.empty((blocks.size // block, nbytes), np.uint8)
    written = ggml_base().ggml_quantize_chunk(
        type.value, source.ctypes.data, packed.ctypes.data, 0, len(packed), block, None
    )
    if written != packed.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes of {type.name}, expected {packed.nbytes}")
    return packed


def in_rows(flat: np.ndarray, values: int, items: int) -> np.ndarray:
    """Return blocks in rows of about 4,096 values: gguf-py takes 16 rows at a time, which then stay in the cache.

    Rows of one block each take it ten times as long.

    Parameters
    ----------
    flat : ndarray, shape (n,)
    values, items : int
        Of a block: its values, and the elements of `flat` that hold them.
    """
    blocks = flat.size // items
    together = gcd(blocks, max(1, 4096 // values))
    return flat.reshape(-1, items * (together if together >= 8 else max(1, blocks)))
