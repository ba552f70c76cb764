"""A model: one file, GGUF or safetensors, or all the files of a shard set or of a Hugging Face folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from truebits import errors
from truebits.errors import printable
from truebits.files.gguf import Limits
from truebits.files.locate import locate, shown
from truebits.files.mapping import REMOTE, Files, map_file
from truebits.files.part import Part, read_part
from truebits.files.shards import check_unique, open_shards, shard_names
from truebits.files.sniff import HEAD_BYTES, format_of
from truebits.files.tensor import Tensor


class Named(Protocol):
    """What a selection is made of."""

    @property
    def name(self) -> str: ...


LONGEST_ARCHITECTURE = 100

Regexes = Iterable[str] | str | None
"""A selection of names: any of these is found in it."""

N = TypeVar("N", bound=Named)


@dataclass(frozen=True)
class Model:
    """The headers of a model; no tensor data has been read.

    Attributes
    ----------
    path : Path
        As it was opened.
    parts : tuple of Part
        One per file.
    tensors : tuple of Tensor
        Of all parts, in the order of their headers.
    """

    path: Path
    parts: tuple[Part, ...]
    tensors: tuple[Tensor, ...] = field(repr=False)

    @property
    def format(self) -> str:
        """``gguf`` or ``safetensors``."""
        return self.parts[0].header.format

    @property
    def config(self) -> Mapping[str, Any]:
        """What ``config.json`` beside safetensors files says; empty if there is none, or for a GGUF.

        Raises
        ------
        BadConfig, LimitExceeded, OSError
        """
        return self.said_in("config.json")

    def said_in(self, name: str) -> Mapping[str, Any]:
        """Read one of `checkpoint.CONFIGS`; empty if there is none, or for a GGUF.

        Raises
        ------
        BadConfig, LimitExceeded, OSError
        """
        path = self.parts[0].path.with_name(name)
        if self.format != "safetensors" or not path.exists():
            return {}
        from truebits.files import checkpoint

        return checkpoint.read_config(path)

    @contextmanager
    def map(self, parts: Iterable[int] | None = None) -> Iterator[Files]:
        """Map files, by the number of the part; all of them, if it is not said which."""
        numbers = range(len(self.parts)) if parts is None else parts
        with ExitStack() as stack:
            yield {number: stack.enter_context(self.parts[number].map()) for number in numbers}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(part.identity.size for part in self.parts)

    @property
    def types(self) -> dict[str, int]:
        """Number of tensors by storage type, most frequent first."""
        return dict(Counter(tensor.type for tensor in self.tensors).most_common())

    def value(self, key: str) -> int | float | bool | str | None:
        """Decode one metadata value (``general.architecture``); None if absent or an array."""
        return self.parts[0].value(key)

    @property
    def values(self) -> int:
        """Number of weights, in all tensors."""
        return sum(tensor.values for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float | None:
        """Of the tensors' bytes; None where there is no weight."""
        return 8 * sum(tensor.nbytes for tensor in self.tensors) / self.values if self.values else None

    @property
    def is_remote(self) -> bool:
        """Its files are behind a URL: what is read of it is fetched first."""
        return any(part.path in REMOTE for part in self.parts)

    def expect(self, tensors: Iterable[Tensor]) -> None:
        """Say which tensors will be read: of a remote model all of them are fetched, several at once."""
        ranges: dict[int, list[tuple[int, int]]] = {}
        for tensor in tensors if self.is_remote else ():
            ranges.setdefault(tensor.part, []).append((tensor.offset, tensor.offset + tensor.nbytes))
        for part, of_part in ranges.items():
            with self.parts[part].map() as file:
                file.expect_all(of_part)

    def row(self, tensor: Tensor) -> int:
        """Return the length of a tensor's fastest dimension; 1 for a scalar."""
        return (tensor.shape[0] if self.format == "gguf" else tensor.shape[-1]) if tensor.shape else 1

    def rows(self, tensor: Tensor) -> tuple[int, int]:
        """Return how many rows a tensor's matrix has (each of its matrices, if it has several), and their length."""
        shape = tensor.shape if self.format == "gguf" else tensor.shape[::-1]
        return (shape[1] if len(shape) > 1 else 1), (shape[0] if shape else 1)

    @property
    def architecture(self) -> str | None:
        """What the file says it is, as ``llama``; None if it says nothing, or too much to be a name."""
        name = self.value("general.architecture")
        return name if isinstance(name, str) and len(name) <= LONGEST_ARCHITECTURE else None

    def about(self) -> dict[str, Any]:
        """Return what JSON documents say of a model."""
        return {
            "file": str(self.path),
            "format": self.format,
            "size": self.size,
            "parts": len(self.parts),
            "types": self.types,
        }

    def select(self, select: Regexes, exclude: Regexes) -> tuple[Tensor, ...]:
        """Pick tensors by name.

        Parameters
        ----------
        select, exclude : regex or regexes, optional
            Searched for anywhere in the name; `exclude` wins.

        Raises
        ------
        SelectionError
            A regex is malformed, or nothing is left.
        """
        wanted, unwanted = patterns(select), patterns(exclude)
        chosen = matching(self.tensors, wanted, unwanted)
        if not chosen and (wanted or unwanted):
            asked = " ".join(
                [f"--include {regex.pattern!r}" for regex in wanted]
                + [f"--exclude {regex.pattern!r}" for regex in unwanted]
            )
            names = ", ".join(tensor.label for tensor in self.tensors[:3])
            raise errors.SelectionError(
                f"{asked} leaves none of the {len(self.tensors)} tensors; their names look like: {names}"
            )
        return chosen


