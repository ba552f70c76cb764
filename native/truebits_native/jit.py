"""How every kernel is compiled: the one place that decides it.

- Lazy signatures: importing compiles nothing.
- ``parallel``: a `prange` over chunks; threads share no element.
- ``cache``: compiled once per machine. Where no folder can be written Numba refuses to cache;
  then the kernel is compiled in each process, and still works.
- ``error_model``: a division by zero gives Inf or NaN, as in NumPy; raising would keep a loop scalar.
- ``nogil``: the main thread can write to disk and answer Ctrl-C meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

inner = numba.njit(error_model="numpy")
"""For a scalar or per-block piece of a kernel, compiled into it."""

fused = numba.njit(error_model="numpy", fastmath={"contract"})
"""The same where every product is exact (of F32, in float64): one fused step for two gives the same bits."""


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` with the policy above."""
    try:
        return numba.njit(parallel=True, nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return numba.njit(parallel=True, nogil=True, error_model="numpy")(function)
