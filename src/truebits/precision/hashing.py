"""Values -> a hash of what a model's tensors hold, however they are stored.

The hash, precisely (``truebits.fingerprint/1``), so that others can compute it; H is SHA-256, numbers are
little-endian:

1. A floating-point tensor's values, in the file's order, are cut into pieces of 2^20 values. Every NaN becomes the
   one quiet NaN with sign and payload 0 (the types widen payloads differently); -0 and 0 stay apart. A piece is
   written in the narrowest of BF16, F32 and F64 that holds each of its values exactly: words of 2, 4 or 8 bytes.
   The tensor's hash is H over all pieces: one byte of the word's width, then H(words).
   A tensor of a quantized checkpoint counts as the F32 values that its codes and scales stand for, under the name of
   the weight (`truebits.quantizers`), and FP8 as the values of its words.
2. Any other tensor's bytes are cut into pieces of 2^22 bytes. Its hash is H over all pieces: the byte 1,
   then H(bytes).
3. A tensor's record is: its name, as u32 length and bytes; its kind in the same form, ``values`` for a floating-point
   tensor, else the type's name (``Q4_K``); the number of dimensions as u32 and each as u64, in the file's order
   without the ones at the end (which say nothing: ggml has always four); the 32 bytes of its hash.
4. The fingerprint is H over the records of all floating-point tensors, sorted by the bytes of their names.
   ``whole`` is the same over the records of all tensors.

The pieces make the hash of one large tensor parallel work, and have nothing to do with the number of threads.
SHA-256 because today's processors compute it, at twice the speed of BLAKE2b.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from hashlib import sha256
from itertools import chain, groupby
from operator import attrgetter
from struct import pack
from typing import NamedTuple

import numpy as np

from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.numbers.words import to_singles
from truebits.precision.batches import RUN_GAP, Progress, stepper
from truebits.precision.bins import FLOAT_LAYOUTS
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.quantized import Quantized
from truebits_native import reference
from truebits_native.pool import in_order

ALGORITHM = "sha256"
PIECE_VALUES = 1 << 20
PIECE_BYTES = 1 << 22

MOST_PIECES = 64
"""Hashed by one thread before the next ones: small tensors, at most `PIECE_BYTES` together."""


class TensorFingerprint(NamedTuple):
    """The hash of one tensor.

    Attributes
    ----------
    name : str
    type : str
        Its storage type; the hash does not depend on it where the kind is ``values``.
    shape : tuple of int
        In the file's order; not part of `hash`.
    values : int
        Number of elements.
    kind : {"values", "bytes"}
        What is hashed: the values of floating-point words, or the bytes of any other type.
    hash : str
        In hex.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    values: int
    kind: str
    hash: str

    def record(self) -> bytes:
        """Return what the hash of a model is made of."""
        name, kind = name_bytes(self.name), (self.kind if self.kind == "values" else self.type).encode()
        shape = significant(self.shape)
        texts = b"".join(pack("<I", len(text)) + text for text in (name, kind))
        return texts + pack(f"<I{len(shape)}Q", len(shape), *shape) + bytes.fromhex(self.hash)


def kind_of(tensor: Tensor, of: Meaning) -> str:
    """Return what of a tensor is hashed: ``values`` or ``bytes``."""
    return "values" if tensor.type in FLOAT_BYTES or tensor.name in of.quantized else "bytes"