def matching(named: Iterable[N], wanted: list[re.Pattern[str]], unwanted: list[re.Pattern[str]]) -> tuple[N, ...]:
    """Pick what has a name by it: any pattern will do, none that is unwanted; nothing may be left."""
    return tuple(
        one
        for one in named
        if (not wanted or any(regex.search(one.name) for regex in wanted))
        and not any(regex.search(one.name) for regex in unwanted)
    )


def patterns(regexes: Regexes) -> list[re.Pattern[str]]:
    """Compile regexes for names; raises `SelectionError` if one is none."""
    if regexes is None:
        return []
    return [pattern(regex) for regex in ([regexes] if isinstance(regexes, str) else regexes)]


def pattern(regex: str) -> re.Pattern[str]:
    """Compile a regex for names; raises `SelectionError` if it is none."""
    try:
        return re.compile(regex)
    except re.error as error:
        raise errors.SelectionError(f"not a regular expression: {error.pattern!r} ({error})") from error


def open_model(path: Model | str | os.PathLike[str], **limits: int) -> Model:
    """Read the header of a model file; of all its files if it has several.

    What a file is, its contents tell. One shard of a GGUF stands for its whole set; one safetensors file for
    itself; an index (``model.safetensors.index.json``) for the files that it names, and a folder for
    its index, or for its safetensors files if it has none. A model of Ollama's is named ``ollama:llama3.2``, one in
    the Hugging Face cache by its folder (``models--ORG--NAME``).

    Parameters
    ----------
    path : path-like
        Or a model, which is returned as it is.
    **limits : int
        ``max_header_bytes``, ``max_keys``, ``max_tensors``, ``max_strings``: what a header may
        hold at most (`truebits.files.gguf.Limits` has the defaults).

    Returns
    -------
    Model

    Raises
    ------
    ModelFileError
        A rule of the format is broken; the subclass says which. Pickle checkpoints are refused so.
    OSError
        The file is missing, unreadable or not a regular file.
    """
    if isinstance(path, Model):
        return path
    path = Path(path)
    checked = Limits(**limits)
    place = locate(path)
    parts = _folder_parts(place, checked) if place.is_dir() else _file_parts(place, checked)
    tensors = tuple(tensor for part in parts for tensor in part.header.tensors)
    return Model(shown(path), parts, tensors)


def open_local(source: Model | str | os.PathLike[str]) -> Model:
    """Open, if it is not open yet, a model to be rewritten or run.

    Raises
    ------
    UsageError
        It is behind a URL.
    """
    model = open_model(source)
    if model.is_remote:
        raise errors.UsageError(f"{printable(str(model.path))} is behind a URL: download it, to rewrite or run it")
    return model


def open_gguf(source: Model | str | os.PathLike[str], remote: bool = False) -> Model:
    """Open, if it is not open yet, a GGUF; one to be run may not be `remote`.

    Raises
    ------
    NeedsGGUF
        It is a safetensors model.
    UsageError
        It is behind a URL.
    """
    model = open_model(source)
    if not remote:
        open_local(model)
    if model.format != "gguf":
        raise errors.NeedsGGUF(
            f"{printable(str(model.path))} is a {model.format} model, and this works on GGUF only: "
            "convert it first, with llama.cpp's convert_hf_to_gguf.py"
        )
    return model


def _folder_parts(folder: Path, limits: Limits) -> tuple[Part, ...]:
    from truebits.files import checkpoint

    found = checkpoint.find_files(folder)
    return _indexed_parts(found, limits) if isinstance(found, Path) else _checkpoint_parts(found, limits)


def _file_parts(path: Path, limits: Limits) -> tuple[Part, ...]:
    with map_file(path) as file:
        format = format_of(file.data[:HEAD_BYTES], path)
    if format == "index":
        return _indexed_parts(path, limits)
    first = read_part(path, 0, limits, format)
    is_split = format == "gguf" and ("split.count" in first.header.keys or len(shard_names(path.name)) > 1)
    parts = open_shards(first, limits) if is_split else (first,)
    check_unique(parts)
    return parts


def _indexed_parts(path: Path, limits: Limits) -> tuple[Part, ...]:
    from truebits.files import checkpoint

    index = checkpoint.read_index(path)
    parts = _checkpoint_parts(index.files, limits)
    unnamed = index.check((part.path, part.header.tensors) for part in parts)
    return tuple(part.with_finding(unnamed.get(part.path.name)) for part in parts)


def _checkpoint_parts(paths: tuple[Path, ...], limits: Limits) -> tuple[Part, ...]:
    parts = tuple(read_part(path, number, limits, "safetensors") for number, path in enumerate(paths))
    check_unique(parts)
    return parts
