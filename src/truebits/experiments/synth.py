"""Test models with known truth.

Values are drawn from a normal distribution, seeded, and rounded to the wanted precision, so what a
scan must find is known beforehand. The header is written by gguf-py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice, product
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from truebits.errors import UsageError
from truebits.files.gguf import Limits
from truebits.files.types import BY_NAME, FLOAT_BYTES
from truebits.numbers.formats import Format
from truebits.numbers.spelling import find
from truebits.rewriting.copy import BLOCK_BYTES
from truebits.rewriting.durable import write_all
from truebits.rewriting.outputs import NewFile, new_files

if TYPE_CHECKING:
    from gguf import GGUFWriter

ALIGNMENT = 32

LARGEST_TENSOR = 1 << 26
"""Values per tensor of a plain model, at most: 256 MiB of F32."""


class Spec(NamedTuple):
    """One tensor to write: `shape` in ggml's order, first dimension fastest."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        block = BY_NAME[self.type]
        return self.values // block.values * block.nbytes


def synth(
    path: str | os.PathLike[str],
    *,
    like: str | None = None,
    precision: str | None = None,
    type: str = "F32",
    size: int = 1 << 26,
    tensors: int | None = None,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Write a GGUF test model.

    Parameters
    ----------
    path : path-like
    like : {"tinyllama"}, optional
        TinyLlama 1.1B's 201 tensors, shapes and types (Q4_K_M), its vocabulary's size and number
        of merges. The norms have values; the quantized tensors are holes in the file (zeros).
    precision : str, optional
        A format; every value is rounded to it (`truebits.numbers.spelling.find`). If not given ``f32``, and for
        TinyLlama ``bf16``, as its norms are.
    type : {"F32", "F16", "BF16", "F64"}
        Storage type of a plain model's tensors.
    size : int
        Bytes of a plain model's tensors, about.
    tensors : int, optional
        Number of a plain model's tensors; as few as hold `size` if not given.
    seed : int
    force : bool
        Replace `path` if it exists.

    Returns
    -------
    Path

    Raises
    ------
    UsageError
        An unknown `like`, `precision` or `type`, or a size that cannot be.
    Refused
        `path` exists.
    """
    path = Path(path)
    if like not in (None, "tinyllama"):
        raise UsageError(f"no model to be like is called {like!r}; there is: tinyllama")
    if type not in FLOAT_BYTES:
        raise UsageError(f"type is {type!r}, allowed are {', '.join(FLOAT_BYTES)}")
    format = find(precision or ("bf16" if like else "f32"))
    specs = tinyllama() if like else plain(size, type, tensors)
    header = _header(specs, vocabulary=32_000 if like else 0)
    generator = np.random.Generator(np.random.SFC64(seed))  # its import swallows a Ctrl-C: not while writing
    with new_files([path], force) as (file,):
        write_all(file.descriptor, header, 0)
        _write_values(file, specs, len(header) + -len(header) % ALIGNMENT, format, generator)
    return path


def plain(size: int, type: str, count: int | None) -> list[Spec]:
    """Split `size` bytes into blocks of a matrix and a norm each, or into `count` equal vectors."""
    values = size // FLOAT_BYTES[type]
    if values < 1 or (count is not None and not 1 <= count <= values):
        raise UsageError(f"{size} bytes hold {values} {type} values: too few for {count or 1} tensors")
    if max(count or 0, 2 * (values // LARGEST_TENSOR)) > Limits().max_tensors:
        raise UsageError(f"more than {Limits().max_tensors} tensors: no reader would open the file")
    if count is not None:
        return [Spec(f"blk.{i}.attn_norm.weight", type, (values // count,)) for i in range(count)]
    width = 64 if values < 1 << 20 else 4096
    blocks = max(1, -(-values // LARGEST_TENSOR))
    rows = max(1, (values // blocks - width) // width)
    return [
        Spec(f"blk.{i}.{name}.weight", type, shape)
        for i in range(blocks)
        for name, shape in (("attn_norm", (width,)), ("ffn_up", (width, rows)))
    ]


def tinyllama() -> list[Spec]:
    """TinyLlama 1.1B Chat v1.0 in Q4_K_M: 45 F32, 135 Q4_K and 21 Q6_K tensors."""
    width, hidden, heads, layers, vocabulary = 2048, 5632, 256, 22, 32_000
    first, last = layers // 8, 7 * layers // 8
    specs = [Spec("output.weight", "Q6_K", (width, vocabulary)), Spec("token_embd.weight", "Q4_K", (width, vocabulary))]
    for i in range(layers):
        more = "Q6_K" if i < first or i >= last or (i - first) % 3 == 2 else "Q4_K"
        specs += [
            Spec(f"blk.{i}.attn_norm.weight", "F32", (width,)),
            Spec(f"blk.{i}.ffn_down.weight", more, (hidden, width)),
            Spec(f"blk.{i}.ffn_gate.weight", "Q4_K", (width, hidden)),
            Spec(f"blk.{i}.ffn_up.weight", "Q4_K", (width, hidden)),
            Spec(f"blk.{i}.ffn_norm.weight", "F32", (width,)),
            Spec(f"blk.{i}.attn_k.weight", "Q4_K", (width, heads)),
            Spec(f"blk.{i}.attn_output.weight", "Q4_K", (width, width)),
            Spec(f"blk.{i}.attn_q.weight", "Q4_K", (width, width)),
            Spec(f"blk.{i}.attn_v.weight", more, (width, heads)),
        ]
    return [*specs, Spec("output_norm.weight", "F32", (width,))]


def _header(specs: list[Spec], vocabulary: int) -> bytes:
    """Let gguf-py write the header."""
    import gguf

    with TemporaryDirectory() as folder:
        path = Path(folder) / "header.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name("truebits synth")
        if vocabulary:
            _add_tinyllama(writer, vocabulary)
        for spec in specs:
            kind = gguf.GGMLQuantizationType[spec.type]
            writer.add_tensor_info(spec.name, spec.shape[::-1], np.dtype(np.float32), spec.nbytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return path.read_bytes()


def _add_tinyllama(writer: GGUFWriter, vocabulary: int) -> None:
    """Give the header TinyLlama's sizes, and a vocabulary that is as long."""
    writer.add_file_type(15)
    writer.add_context_length(2048)
    writer.add_embedding_length(2048)
    writer.add_block_count(22)
    writer.add_feed_forward_length(5632)
    writer.add_head_count(32)
    writer.add_head_count_kv(4)
    writer.add_rope_dimension_count(64)
    writer.add_layer_norm_rms_eps(1e-5)
    syllables = ["ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu"]
    words = ("".join(word) for length in range(1, 6) for word in product(syllables, repeat=length))
    tokens = list(islice(words, vocabulary))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(vocabulary)])
    writer.add_token_types([1] * vocabulary)
    merges = (f"{left} {right}" for right in tokens for left in syllables)
    writer.add_token_merges(list(islice(merges, 61_249)))


