"""Files and processes that the benchmarks share: how they are run, and what NumPy counts in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

BITS = 16
MASK = np.uint32((1 << BITS) - 1)
BLOCK_WORDS = 1 << 24

TRUEBITS = [sys.executable, "-m", "truebits"]

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""An installed package has its bytecode."""


def run(*command: str | Path, code: int = 0) -> str:
    done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == code, f"{command} ended with {done.returncode}"
    return done.stdout


def read_with_dd(path: Path) -> None:
    run("dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none")


def drop_from_cache(path: Path) -> None:
    """Make the next read of a file a cold one; needs no root."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def expected_low_zero(path: Path) -> dict[str, int]:
    """Count with gguf-py and NumPy."""
    tensors = gguf.GGUFReader(path).tensors
    return {tensor.name: low_zero(tensor.data.reshape(-1).view(np.uint32)) for tensor in tensors}


def low_zero(words: np.ndarray) -> int:
    blocks = (words[at : at + BLOCK_WORDS] for at in range(0, words.size, BLOCK_WORDS))
    return sum(int(np.count_nonzero(block & MASK == 0)) for block in blocks)


def packed(path: Path, sizes: dict[str, int]) -> Path:
    """Write a tensor of random bytes of each block type."""
    writer, random = gguf.GGUFWriter(path, "llama"), np.random.default_rng(2)
    for name, size in sizes.items():
        type = gguf.GGMLQuantizationType[name]
        _, nbytes = gguf.GGML_QUANT_SIZES[type]
        writer.add_tensor(name, random.integers(0, 256, (max(1, size // nbytes), nbytes), np.uint8), raw_dtype=type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
