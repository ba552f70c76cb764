"""Bytes of a model, copied or changed piece by piece, and compared with what they must be.

A rewrite is a list of `Piece` and a function that changes a piece's words in a buffer of ours. It never
stores through a mapping: on a full disk that would be a signal, where a write is an error.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import NamedTuple

import numpy as np

from truebits.errors import ModelFileError, Refused, VerificationFailed
from truebits.files.mapping import MappedFile
from truebits.files.part import Part
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.rewriting import durable
from truebits.rewriting.durable import start_writeback, write_all
from truebits.rewriting.outputs import NewFile
from truebits_native.pool import beside, in_order

BLOCK_BYTES = 4 << 20
"""Written at a time, from one multiple of it in the file to the next: the page cache then keeps
huge pages, and the next scan is twice as fast."""

CHECK_BYTES = 32 << 20
"""Compared at a time."""

DIGEST_BYTES = 4 << 20
"""Of a block of `digest`: part of what undo files hold."""


class Piece(NamedTuple):
    """Part of a tensor, small enough for a buffer."""

    tensor: Tensor
    start: int
    stop: int

    @property
    def first(self) -> int:
        """Index of its first value in the tensor."""
        return (self.start - self.tensor.offset) // FLOAT_BYTES[self.tensor.type]


Change = Callable[[Piece, np.ndarray], int]
"""Changes the words of a piece in place and returns how many changed."""

Check = Callable[[Piece, np.ndarray, np.ndarray], bool]
"""Tells whether the second words are what `Change` makes of the first."""

Blocks = Callable[[Tensor], int]
"""Tells how many values of a tensor have to stay together."""


def single_values(tensor: Tensor) -> int:
    """Let a tensor be cut between any two values."""
    return 1


def pieces(tensors: Iterable[Tensor], blocks: Blocks = single_values, size: int | None = None) -> Iterator[Piece]:
    """Cut tensors of one file, in file order, at multiples of `size` or at the end of the block across one.

    Parameters
    ----------
    tensors : iterable of Tensor
    blocks : callable
    size : int, optional
        `BLOCK_BYTES` if not given.
    """
    size = size or BLOCK_BYTES
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        block = blocks(tensor) * FLOAT_BYTES[tensor.type]
        start, end = tensor.offset, tensor.offset + tensor.nbytes
        while start < end:
            stop = start + size - start % size
            stop = min(end, stop + -(stop - start) % block)
            yield Piece(tensor, start, stop)
            start = stop


def read_pieces(part: Part, tensors: Iterable[Tensor], blocks: Blocks) -> Iterator[tuple[Piece, np.ndarray]]:
    """Give each piece with its words, to be looked at until the next."""
    with part.map() as file:
        for piece in pieces(tensors, blocks):
            file.check()
            yield piece, words_of(piece.tensor, _view(file, piece.start, piece.stop))
            file.forget(piece.start, piece.stop)


def words_of(tensor: Tensor, data: bytes | bytearray | np.ndarray) -> np.ndarray:
    """View bytes of a tensor as little-endian words; writable if `data` is."""
    return np.frombuffer(data, f"<u{FLOAT_BYTES[tensor.type]}")


def _view(file: MappedFile, start: int, stop: int) -> np.ndarray:
    """View a byte range of a mapped file, read-only: uint8."""
    return np.frombuffer(file.data, np.uint8, stop - start, start)


def check_layout(part: Part, allow: Collection[str]) -> None:
    """Refuse to write a file whose layout does not add up, or has what truebits does not know.

    It can be read, so it is no broken file: `layout` allows it, and the bytes in question are written as they are.
    """
    if "layout" in allow:
        return
    try:
        part.check_layout()
    except ModelFileError as error:
        raise Refused(f"{error}; --allow layout writes all the same") from error


def write_copy(
    part: Part,
    out: int,
    tensors: list[Tensor],
    change: Change,
    progress: Callable[[int], None],
    blocks: Blocks = single_values,
) -> int:
    """Copy one file of a model, changing the words of some tensors; return how many changed.

    Words are changed in one buffer while a thread writes the buffer before it.

    Parameters
    ----------
    part : Part
        The input.
    out : int
        Descriptor of the empty output.
    tensors : list of Tensor
        Those to change.
    change : callable
    progress : callable
        Called with the number of bytes each step has dealt with.
    blocks : callable
    """
    changed = 0
    longest = max((blocks(tensor) * FLOAT_BYTES[tensor.type] for tensor in tensors), default=0)
    buffers = [np.empty(BLOCK_BYTES + longest, np.uint8) for _ in range(2)]
    finish: Callable[[], None] | None = None
    interrupted = Event()
    with part.map() as source, beside() as begin, set_on_error(interrupted):
        cloned = durable.reserve(source.descriptor, out, source.identity.size)
        at = 0

        def write(copied: int, start: int, data: memoryview, changed_here: int) -> None:
            if not cloned:
                _copy_range(source, out, copied, start, interrupted)
            if changed_here or not cloned:
                write_all(out, data, start)
                start_writeback(out, start, len(data))

        for number, piece in enumerate(pieces(tensors, blocks)):
            buffer = buffers[number % 2][: piece.stop - piece.start]
            buffer[:] = _view(source, piece.start, piece.stop)
            changed_here = change(piece, words_of(piece.tensor, buffer))
            if finish is not None:
                finish()
            finish = begin(partial(write, at, piece.start, buffer.data, changed_here))
            source.forget(piece.start, piece.stop)
            progress(piece.stop - at)
            changed += changed_here
            at = piece.stop
        if finish is not None:
            finish()
        if not cloned:
            _copy_range(source, out, at, source.identity.size, interrupted)
        progress(source.identity.size - at)
        source.check()
    return changed


@contextmanager
def set_on_error(event: Event) -> Iterator[None]:
    """Set the event where the block is left by an exception, Ctrl-C among them."""
    try:
        yield
    except BaseException:
        event.set()
        raise


def _copy_range(source: MappedFile, out: int, start: int, stop: int, interrupted: Event) -> None:
    """Copy bytes unchanged, inside the kernel as far as it can."""
    start = durable.copy_inside(source.descriptor, out, start, stop, interrupted)
    for low, high in _blocks([(start, stop)], BLOCK_BYTES):
        if interrupted.is_set():
            return
        write_all(out, source.data[low:high], low)


def flush_and_verify(descriptors: list[int], verify: Callable[[], None]) -> None:
    """Bring the files to disk while `verify` reads them. A failed fsync is final."""
    with beside() as begin:
        flushed = begin(partial(_sync, descriptors))
        verify()
        flushed()


def _sync(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        durable.sync(descriptor)


def others(tensors: Iterable[Tensor], size: int) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of a file that belong to none of the tensors."""
    at = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset > at:
            yield at, tensor.offset
        at = max(at, tensor.offset + tensor.nbytes)
    if at < size:
        yield at, size


