"""A model: one GGUF file, or all the files of a shard set."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from truebits import errors
from truebits.errors import printable
from truebits.files.gguf import Header, Limits, read_header
from truebits.files.layout import Finding, Tensor
from truebits.files.mapping import Identity, MappedFile

SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


class Named(Protocol):
    """What a selection is made of."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


@dataclass(frozen=True)
class Part:
    """One file of a model."""

    header: Header
    identity: Identity
    findings: tuple[Finding, ...] = field(repr=False)

    @property
    def path(self) -> Path:
        return self.header.path

    def map(self) -> MappedFile:
        """Map the file; raises `FileChanged` if it is no longer the one whose header was read."""
        return MappedFile(self.path, self.identity)

    def at(self, path: Path) -> Part:
        """Return the part as it stands at `path`, now: a copy with the same header."""
        header = replace(self.header, path=path)
        return replace(self, header=header, identity=Identity.of(path.stat()))

    def check_layout(self) -> None:
        """Raise what stops a writer: a layout that does not add up, or types it does not know."""
        for finding in self.findings:
            if finding.stops_writing:
                raise finding.error(self.path, finding.offset, finding.message)

    def value(self, key: str) -> int | float | bool | str | None:
        """Decode one metadata value; None if absent or an array."""
        with self.map() as file:
            return self.header.value(file.data, key)


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
        Of all parts, in file order.
    """

    path: Path
    parts: tuple[Part, ...]
    tensors: tuple[Tensor, ...] = field(repr=False)

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
    def architecture(self) -> str | None:
        """What the file says it is, as ``llama``."""
        name = self.value("general.architecture")
        return name if isinstance(name, str) else None

    def select(self, include: Iterable[str] | str | None, exclude: Iterable[str] | str | None) -> tuple[Tensor, ...]:
        """Pick tensors by name.

        Parameters
        ----------
        include, exclude : regex or regexes, optional
            Searched for anywhere in the name; `exclude` wins.

        Raises
        ------
        SelectionError
            A regex is malformed, or nothing is left.
        """
        wanted, unwanted = patterns(include), patterns(exclude)
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


def patterns(regexes: Iterable[str] | str | None) -> list[re.Pattern[str]]:
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


def open_model(path: str | os.PathLike[str], **limits: int) -> Model:
    """Read the header of a model file; of all its files if it is one of a shard set.

    Parameters
    ----------
    path : path-like
    **limits : int
        ``max_header_bytes``, ``max_keys``, ``max_tensors``, ``max_strings``: what a header may
        hold at most (`truebits.files.gguf.Limits` has the defaults).

    Returns
    -------
    Model

    Raises
    ------
    ModelFileError
        A rule of the format is broken; the subclass says which.
    OSError
        The file is missing, unreadable or not a regular file.
    """
    path = Path(path)
    checked = Limits(**limits)
    first = _read_part(path, 0, checked)
    parts = _shards(first, checked) if "split.count" in first.header.keys or _is_shard(path) else (first,)
    tensors = tuple(tensor for part in parts for tensor in part.header.tensors)
    _check_unique(parts)
    return Model(path, parts, tensors)


def _read_part(path: Path, number: int, limits: Limits) -> Part:
    with MappedFile(path) as file:
        header = read_header(file.data, path, number, limits)
        return Part(header, file.identity, tuple(header.findings(file.data)))


def _is_shard(path: Path) -> bool:
    match = SHARD_NAME.fullmatch(path.name)
    return match is not None and int(match["count"]) > 1


def shard_path(path: Path, number: int) -> Path:
    """Return the path of the shard `number` (from 0) of the set that `path` belongs to."""
    match = SHARD_NAME.fullmatch(path.name)
    assert match is not None
    return path.with_name(f"{match['stem']}-{number + 1:05d}-of-{match['count']}.gguf")


def _shards(opened: Part, limits: Limits) -> tuple[Part, ...]:
    """Open all files of the set that `opened` is one of and check that they belong together."""
    path = opened.path
    count = opened.value("split.count")
    if count is not None and count in (0, 1) and not _is_shard(path):
        return (opened,)
    match = SHARD_NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        named = f"its name says {int(match['count'])}" if match else "its name is not NAME-00001-of-0000N.gguf"
        message = f"split.count is {count}, but {named}"
        raise errors.BadShardSet(path, opened.header.keys.get("split.count", (0, 0))[1], message)
    if not 1 <= int(match["number"]) <= count:
        message = f"its name says number {int(match['number'])}, allowed are 1 to {count}"
        raise errors.BadShardSet(path, 0, message)
    parts = []
    for number in range(int(match["count"])):
        shard = shard_path(path, number)
        if not shard.exists():
            message = f"shard {number + 1} of {count} is missing: expected {printable(shard.name)} beside it"
            raise errors.BadShardSet(path, 0, message)
        part = _read_part(shard, number, limits)
        for key, expected in (("split.count", count), ("split.no", number)):
            if part.value(key) != expected:
                message = f"{key} is {part.value(key)}, expected {expected}"
                raise errors.BadShardSet(shard, part.header.keys.get(key, (0, 0))[1], message)
        parts.append(part)
    return tuple(parts)


def _check_unique(parts: tuple[Part, ...]) -> None:
    if len(parts) == 1:
        return
    seen: dict[str, Path] = {}
    for part in parts:
        for tensor in part.header.tensors:
            if tensor.name in seen:
                message = f"tensor {tensor.label} stands in {printable(seen[tensor.name].name)} too"
                raise errors.DuplicateTensor(part.path, tensor.offset, message)
            seen[tensor.name] = part.path
