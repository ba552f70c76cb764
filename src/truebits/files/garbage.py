"""The garbage collector put off, while many objects are made of which none is garbage.

Each time they have grown by a quarter it looks at all objects of the process, also those of Numba's: 0.1 s.
Mercurial's ``util.nogc`` does the same.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Let nothing be collected meanwhile; afterwards as before."""
    was_enabled = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if was_enabled:
            gc.enable()
