"""What ``llama-quantize --tensor-type-file TYPES MODEL OUT q8_0`` does, by the wheel's llama.cpp: MODEL OUT TYPES."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import gguf

from truebits.quantizers.libggml import PACKAGES, library


class QuantizeParameters(ctypes.Structure):
    """``llama_model_quantize_params`` of the wheel that is known."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("nthread", "ftype", "output_tensor_type", "token_embedding_type")),
        *((name, ctypes.c_bool) for name in ("allow_requantize", "quantize_output_tensor", "only_copy", "pure")),
        *((name, ctypes.c_bool) for name in ("keep_split", "dry_run")),
        *((name, ctypes.c_void_p) for name in ("imatrix", "kv_overrides", "tt_overrides", "prune_layers")),
        ("max_buf_size", ctypes.c_size_t),
    )


class Override(ctypes.Structure):
    """``llama_model_tensor_override``."""

    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_int))


def quantize(source: str, out: str, lines: list[str]) -> int:
    """Quantize to Q8_0, but for tensors whose name a line's regex is found in; return llama.cpp's own code."""
    llama = ctypes.CDLL(str(library(PACKAGES["wheel"], "llama")))
    llama.llama_model_quantize_default_params.restype = QuantizeParameters
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(QuantizeParameters)]
    parameters = llama.llama_model_quantize_default_params()
    pairs = [line.split("=") for line in lines]
    overrides = (Override * (len(pairs) + 1))()
    for place, (pattern, name) in zip(overrides, pairs, strict=False):
        place.pattern, place.type = pattern.encode(), gguf.GGMLQuantizationType[name.upper()].value
    parameters.tt_overrides = ctypes.addressof(overrides)
    parameters.ftype, parameters.nthread = 7, 1  # mostly Q8_0
    return llama.llama_model_quantize(source.encode(), out.encode(), parameters)


if __name__ == "__main__":
    sys.exit(quantize(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_text().split()))
