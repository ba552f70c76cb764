"""The files of one model: a GGUF shard set, and what holds for the parts of any."""

from __future__ import annotations

import re
from pathlib import Path

from truebits import errors
from truebits.errors import printable
from truebits.files.gguf import Limits
from truebits.files.part import Part, read_part

SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def shard_names(name: str) -> list[str]:
    """Return the names of all files of the set that a name belongs to; itself, where it belongs to none."""
    match = SHARD_NAME.fullmatch(name)
    if match is None:
        return [name]
    return [f"{match['stem']}-{number:05d}-of-{match['count']}.gguf" for number in range(1, int(match["count"]) + 1)]


def open_shards(opened: Part, limits: Limits) -> tuple[Part, ...]:
    """Open all files of the set that `opened` is one of and check that they belong together."""
    path = opened.path
    count = opened.value("split.count")
    if count is not None and count in (0, 1) and len(shard_names(path.name)) < 2:
        return (opened,)
    match = SHARD_NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        named = f"its name says {int(match['count'])}" if match else "its name is not NAME-00001-of-0000N.gguf"
        message = f"split.count is {count}, but {named}"
        raise errors.BadShardSet(path, opened.key_offset("split.count"), message)
    if not 1 <= int(match["number"]) <= count:
        message = f"its name says number {int(match['number'])}, allowed are 1 to {count}"
        raise errors.BadShardSet(path, 0, message)
    parts = []
    for number, name in enumerate(shard_names(path.name)):
        shard = path.with_name(name)
        if not shard.exists():
            message = f"shard {number + 1} of {count} is missing: expected {printable(shard.name)} beside it"
            raise errors.BadShardSet(path, 0, message)
        part = read_part(shard, number, limits, "gguf")
        for key, expected in (("split.count", count), ("split.no", number)):
            if part.value(key) != expected:
                message = f"{key} is {part.value(key)}, expected {expected}"
                raise errors.BadShardSet(shard, part.key_offset(key), message)
        parts.append(part)
    return tuple(parts)


def check_unique(parts: tuple[Part, ...]) -> None:
    if len(parts) == 1:
        return
    seen: dict[str, Path] = {}
    for part in parts:
        for tensor in part.header.tensors:
            if tensor.name in seen:
                message = f"tensor {tensor.label} stands in {printable(seen[tensor.name].name)} too"
                raise errors.DuplicateTensor(part.path, tensor.offset, message)
            seen[tensor.name] = part.path
