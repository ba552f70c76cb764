"""The manifest of a model: what `scan --fingerprint --json` prints, read back without trust."""

from __future__ import annotations

import json
import os
import re
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from truebits.comparing.fingerprint import Fingerprint
from truebits.errors import BadManifest, printable
from truebits.precision.hashing import ALGORITHM, TensorFingerprint, name_bytes

SCHEMA = "truebits.fingerprint/1"
LARGEST_FILE = 32 << 20
"""In bytes: a row takes about 200 of them, and 65,536 tensors are the most that a header may have."""

MOST_DIMENSIONS = 64
TOO_LARGE = 1 << 63
HASH = re.compile(r"[0-9a-f]{64}")


def read_manifest(path: str | os.PathLike[str]) -> Fingerprint:
    """Read a manifest and check that it agrees with itself.

    Parameters
    ----------
    path : path-like
        May be a pipe.

    Returns
    -------
    Fingerprint

    Raises
    ------
    BadManifest
        It is not JSON, is of another schema, a field is missing or not what it should be, a tensor stands twice,
        or its hashes are not those of its rows.
    OSError
    """
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        _fail(path, f"larger than {LARGEST_FILE} bytes: not a manifest")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        _fail(path, f"not JSON: {error}")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        _fail(path, f"not a manifest ({SCHEMA}); `truebits scan MODEL --fingerprint --json` prints one")
    rows, file_name = document.get("tensors"), document.get("file")
    if not isinstance(rows, list) or not isinstance(file_name, str) or document.get("algorithm") != ALGORITHM:
        _fail(path, f"it needs a file's name, a list of tensors, and the algorithm {ALGORITHM}")
    tensors = tuple(_row(path, number, row) for number, row in enumerate(rows))
    _check_unique(path, tensors)
    found = Fingerprint(file_name, tensors)
    for key, computed in (("fingerprint", found.value), ("whole", found.whole)):
        if key not in document or document[key] != computed:
            _fail(path, f"its {key} is not that of its tensors: it was changed after it was made")
    return found


def _row(path: Path, number: int, row: Any) -> TensorFingerprint:
    """Check one tensor of a manifest."""
    if not isinstance(row, dict):
        _fail(path, f"tensor {number} is not an object")
    fields: list[Any] = [row.get(field) for field in TensorFingerprint._fields]
    name, type, shape, values, kind, hash = fields
    is_text = all(isinstance(text, str) for text in (name, type, kind, hash))
    if not is_text or not _is_shape(shape) or not _is_count(values):
        _fail(
            path, f"tensor {number} needs name, type, shape, values, kind and hash: one is missing or is no such thing"
        )
    try:
        name = name_bytes(name).decode("utf-8", "surrogateescape")
        type.encode()
    except UnicodeEncodeError:
        _fail(path, f"tensor {number} has a name or type that no file can hold")
    if kind not in ("values", "bytes") or not HASH.fullmatch(hash):
        _fail(path, f"tensor {number} ({printable(name)}): kind is values or bytes, and hash 64 hex digits")
    if prod(shape) != values:
        _fail(path, f"tensor {number} ({printable(name)}): a shape of {prod(shape)} values, but values is {values}")
    return TensorFingerprint(name, type, tuple(shape), values, kind, hash)


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < TOO_LARGE


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS and all(map(_is_count, shape))


def _check_unique(path: Path, tensors: tuple[TensorFingerprint, ...]) -> None:
    names = set()
    for number, tensor in enumerate(tensors):
        if tensor.name in names:
            _fail(path, f"tensor {number} ({printable(tensor.name)}) stands twice")
        names.add(tensor.name)


def _fail(path: Path, message: str) -> NoReturn:
    raise BadManifest(path, 0, message)
