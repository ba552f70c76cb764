"""Parts of a survey's tables, as if models had been read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truebits.surveying.folder import Folder
from truebits.surveying.tables import part_of

ASKED = {"select": [], "exclude": [], "blocks": None}
NUMBERS = ("files", "size", "tensors", "values", "bytes", "tensors_read", "values_read", "bytes_read", "bytes_saved")


def model(source: str, **more: Any) -> dict[str, Any]:
    """Return a model's row: F32 that came from BF16, all of it read."""
    row = {
        "source": source,
        "state": "1:1",
        "publisher": "p",
        "name": source,
        "architecture": "llama",
        "format": "gguf",
    }
    row |= dict.fromkeys(NUMBERS, 10) | {"bits_per_weight": 32.0, "label": None, "contradiction": None}
    row |= {
        "stored": "F32",
        "came_from": "bf16",
        "came_from_values": 10,
        "is_upcast": True,
        "origins": [],
        "findings": [],
    }
    return row | {"is_complete": True, "exit_code": 0, "error": None} | more


def tensor(source: str, name: str = "a", **more: Any) -> dict[str, Any]:
    row = {"source": source, "tensor": name, "group": name, "type": "F32", "shape": [10], "values": 10, "bytes": 40}
    return row | {"read": "all", "came_from": "bf16"} | more


def failed(source: str, code: int = 3, error: str = "E_EMPTY") -> dict[str, Any]:
    return {"source": source, "state": "", "publisher": None, "exit_code": code, "error": error}


def keep(path: Path, *rows: dict[str, Any]) -> Path:
    """Write the tables of models, each with a tensor if it was read."""
    with Folder(path, ASKED).opened() as folder:
        for row in rows:
            tensors = [] if row["exit_code"] else [tensor(row["source"])]
            folder.add(row["source"], part_of(row, tensors))
    return path
