"""Raw GGUF bytes, every count, length and offset a free choice: what `gguf.GGUFWriter` will not write."""

from __future__ import annotations

import math
from collections.abc import Iterable
from struct import pack

HEADER_BYTES = 24
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def string(text: bytes, length: int | None = None) -> bytes:
    """Return a length and `text`; `length` overrides the true one."""
    return pack("<Q", len(text) if length is None else length) + text


def scalar(kind: int, value: float) -> bytes:
    return pack("<" + FORMATS[kind], value)


def array(kind: int, elements: list[bytes], count: int | None = None) -> bytes:
    return pack("<iQ", kind, len(elements) if count is None else count) + b"".join(elements)


def key_value(key: bytes, kind: int, value: bytes, length: int | None = None) -> bytes:
    """Return one key-value record; `value` is raw, `length` overrides the key's."""
    return string(key, length) + pack("<i", kind) + value


def alignment(value: int) -> bytes:
    return key_value(b"general.alignment", U32, scalar(U32, value))


def tensor(
    name: bytes,
    shape: tuple[int, ...] = (8,),
    type_id: int = 0,
    offset: int = 0,
    n_dims: int | None = None,
    length: int | None = None,
) -> bytes:
    """Return one tensor info; `n_dims` and the name's `length` override the true ones."""
    dims = pack(f"<I{len(shape)}Q", len(shape) if n_dims is None else n_dims, *shape)
    return string(name, length) + dims + pack("<iQ", type_id, offset)


def gguf(
    keys: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = b"",
    magic: bytes = b"GGUF",
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    padding: bytes | None = None,
    aligned: int = 32,
) -> bytes:
    """Return a whole file: header, padding to `aligned` (if there are tensors) and `data`."""
    keys, tensors = keys or [], tensors or []
    counts = pack("<QQ", len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
    header = magic + pack("<I", version) + counts + b"".join(keys) + b"".join(tensors)
    if padding is None:
        padding = bytes(-len(header) % aligned) if tensors else b""
    return header + padding + data


def named_tensors(names: Iterable[str], keys: Iterable[bytes] = ()) -> bytes:
    """Return a whole file of tensors of 8 F32 zeros."""
    infos = [tensor(name.encode(), offset=32 * i) for i, name in enumerate(names)]
    return gguf(list(keys), infos, bytes(32 * len(infos)))


def split_keys(number: int, count: int, total: int = 0) -> list[bytes]:
    """Return the metadata of one file of a shard set."""
    return [
        key_value(b"split.no", U16, scalar(U16, number)),
        key_value(b"split.count", U16, scalar(U16, count)),
        key_value(b"split.tensors.count", I32, scalar(I32, total)),
    ]


LARGEST = 2**64 - 1
NEWEST_TYPE = 42
KEY = key_value(b"k", U8, b"\1")
VALID = gguf(
    [
        key_value(b"general.architecture", STRING, string(b"llama")),
        key_value(b"u8", U8, scalar(U8, 200)),
        key_value(b"i8", I8, scalar(I8, -100)),
        key_value(b"u16", U16, scalar(U16, 60_000)),
        key_value(b"i16", I16, scalar(I16, -30_000)),
        key_value(b"u32", U32, scalar(U32, 4_000_000_000)),
        key_value(b"i32", I32, scalar(I32, -2_000_000_000)),
        key_value(b"f32", F32, scalar(F32, 1.5)),
        key_value(b"bool", BOOL, scalar(BOOL, True)),
        key_value(b"u64", U64, scalar(U64, LARGEST)),
        key_value(b"i64", I64, scalar(I64, -(2**63))),
        key_value(b"f64", F64, scalar(F64, math.pi)),
        key_value(b"words", ARRAY, array(STRING, [string(b""), string(b"token"), string(b"\xff")])),
        key_value(b"shorts", ARRAY, array(I16, [scalar(I16, -1), scalar(I16, 2)])),
        key_value(b"nothing", ARRAY, array(F64, [])),
    ],
    [tensor(b"scalar", ()), tensor(b"matrix", (32, 3), 8, 32), tensor(b"vector", (8,), 0, 160)],
    data=bytes(192),
)
"""A key of every type, and three tensors."""
