"""Files of a new folder that say how its tensors are stored, after these were written otherwise: index, config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from truebits.files.checkpoint import INDEX_SUFFIX
from truebits.rewriting import durable


def mend_index(files: Sequence[Path], nbytes: int, places: Mapping[str, str]) -> None:
    """Let the index of a folder, if it has one, name new tensors, and say how many bytes all have now.

    Parameters
    ----------
    files : sequence of Path
        All safetensors files of the folder's model.
    nbytes : int
        Of all tensors.
    places : mapping of str to str
        The file that holds each new tensor.
    """
    folder, names = files[0].parent, {path.name for path in files}
    for path in folder.glob(f"*{INDEX_SUFFIX}"):
        try:
            index = json.loads(path.read_text())
            is_ours = set(index["weight_map"].values()) == names
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        metadata = index.get("metadata")
        has_size = isinstance(metadata, dict) and "total_size" in metadata
        if is_ours and (has_size or places):
            size = {"metadata": {**metadata, "total_size": nbytes}} if has_size else {}
            _write(path, {**index, **size, "weight_map": {**index["weight_map"], **places}})


def mend_config(folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Let ``config.json``, which said what `config` holds, say how the weights are quantized."""
    _write(folder / "config.json", {**config, "quantization_config": settings})


def _write(path: Path, said: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(said, indent=2) + "\n")
    with path.open("rb+") as file:
        durable.sync(file.fileno())
