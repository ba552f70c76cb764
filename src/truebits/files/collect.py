"""What was named on a command line -> models: files, folders of models, patterns, and lists of all these."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from truebits.errors import UsageError, printable
from truebits.files.checkpoint import INDEX_SUFFIX
from truebits.files.checkpoint import SHARD_NAME as OF_A_CHECKPOINT
from truebits.files.locate import URL
from truebits.files.shards import SHARD_NAME

CACHED = "models--"
"""What the name of a model's folder in the Hugging Face cache starts with."""

LONGEST_LIST = 256 << 20
"""Bytes of a file that lists models."""


def collect(places: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the models that files, folders and patterns stand for, in the order given and each once.

    A folder of GGUF files stands for each of them (a shard set is one), and so do the folders in it; a checkpoint
    (``config.json``, an index, the shards of one, or a single safetensors file) is one model, what lies in folders of
    it is not; other safetensors files are a model each. A pattern (``*.gguf``) that the shell left alone stands for
    what it matches. ``@FILE`` stands for the names in a file, one a line. Anything else stands for itself.

    Raises
    ------
    UsageError
        A pattern matches nothing, or a list cannot be read.
    """
    found: dict[Path, None] = {}
    for place in listed(places):
        path, text = Path(place), os.fspath(place)
        matching = [path]
        if any(sign in text for sign in "*?[") and not URL.match(text) and not path.exists():
            matching = sorted(Path(path.anchor).glob(os.fspath(path.relative_to(path.anchor))))
            if not matching:
                raise UsageError(f"{printable(text)} matches no file")
        for match in matching:
            found |= dict.fromkeys(_models_in(match) or [match])
    return list(found)


def listed(places: Iterable[str | os.PathLike[str]]) -> Iterator[str | os.PathLike[str]]:
    """Yield names, and for each ``@FILE`` those in it: lines that are empty or begin with # are left out.

    Raises
    ------
    UsageError
        There is no such file, or it is no list.
    """
    for place in places:
        text = os.fspath(place)
        if not text.startswith("@") or Path(text).exists():
            yield place
            continue
        yield from _lines(Path(text[1:]))


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > LONGEST_LIST:
            raise UsageError(f"{printable(str(path))} is too long for a list of models")
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{printable(str(path))}: no list of models can be read: {told}") from None
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def _models_in(path: Path) -> list[Path]:
    """Return the models of a folder and of those in it, in order of their names; a file is itself."""
    if not path.is_dir() or path.name.startswith(CACHED):
        return [path]
    try:
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError:  # who opens it says why
        return [path]
    files = [entry for entry in entries if entry.is_file()]
    ggufs = [file for file in files if file.suffix == ".gguf" and _stands_for_all(file)]
    safetensors = [file for file in files if file.suffix == ".safetensors"]
    has_config = any(file.name == "config.json" or file.name.endswith(INDEX_SUFFIX) for file in files)
    if has_config and (safetensors or not ggufs):
        return [path, *ggufs]
    is_one = len(safetensors) == 1 or any(OF_A_CHECKPOINT.fullmatch(file.name) for file in safetensors)
    folders = [entry for entry in entries if entry.is_dir() and not _leads_back(entry)]
    deeper = [model for folder in folders for model in _models_in(folder)]
    return [*([path] if is_one else safetensors), *ggufs, *deeper]


def _leads_back(path: Path) -> bool:
    """Tell whether a folder is a link to one that it is in."""
    return path.is_symlink() and path.resolve() in path.parent.resolve().joinpath(path.name).parents


def _stands_for_all(path: Path) -> bool:
    """Tell whether a file is no shard, or the first of its set."""
    match = SHARD_NAME.fullmatch(path.name)
    return match is None or int(match["number"]) == 1
