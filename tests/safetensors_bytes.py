"""Raw safetensors bytes: what the format's own package will not write."""

from __future__ import annotations

import json
from struct import pack

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def file_of(header: bytes, data: bytes = b"") -> bytes:
    return pack("<Q", len(header)) + header + data


def safetensors(tensors: Tensors, metadata: dict[str, str] | None = None, padding: int = 8) -> bytes:
    """Return a whole file: a header padded to a multiple of `padding` bytes, and the tensors' bytes in order."""
    entries: dict = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    header = json.dumps(entries).encode()
    return file_of(header + b" " * (-len(header) % padding), data)


def part_of(*names: str) -> bytes:
    """Return a whole file of F32 scalars, each in a list of one."""
    return safetensors({name: ("F32", (1,), bytes(4)) for name in names})
