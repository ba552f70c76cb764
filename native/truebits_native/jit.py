"""How every kernel is compiled: the one place that decides it.

- Lazy signatures: importing compiles nothing.
- Not ``parallel``: threads are `pool`'s. That takes half the time to compile, and no threading layer dies after a fork.
- ``nogil``: the pool's threads run at once, and the main thread can write to disk and answer Ctrl-C meanwhile.
- ``error_model``: a division by zero gives Inf or NaN, as in NumPy; raising would keep a loop scalar.
- Compiled once per machine: see `cache`, which stands in for Numba's.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from truebits_native import cache, dispatch
from truebits_native.pool import LOADING

THREADS = "NUMBA_NUM_THREADS"
_asked = os.environ.get(THREADS, "1")
if not _asked.isdecimal() or not int(_asked):  # of Numba's threads, none of which is used: it stops the import
    del os.environ[THREADS]
import llvmlite  # noqa: E402
import numba  # noqa: E402
from numba.core.caching import _Cache  # noqa: E402
from numba.core.compiler import CompileResult  # noqa: E402
from numba.core.compiler_lock import global_compiler_lock  # noqa: E402
from numba.core.serialize import dumps  # noqa: E402

COMPILER = numba.__version__, llvmlite.__version__, sys.version, sys.abiflags

inner = numba.njit(error_model="numpy")
"""For a scalar or per-block piece of a kernel, compiled into it."""

fused = numba.njit(error_model="numpy", fastmath={"contract"})
"""The same where every product is exact (of F32, in float64): one fused step for two gives the same bits."""


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` with the policy above."""
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    if compiled is not function:  # it is, with NUMBA_DISABLE_JIT
        compiled._cache = KernelCache(function)
    return compiled


class KernelCache(_Cache):
    """The cache of one kernel, as Numba's dispatcher asks for it."""

    cache_path = None

    def __init__(self, function: Callable[..., Any]):
        self.kernel = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """Return the kernel as it was compiled for these types, or None."""
        target_context.refresh()
        found = cache.load(self.kernel, self._key(sig, target_context.codegen()))
        if found is not None:
            with suppress(Exception):  # whatever is wrong with it, it can be compiled
                compiled = CompileResult._rebuild(target_context, *pickle.loads(found[0]))
                self.cache_path = str(found[1])
                dispatch.loaded.add(self.kernel)
                return compiled
        dispatch.announce(self.kernel)
        return None

    def save_overload(self, sig: Any, data: CompileResult) -> None:
        """Keep a kernel for later processes."""
        dispatch.loaded.add(self.kernel)
        folder = cache.save(self.kernel, self._key(sig, data.codegen), dumps(data._reduce()))
        self.cache_path = str(folder) if folder else None

    def _key(self, sig: Any, codegen: Any) -> bytes:
        return repr((self.kernel, sig, codegen.magic_tuple(), COMPILER)).encode()

    def enable(self) -> None: ...

    def disable(self) -> None: ...

    def flush(self) -> None: ...


LOADING.append(global_compiler_lock)