def check_copy(
    part: Part, out: NewFile, tensors: list[Tensor], is_changed: Check, blocks: Blocks = single_values
) -> None:
    """Compare a written copy with what it must be: the tensors changed, every other byte as in the input.

    Raises
    ------
    VerificationFailed
        Names the first block that differs.
    """
    with part.map() as source, MappedFile(out.opened) as copy:
        size = source.identity.size
        if copy.identity.size != size:
            raise VerificationFailed(f"{out.path} has {copy.identity.size} bytes, expected {size}")
        for start, stop in _blocks(others(tensors, size), BLOCK_BYTES):
            if not np.array_equal(_view(source, start, stop), _view(copy, start, stop)):
                raise VerificationFailed(f"{out.path}: bytes {start} to {stop} are not the input's")
            source.forget(start, stop)
            copy.forget(start, stop)
        for piece in pieces(tensors, blocks, CHECK_BYTES):
            tensor, start, stop = piece
            old, new = (words_of(tensor, _view(file, start, stop)) for file in (source, copy))
            if not is_changed(piece, old, new):
                raise VerificationFailed(f"{out.path}: bytes {start} to {stop}, of {tensor.label}, are not as planned")
            source.forget(start, stop)
            copy.forget(start, stop)


def digest(descriptor: int, ranges: Iterable[tuple[int, int]]) -> str:
    """Return a SHA-256 of byte ranges of a file: of the SHA-256 of each of their blocks, which threads work out.

    Parameters
    ----------
    descriptor : int
    ranges : iterable of (int, int)
        Start and stop.

    Returns
    -------
    str
        In hex.
    """
    whole = hashlib.sha256()
    for part in in_order(lambda block: _block_digest(descriptor, *block), _blocks(ranges, DIGEST_BYTES)):
        whole.update(part)
    return whole.hexdigest()


def _block_digest(descriptor: int, start: int, stop: int) -> bytes:
    return hashlib.sha256(os.pread(descriptor, stop - start, start)).digest()


def _blocks(ranges: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    for start, stop in ranges:
        for at in range(start, stop, size):
            yield at, min(at + size, stop)
