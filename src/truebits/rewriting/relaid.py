"""A new file of a model whose tensors are of other types, and so of other sizes: GGUF or safetensors.

Metadata is carried over byte for byte, but for what says how the tensors are stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from struct import pack
from typing import NamedTuple

import numpy as np

from truebits.errors import ModelFileError, Refused, VerificationFailed
from truebits.files.gguf import value_bytes
from truebits.files.header import UINT32, Header, aligned
from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.files.part import Part
from truebits.files.tensor import Tensor
from truebits.files.types import BY_NAME
from truebits.rewriting.durable import start_writeback, write_all
from truebits.rewriting.outputs import NewFile

READ_BYTES = 4 << 20

FILE_TYPE = "general.file_type"
"""llama.cpp's name for what most of a GGUF's tensors are stored as."""


class Relaid(NamedTuple):
    """A tensor of the new file.

    Attributes
    ----------
    name : str
    type : str
    shape : tuple of int
        In the file's order.
    nbytes : int
    pieces : callable
        Gives its bytes, in order.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int
    pieces: Callable[[], Iterator[np.ndarray]]


def copied(file: MappedFile, tensor: Tensor) -> Relaid:
    """Return a tensor as it stands in its file."""

    def pieces() -> Iterator[np.ndarray]:
        for at in range(0, tensor.nbytes, READ_BYTES):
            size = min(READ_BYTES, tensor.nbytes - at)
            file.check()
            yield np.frombuffer(file.data, np.uint8, size, tensor.offset + at)
            file.forget(tensor.offset + at, tensor.offset + at + size)

    return Relaid(tensor.name, tensor.type, tensor.shape, tensor.nbytes, pieces)


def check_layouts(model: Model) -> None:
    """Refuse files with bytes that belong to no tensor: the new ones are laid out anew, and would not have them."""
    for part in model.parts:
        try:
            part.check_layout()
        except ModelFileError as error:
            raise Refused(f"{error}; it would be lost") from error


def gguf_head(part: Part, tensors: Iterable[Relaid], file_type: int | None) -> tuple[bytes, list[int]]:
    """Return a GGUF header, and where each tensor begins in the file; last, where the file ends.

    Parameters
    ----------
    part : Part
        Whose version, alignment and metadata the new file has.
    tensors : iterable of Relaid
    file_type : int or None
        ``general.file_type``, if the metadata have it.
    """
    header, tensors = part.header, list(tensors)
    assert isinstance(header, Header)
    with part.map() as file:
        values = {key: (kind, value_bytes(file.data, header, key)) for key, (kind, _) in header.keys.items()}
    if file_type is not None and FILE_TYPE in values:
        values[FILE_TYPE] = UINT32, pack("<I", file_type)
    head = b"GGUF" + pack("<IQQ", header.version, len(tensors), len(values))
    head += b"".join(_text(key) + pack("<I", kind) + value for key, (kind, value) in values.items())
    relative = [0]
    for one in tensors:
        relative.append(aligned(relative[-1] + one.nbytes, header.alignment))
    for one, offset in zip(tensors, relative[:-1], strict=True):
        shape = pack(f"<I{len(one.shape)}Q", len(one.shape), *one.shape)
        head += _text(one.name) + shape + pack("<IQ", BY_NAME[one.type].number, offset)
    start = aligned(len(head), header.alignment)
    return head.ljust(start, b"\0"), [start + offset for offset in relative]


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return pack("<Q", len(raw)) + raw


def in_layout(tensors: Iterable[Relaid]) -> list[Relaid]:
    """Return tensors in the order of a safetensors file's data: the widest words first, so that all are aligned."""
    return sorted(tensors, key=lambda one: -BY_NAME[one.type].bits)


def safetensors_head(metadata: dict[str, str], tensors: Iterable[Relaid]) -> tuple[bytes, list[int]]:
    """Return a safetensors header, and where each tensor begins in the file; last, where the file ends."""
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    relative = [0]
    for one in tensors:
        relative.append(relative[-1] + one.nbytes)
        entries[one.name] = {"dtype": one.type, "shape": one.shape, "data_offsets": relative[-2:]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    head = pack("<Q", len(text)) + text
    return head, [len(head) + offset for offset in relative]


def write(
    out: NewFile, head: bytes, tensors: Iterable[Relaid], offsets: Sequence[int], moved: Callable[[int], None]
) -> None:
    """Write a new file, and read it back.

    Raises
    ------
    VerificationFailed
        What is read back is not what was written.
    OSError
    """
    written, at = sha256(), 0

    def put(data: bytes | np.ndarray) -> None:
        nonlocal at
        view = np.frombuffer(data, np.uint8).data
        write_all(out.descriptor, view, at)
        start_writeback(out.descriptor, at, len(view))
        written.update(view)
        at += len(view)
        moved(len(view))

    put(head)
    for one, offset in zip(tensors, offsets[:-1], strict=True):
        put(bytes(offset - at))
        for piece in one.pieces():
            put(piece)
        if at != offset + one.nbytes:
            raise VerificationFailed(f"{out.path}: a tensor has {at - offset} bytes, expected {one.nbytes}")
    put(bytes(offsets[-1] - at))
    read = sha256()
    with MappedFile(out.opened) as file:
        for start in range(0, file.identity.size, READ_BYTES):
            read.update(file.data[start : start + READ_BYTES])
            file.forget(start, start + READ_BYTES)
    if read.digest() != written.digest():
        raise VerificationFailed(f"{out.path}: what is read back is not what was written")
