"""FP8 values as F32, through a table of all 256 codes."""

from __future__ import annotations

from functools import cache

import numpy as np

from truebits.files.types import FP8_FORMATS
from truebits.numbers.formats import find


@cache
def single_words(type: str) -> np.ndarray:
    """Return the F32 word of every code of an FP8 dtype, exact; a NaN keeps its sign and payload.

    Parameters
    ----------
    type : str
        One of `FP8_FORMATS`.

    Returns
    -------
    ndarray of uint32, shape (256,)
    """
    format = find(FP8_FORMATS[type])
    codes = np.arange(256, dtype=np.uint32)
    sign, payload = codes >> 7 << 31, (codes & (1 << format.mantissa_bits) - 1) << 23 - format.mantissa_bits
    exponent = (codes & 0x7F) >> format.mantissa_bits
    significand = (codes & (1 << format.mantissa_bits) - 1) | (exponent > 0).astype(np.uint32) << format.mantissa_bits
    powers = np.maximum(exponent, 1).astype(np.int32) - 1 + format.quantum_exponent
    finite = np.ldexp(significand.astype(np.float32), powers).view(np.uint32)
    special = {
        "ieee": exponent == exponent.max(),
        "nan": codes & 0x7F == 0x7F,
        "fnuz": codes == 0x80,
    }[format.special]
    quiet = 0 if format.has_inf else 1 << 22
    return sign | np.where(special, 0xFF << 23 | quiet | payload, finite).astype(np.uint32)
