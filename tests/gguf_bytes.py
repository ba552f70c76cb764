"""Raw GGUF bytes, every count, length and offset a free choice: what `gguf.GGUFWriter` will not write."""

from __future__ import annotations

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
