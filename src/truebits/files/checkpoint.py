"""A checkpoint as Hugging Face keeps it: a folder of safetensors files, their index, and ``config.json``."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from truebits import errors
from truebits.errors import printable, shortened
from truebits.files.json_tokens import JsonText
from truebits.files.mapping import MappedFile
from truebits.files.sniff import PICKLE_SUFFIXES, pickle_refused
from truebits.files.tensor import Oddity, Tensor, named

INDEX_SUFFIX = ".safetensors.index.json"
SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")

LONGEST_INDEX = 100_000_000
CONFIGS = ("config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Files beside the weights that tell what these are: Transformers', AutoGPTQ's, AutoAWQ's, ModelOpt's."""

LONGEST_CONFIG = 16 << 20


class Index(NamedTuple):
    """Which file of a checkpoint holds which tensor.

    Attributes
    ----------
    path : Path
    places : dict of str to (str, int)
        File name, and the byte offset in the index that says so, by tensor name.
    """

    path: Path
    places: dict[str, tuple[str, int]]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in the order of their names.

        Raises
        ------
        BadShardSet
            One is missing.
        """
        first: dict[str, int] = {}
        for name, at in self.places.values():
            first.setdefault(name, at)
        for name, at in first.items():
            if not self.path.with_name(name).exists():
                message = f"{shortened(name)} is missing: expected beside the index"
                raise errors.BadShardSet(self.path, at, message)
        return tuple(self.path.with_name(name) for name in sorted(first))

    def check(self, files: Iterable[tuple[Path, tuple[Tensor, ...]]]) -> dict[str, Oddity]:
        """Compare the index with its files; return what is odd, a tensor that it leaves out, by file.

        Raises
        ------
        BadIndex
            A tensor does not stand in the file that the index says.
        """
        found = {tensor.name: (path.name, tensor) for path, tensors in files for tensor in tensors}
        for name, (file, at) in self.places.items():
            if name not in found or found[name][0] != file:
                where = f"it is in {shortened(found[name][0])}" if name in found else "which has no such tensor"
                message = f"tensor {shortened(name)} should be in {shortened(file)}; {where}"
                raise errors.BadIndex(self.path, at, message)
        unnamed: dict[str, list[Tensor]] = {}
        for name, (file, tensor) in found.items():
            if name not in self.places:
                unnamed.setdefault(file, []).append(tensor)
        return {
            file: Oddity(errors.BadIndex, tensors[0].offset, f"{self.path.name} does not name {named(tensors)}", False)
            for file, tensors in unnamed.items()
        }


def find_files(folder: Path) -> Path | tuple[Path, ...]:
    """Find what to open in a folder: its index, or its files where it has none.

    Raises
    ------
    BadShardSet
        Several checkpoints, or one that is not complete.
    PickleRefused
        There are pickle checkpoints only.
    IsADirectoryError
        There is no checkpoint at all.
    """
    names = sorted(entry.name for entry in folder.iterdir())
    for indexes in (["model" + INDEX_SUFFIX], [name for name in names if name.endswith(INDEX_SUFFIX)]):
        if len(indexes) == 1 and indexes[0] in names:
            return folder / indexes[0]
    if "model.safetensors" in names:
        return (folder / "model.safetensors",)
    found = [name for name in names if name.endswith(".safetensors")]
    if len(found) == 1 and not SHARD_NAME.fullmatch(found[0]):
        return (folder / found[0],)
    if found:
        return _shards(folder, found)
    if "model_index.json" in names:
        parts = [entry.name for entry in sorted(folder.iterdir()) if any(entry.glob("*.safetensors"))]
        message = (
            f"is a diffusers pipeline: open one of its models, {', '.join(map(shortened, parts[:6])) or 'none here'}"
        )
        raise IsADirectoryError(errno.EISDIR, message, str(folder))
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    if pickles:
        raise pickle_refused(folder / pickles[0])
    ggufs = [name for name in names if name.endswith(".gguf")]
    hint = f": give the file itself, {printable(ggufs[0])}" if ggufs else ", and has no safetensors file"
    raise IsADirectoryError(errno.EISDIR, f"is a folder, not a model file{hint}", str(folder))


def _shards(folder: Path, names: list[str]) -> tuple[Path, ...]:
    """Check that files without an index are all the shards of one checkpoint."""
    match = SHARD_NAME.fullmatch(names[0])
    numbers = range(1, int(match["count"]) + 1) if match else ()
    expected = [f"{match['stem']}-{number:05d}-of-{match['count']}.safetensors" for number in numbers if match]
    present = set(names)
    if present - set(expected):
        some = ", ".join(shortened(name) for name in names[:4])
        message = f"the folder has {len(names)} safetensors files and no index: open one of them ({some})"
        raise errors.BadShardSet(folder, 0, message)
    missing = [name for name in expected if name not in present]
    if missing:
        message = f"{len(missing)} of {len(expected)} shards are missing, the first is {printable(missing[0])}"
        raise errors.BadShardSet(folder, 0, message)
    return tuple(folder / name for name in expected)


def read_index(path: Path) -> Index:
    """Read an index of safetensors files.

    Raises
    ------
    ModelFileError
        It is damaged, or names files anywhere but in its own folder.
    """
    with MappedFile(path) as file:
        if file.identity.size > LONGEST_INDEX:
            message = f"an index of {file.identity.size} bytes, the limit is {LONGEST_INDEX}"
            raise errors.LimitExceeded(path, 0, message)
        text = JsonText(file.data, path, 0, file.identity.size)
        places: dict[str, tuple[str, int]] = {}
        for _, key in text.members():
            if key == "weight_map":
                places = _places(text)
            else:
                text.skip()
        text.end()
    if not places:
        raise errors.BadIndex(
            path, 0, "no weight_map that names tensors: not an index; of a checkpoint give the folder"
        )
    return Index(path, places)


def _places(text: JsonText) -> dict[str, tuple[str, int]]:
    places = {}
    for at, name in text.members(errors.BadIndex, twice=errors.DuplicateTensor):
        file = text.string(errors.BadIndex)
        if file in ("", ".", "..") or any(c in file for c in "/\\\0"):
            message = f"{shortened(file)!r} is not a plain file name: an index never leads out of its folder"
            text.fail(errors.BadIndex, at, message)
        places[name] = file, at
    return places


def read_config(path: Path) -> Mapping[str, Any]:
    """Read one of `CONFIGS`; NaN and Infinity are let through, as such files have them.

    Raises
    ------
    BadConfig
        Not a JSON object.
    LimitExceeded
        Longer than 16 MiB.
    """
    with MappedFile(path) as file:
        if file.identity.size > LONGEST_CONFIG:
            message = f"{file.identity.size} bytes, the limit is {LONGEST_CONFIG}"
            raise errors.LimitExceeded(path, 0, message)
        contents = bytes(file.data)
    try:
        config = json.loads(contents.decode())
    except (ValueError, RecursionError) as error:
        raise errors.BadConfig(
            path, getattr(error, "pos", 0), f"not JSON that can be read: {_reason(error)}"
        ) from error
    if not isinstance(config, dict):
        raise errors.BadConfig(path, 0, f"expected a JSON object, found {type(config).__name__}")
    return config


def _reason(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else printable(str(error))