def _write_values(file: NewFile, specs: list[Spec], start: int, format: Format, generator: np.random.Generator) -> None:
    """Write each float tensor's values; leave holes for the quantized ones."""
    at = start
    blocks = BlockWriter(file.descriptor)
    for spec in specs:
        if spec.type in FLOAT_BYTES:
            for offset, values in _draws(generator, spec, at):
                blocks.write(offset, _stored(round_to(values, format), spec.type).tobytes())
        at += spec.nbytes + -spec.nbytes % ALIGNMENT
    blocks.flush()
    os.ftruncate(file.descriptor, at)


class BlockWriter:
    """Writes a file front to back, in whole blocks of `BLOCK_BYTES` as far as there are bytes."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self.block = bytearray(BLOCK_BYTES)
        self.start = self.stop = 0

    def write(self, offset: int, data: bytes) -> None:
        """Take bytes that do not reach across a block's end, and lie behind those before."""
        if offset // BLOCK_BYTES != self.start // BLOCK_BYTES:
            self.flush()
        if self.start == self.stop:
            self.start = offset
        self.stop = offset + len(data)
        self.block[offset % BLOCK_BYTES : offset % BLOCK_BYTES + len(data)] = data

    def flush(self) -> None:
        """Write what there is; bytes between were zero."""
        low = self.start % BLOCK_BYTES
        write_all(self.descriptor, self.block[low : low + self.stop - self.start], self.start)
        self.block[:] = bytes(BLOCK_BYTES)
        self.start = self.stop


def _draws(generator: np.random.Generator, spec: Spec, start: int) -> Iterator[tuple[int, np.ndarray]]:
    """Draw a tensor's values, to be written in blocks that end at multiples of `BLOCK_BYTES` in the file."""
    item = FLOAT_BYTES[spec.type]
    dtype = np.float64 if spec.type == "F64" else np.float32
    mean, spread = (0.5, 0.1) if "norm" in spec.name else (0.0, 0.02)
    at, end = start, start + spec.values * item
    while at < end:
        count = (min(end, at + BLOCK_BYTES - at % BLOCK_BYTES) - at) // item
        yield at, generator.standard_normal(count, dtype=dtype) * dtype(spread) + dtype(mean)
        at += count * item


def round_to(values: np.ndarray, format: Format) -> np.ndarray:
    """Round finite values to the nearest of a format, ties to even; beyond the largest, to the largest.

    Parameters
    ----------
    values : ndarray of float32 or float64

    Returns
    -------
    ndarray of the same dtype
    """
    if format.bits >= 8 * values.itemsize:
        return values
    _, exponent = np.frexp(values)
    quantum = np.maximum(exponent - 1, format.smallest_normal_exponent) - format.mantissa_bits
    rounded = np.ldexp(np.rint(np.ldexp(values.astype(np.float64), -quantum)), quantum)
    return np.clip(rounded, -format.largest, format.largest).astype(values.dtype)


def _stored(values: np.ndarray, type: str) -> np.ndarray:
    """Convert values to the words of a storage type."""
    if type == "BF16":
        singles = round_to(values, find("bf16")).view(np.uint32)
        return (singles >> np.uint32(16)).astype("<u2")
    return values.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[type])
