"""Is it a GGUF at all? If not, what it looks like."""

from __future__ import annotations

import re
from pathlib import Path

from truebits import errors

LOOKALIKES = (
    (rb"version https://git-lfs", "a Git-LFS pointer: run `git lfs pull` to get the file itself"),
    (rb"\s*<(!doctype|html|\?xml|head|body|Error)", "an HTML or XML page: the download saved an error page"),
    (rb"(?s)....\0\0\0\0\{", "a safetensors file"),
    (rb"\s*[\[{]", "JSON text: the download saved an error answer"),
    (rb"\x1f\x8b", "a gzip archive: unpack it first"),
    (rb"PK\x03\x04", "a zip archive (a llamafile, or a PyTorch .pt checkpoint)"),
    (rb"\x7fELF|MZ", "an executable (a llamafile?)"),
    (rb"\x80[\x02-\x05]", "a Python pickle"),
    (rb"lmgg|fmgg|tjgg|algg|ggml|ggmf|ggjt|ggla", "an old GGML file: convert it with llama.cpp's tools"),
    (rb"\xef\xbb\xbf", "text with a UTF-8 byte-order mark"),
    (rb"\x00+\Z", "all zeros: an unfinished download"),
)


def check_magic(head: bytes, path: Path) -> None:
    """Refuse what does not start with ``GGUF``, saying what it looks like.

    Parameters
    ----------
    head : bytes
        The file's first 64 bytes, or all of them.
    path : Path
    """
    if not head:
        raise errors.EmptyFile(path, 0, "the file is empty: 0 bytes, a GGUF has at least 24")
    if head[:4] == b"GGUF":
        return
    if head[:4] == b"FUGG":
        raise errors.BigEndian(path, 0, "starts with FUGG: a big-endian file")
    for pattern, looks_like in LOOKALIKES:
        if re.match(pattern, head, re.IGNORECASE):
            raise errors.NotGGUF(path, 0, f"not a GGUF file; it looks like {looks_like}")
    raise errors.NotGGUF(path, 0, f"not a GGUF file: it starts with {head[:4].hex(' ')}, not 47 47 55 46 (GGUF)")