def significant(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without the ones at its end."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def name_bytes(name: str) -> bytes:
    """Return a tensor's name as it stands in the file."""
    return name.encode("utf-8", "surrogateescape")


def together(tensors: Iterable[TensorFingerprint]) -> str:
    """Return the hash of several tensors, in hex: a model's fingerprint."""
    of_all = sha256()
    for tensor in sorted(tensors, key=lambda tensor: name_bytes(tensor.name)):
        of_all.update(tensor.record())
    return of_all.hexdigest()


def fingerprints(
    of: Meaning, tensors: Iterable[Tensor], threads: int | None, progress: Progress | None = None
) -> Iterator[TensorFingerprint]:
    """Yield the hash of each tensor that is meant, with what it is the hash of."""
    tensors = list(tensors)
    found = hashes(of, tensors, threads, progress)
    for one in tensors:
        yield TensorFingerprint(one.name, one.type, one.shape, one.values, kind_of(one, of), found[one.name])


class _Piece(NamedTuple):
    """Bytes of one tensor."""

    tensor: Tensor
    start: int
    stop: int


def hashes(of: Meaning, tensors: Iterable[Tensor], threads: int | None, progress: Progress | None) -> dict[str, str]:
    """Return the hash of each tensor that is meant, in hex, by name."""
    model = of.model
    everything = sorted(tensors, key=attrgetter("part", "offset"))
    found = {tensor.name: sha256() for tensor in everything}
    step = stepper(progress, sum(tensor.nbytes for tensor in everything))
    tensors = [tensor for tensor in everything if tensor.name not in of.quantized]
    for part, of_part in groupby(tensors, key=attrgetter("part")):
        with model.parts[part].map() as file:
            for hashed in in_order(partial(_hashed, file), _jobs(of_part), threads):
                for piece, digest in hashed:
                    found[piece.tensor.name].update(digest)
                step(sum(piece.stop - piece.start for piece, _ in hashed))
            file.check()
    for name in found.keys() & of.quantized.keys():
        for digest in _quantized_digests(model, of.quantized[name], threads):
            found[name].update(digest)
        step(of.quantized[name].tensor.nbytes)
    return {name: hash.hexdigest() for name, hash in found.items()}


def _quantized_digests(model: Model, one: Quantized, threads: int | None) -> Iterator[bytes]:
    """Yield what each piece of a quantized tensor adds to its hash."""
    with model.map({tensor.part for tensor in one.sources.values()}) as files:

        def digest(first: int) -> bytes:
            words = canonical(one.words(files, first, min(PIECE_VALUES, one.tensor.values - first)), "F32")
            one.forget(files)
            return bytes([words.itemsize]) + sha256(words.data).digest()

        yield from in_order(digest, range(0, one.tensor.values, PIECE_VALUES), threads)


def _jobs(tensors: Iterable[Tensor]) -> Iterator[list[_Piece]]:
    """Yield pieces, small neighbours together: a thread gets enough to do each time."""
    job: list[_Piece] = []
    for piece in chain.from_iterable(map(_pieces, tensors)):
        if job and (
            len(job) == MOST_PIECES or piece.stop - job[0].start > PIECE_BYTES or piece.start - job[-1].stop > RUN_GAP
        ):
            yield job
            job = []
        job.append(piece)
    if job:
        yield job


def _pieces(tensor: Tensor) -> Iterator[_Piece]:
    end = tensor.offset + tensor.nbytes
    step = PIECE_VALUES * FLOAT_BYTES[tensor.type] if tensor.type in FLOAT_BYTES else PIECE_BYTES
    for start in range(tensor.offset, end, step):
        yield _Piece(tensor, start, min(start + step, end))


def _hashed(file: MappedFile, job: list[_Piece]) -> list[tuple[_Piece, bytes]]:
    """Return what each piece adds to its tensor's hash."""
    file.check()
    file.expect(job[0].start, job[-1].stop)
    digests = []
    for piece in job:
        tensor, start, stop = piece
        data = np.frombuffer(file.data, np.uint8, stop - start, start)
        if tensor.type in FLOAT_BYTES:
            words = canonical(data.view(f"<u{FLOAT_BYTES[tensor.type]}"), tensor.type)
        else:
            words = data
        digests.append((piece, bytes([words.itemsize]) + sha256(words.data).digest()))
    file.forget(job[0].start, job[-1].stop)
    return digests


def canonical(words: np.ndarray, type: str) -> np.ndarray:
    """Return values as BF16, F32 or F64 words: the narrowest that hold each of them, with one NaN for all.

    Parameters
    ----------
    words : ndarray of uint16, uint32 or uint64
    type : {"F16", "BF16", "F32", "F64"}

    Returns
    -------
    ndarray of uint16, uint32 or uint64
    """
    if type == "F16":  # the twin: this is a thread of the pool already
        words, type = reference.widened(words, "F16"), "F32"
    words = _with_one_nan(words, type)
    if type == "F64":
        singles = to_singles(words, "F64")
        if not np.array_equal(singles.view("<f4").astype("<f8").view("<u8"), words):
            return words
        words, type = singles, "F32"
    if type == "F32" and not np.bitwise_or.reduce(words) & 0xFFFF:
        return reference.narrowed(words, "BF16")
    return words


def _with_one_nan(words: np.ndarray, type: str) -> np.ndarray:
    layout = FLOAT_LAYOUTS[type]
    infinity = ((1 << layout.exponent_bits) - 1) << layout.mantissa_bits
    magnitudes = words & words.dtype.type((1 << (layout.word_bits - 1)) - 1)
    if magnitudes.max() <= infinity:
        return words
    quiet = words.dtype.type(infinity | 1 << (layout.mantissa_bits - 1))
    return np.where(magnitudes > infinity, quiet, words)
