"""What was named for a survey -> models, each with what opens it and what tells its state."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from truebits.errors import printable
from truebits.files import hub
from truebits.files.at_once import at_once
from truebits.files.collect import collect, listed
from truebits.files.locate import URL, locate, shown
from truebits.files.shards import SHARD_NAME
from truebits.files.transport import pool

if TYPE_CHECKING:
    from urllib3 import PoolManager

HUB = "hf://"
OF_A_MODEL = (".safetensors", ".json", ".gguf")
"""Files of a folder that a model is made of."""


class Source(NamedTuple):
    """A model that a survey reads.

    Attributes
    ----------
    name : str
        By which its row is found again: as it was named.
    opens : str
        What opens it: of the hub's models at one commit.
    state : str or None
        What tells that it is still the same: the commit; None where its file, or its server, is to be asked.
    problem : str or None
        Why it cannot be read, where that is known beforehand.
    """

    name: str
    opens: str
    state: str | None = None
    problem: str | None = None


def sources(places: Iterable[str | os.PathLike[str]]) -> list[Source]:
    """Return the models that files, folders, patterns, lists, URLs and the hub's names stand for, each once, by name.

    ``hf://org`` stands for all models of an organization, ``hf://org/repo`` for all of a repository: its checkpoint,
    and each of its GGUFs. ``@file`` is a list of such names, one a line. Anything else is as for `collect`.

    Raises
    ------
    UsageError
        A pattern matches nothing.
    RemoteError
        The hub does not list an organization.
    """
    found: dict[str, Source] = {}
    wanted: list[str] = []
    for place in listed(places):
        text = os.fspath(place)
        if text.startswith(HUB):
            wanted.append(text.removeprefix(HUB).rstrip("/"))
            continue
        for path in collect([place]):
            name = printable(str(shown(path)))
            found[name] = Source(name, text if URL.match(str(path)) else str(path))
    for source in _of_hub(wanted):
        found[source.name] = source
    return [found[name] for name in sorted(found)]


def _of_hub(names: list[str]) -> Iterator[Source]:
    """Ask the hub what organizations and repositories have, several at once."""
    if not names:
        return
    from truebits.files.remote import SETTINGS

    connections = pool(SETTINGS.connections)
    for name in [name for name in names if "/" not in name]:
        for repository in hub.repositories(connections, name):
            yield from _of_repository(repository, repository.name)
    one_by_one = [name for name in names if "/" in name]
    for name, answer in at_once(lambda name: _asked(connections, name), one_by_one, SETTINGS.connections):
        if isinstance(answer, Source):
            yield answer
        else:
            repository, file = answer
            yield from [_model(repository, name, file)] if file else _of_repository(repository, name)


def _asked(connections: PoolManager, name: str) -> tuple[hub.Repository, str] | Source:
    """Return a repository, and the file of it that is meant; of one that cannot be read a source that says why."""
    try:
        return hub.named(connections, name)
    except (OSError, ValueError) as error:
        return Source(HUB + name, HUB + name, "", str(error))


def _of_repository(repository: hub.Repository, name: str) -> Iterator[Source]:
    models = hub.models_of(repository)
    for file in models:
        yield _model(repository, f"{name}/{file}" if file else name, file)
    if not models:
        yield Source(HUB + name, HUB + name, repository.commit, "the repository has no GGUF or safetensors file")


def _model(repository: hub.Repository, name: str, file: str) -> Source:
    opens = f"{HUB}{repository.name}@{repository.commit}{f'/{file}' if file else ''}"
    return Source(HUB + name, opens, repository.commit)


def state_of(source: Source) -> str:
    """Return what tells a model's state: its commit, ETag, or the sizes and times of its files.

    Raises
    ------
    OSError
        It is not there.
    """
    if source.state is not None:
        return source.state
    if URL.match(source.opens):
        from truebits.files.remote import state

        return state(source.opens)
    path = locate(Path(source.opens))
    files = _files(path)
    return " ".join(f"{status.st_size}:{status.st_mtime_ns}" for status in map(os.stat, files))


def _files(path: Path) -> list[Path]:
    """Return the files of a model: itself, its shards, or what its folder has."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in OF_A_MODEL and file.is_file())
    match = SHARD_NAME.fullmatch(path.name)
    return sorted(path.parent.glob(f"*-of-{match['count']}.gguf")) if match else [path]
