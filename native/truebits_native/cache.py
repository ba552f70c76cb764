"""Where machine code is kept between processes, and why it can be believed. No numba import.

Numba stamps a cached kernel with the kernel's own file, and unpickles whatever it finds. Here an entry is one file for
one kernel, types and CPU. It begins with a digest of all sources of the package, and one of that, of what else decides
the code, and of the code. What is not exactly as it was written is as good as missing; what cannot be written is not
kept; and neither is ever a reason to fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
SUFFIX = ".nbc"
DIGEST = 32
"""Bytes of a SHA-256."""


@cache
def stamp() -> bytes:
    """Return the digest of the package's sources: a constant in one file decides the code of kernels in another."""
    files = sorted(PACKAGE.rglob("*.py"))
    return _digest(*(_digest(str(file.relative_to(PACKAGE)).encode(), file.read_bytes()) for file in files))


def folders() -> Iterator[Path]:
    """Yield where entries are looked for: in NUMBA_CACHE_DIR if it is set; beside the sources, and in the home folder.

    They are written to the first that can be: a folder that somebody else filled, for all users, is read.
    """
    own = f"{PACKAGE.name}-{_digest(os.fsencode(PACKAGE)).hex()[:16]}"
    if os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(os.environ["NUMBA_CACHE_DIR"], own)
        return
    yield PACKAGE / "__pycache__"
    with suppress(RuntimeError):  # no home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", own)


def holds(kernel: str) -> bool:
    """Tell whether a kernel of these sources is kept; for which types and CPU only Numba can tell."""
    for folder in folders():
        with suppress(OSError):
            for file in folder.glob(f"{kernel}-*{SUFFIX}"):
                if _read(file, DIGEST) == stamp():
                    return True
    return False


def load(kernel: str, key: bytes) -> tuple[bytes, Path] | None:
    """Return what was saved under a key, and in which folder it was; None if nothing is, or not as it was written."""
    for folder in folders():
        with suppress(OSError):
            entry = _read(folder / _file(kernel, key))
            content = entry[2 * DIGEST :]
            if entry[: 2 * DIGEST] == _head(key, content):
                return content, folder
    return None


def save(kernel: str, key: bytes, content: bytes) -> Path | None:
    """Save something under a key; returns the folder, None if no folder takes it."""
    for folder in folders():
        temporary = folder / f".{kernel}-{os.urandom(8).hex()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(_head(key, content) + content)
            temporary.replace(folder / _file(kernel, key))
            return folder
        except OSError:
            with suppress(OSError):
                temporary.unlink()
    return None


def _read(file: Path, size: int = -1) -> bytes:
    """Read a file's first bytes, or all of it, without waiting at what is none."""
    with open(file, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0))) as entry:
        return entry.read(size)


def _file(kernel: str, key: bytes) -> str:
    return f"{kernel}-{_digest(key).hex()[:16]}{SUFFIX}"


def _head(key: bytes, content: bytes) -> bytes:
    return stamp() + _digest(stamp(), key, content)


def _digest(*parts: bytes) -> bytes:
    """Return one digest of several byte strings, each with its length."""
    from hashlib import sha256  # 3 ms, which small work does not need

    whole = sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.digest()
