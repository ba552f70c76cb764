"""Write what ggml's own quantizers make of one small matrix: `tests/data/quantized.npz`.

    python tools/quantized_blocks.py LIBGGML-BASE.SO OUT.NPZ

The library is that of any build of llama.cpp. Weights are BF16 values; every type is made with and
without an importance matrix.
"""

from __future__ import annotations

import ctypes
import sys

import gguf
import numpy as np

TYPES = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
TYPES += ("IQ4_NL", "IQ4_XS", "MXFP4", "TQ2_0")
ROWS, ROW = 16, 512


def weights() -> np.ndarray:
    """Draw what a trained matrix looks like, as BF16 has it."""
    drawn = np.random.default_rng(12).standard_t(5, (ROWS, ROW)).astype(np.float32) * np.float32(0.02)
    return (drawn.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def main(library: str, out: str) -> None:
    ggml = ctypes.CDLL(library)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    values = weights()
    importance = np.random.default_rng(13).gamma(1, 1, ROW).astype(np.float32) + np.float32(0.01)
    made = {"values": (values.view(np.uint32) >> 16).astype(np.uint16)}
    for name in TYPES:
        number = gguf.GGMLQuantizationType[name]
        block, nbytes = gguf.GGML_QUANT_SIZES[number]
        for end, pointer in (("", None), ("+imatrix", ctypes.c_void_p(importance.ctypes.data))):
            packed = np.empty((values.size // block, nbytes), np.uint8)
            source, target = (ctypes.c_void_p(array.ctypes.data) for array in (values, packed))
            sizes = (ctypes.c_int64(0), ctypes.c_int64(ROWS), ctypes.c_int64(ROW))
            ggml.ggml_quantize_chunk(ctypes.c_int(number.value), source, target, *sizes, pointer)
            made[name + end] = packed
    np.savez_compressed(out, **made)


if __name__ == "__main__":
    main(*sys.argv[1:])
