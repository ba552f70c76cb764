"""Many models -> two Parquet tables, by as many workers as there are, going on where it was interrupted."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from truebits.errors import UsageError
from truebits.files.at_once import at_once
from truebits.files.model import Regexes, patterns
from truebits.precision.batches import Progress
from truebits.surveying.answers import Survey, read_survey
from truebits.surveying.crew import parts
from truebits.surveying.engines import Engine, engine
from truebits.surveying.folder import Folder
from truebits.surveying.sources import Source, sources, state_of
from truebits.surveying.tasks import Reading
from truebits_native.pool import cores

SPLIT_BYTES = 1 << 30
"""Of a large model's unquantized tensors a worker counts so many at a time, where there are several."""


class Asked(NamedTuple):
    """What is read of each model: all of a survey's are read alike."""

    select: list[str]
    exclude: list[str]
    blocks: bool | None


def survey(
    places: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    out: str | os.PathLike[str],
    cluster: str | None = None,
    jobs: int = 1,
    blocks: bool | None = None,
    threads: int | None = None,
    retry: bool = False,
    progress: Progress | None = None,
) -> Survey:
    """Scan many models, and keep a row of each and of each of their tensors in Parquet tables.

    A model that is in the tables, and is the same as it was then, is not read again. One that cannot be read is a row
    with its error. The tables do not depend on how many workers there are, nor on interruptions.

    Parameters
    ----------
    places : path-like, or several
        Files, folders, patterns, lists (``@file``), URLs, ``hf://org``, ``hf://org/repo``.
    select, exclude : regex or regexes, optional
        As of `scan`: of models behind URLs nothing else is fetched.
    out : path-like
        Folder for ``models.parquet`` and ``tensors.parquet``; made if it is not there.
    cluster : str, optional
        A Dask scheduler's address, ``tcp://...``, or ``local`` for a cluster of `jobs` processes here. Its workers
        see local models under the names given.
    jobs : int
        Processes; they are started anew, so that a script that asks for several needs ``if __name__ == "__main__"``.
    blocks : bool, optional
        As of `scan`.
    threads : int, optional
        Of each job; all cores together, if not given.
    retry : bool
        Read those again that could not be read.
    progress : callable, optional
        Called with models done and models in all.

    Returns
    -------
    Survey
        What the tables say, of all models in them.

    Raises
    ------
    UsageError
        No model, or a folder that has something else, or what was read in another way.
    Refused
        Another survey writes there.
    MissingExtra
        pyarrow, or distributed, is not installed.
    """
    if jobs < 1:
        raise UsageError(f"{jobs} jobs: give at least 1")
    named = sources([places] if isinstance(places, str | os.PathLike) else places)
    if not named:
        raise UsageError("no model is named: give files, folders, lists (@file), or names of the hub")
    wanted, unwanted = ([one.pattern for one in patterns(regexes)] for regexes in (select, exclude))
    asked = Asked(wanted, unwanted, blocks)
    with Folder(Path(out), asked._asdict()).opened() as folder:
        todo = deque(_todo(named, folder, retry))
        done = len(named) - len(todo)
        if todo:
            with engine(min(jobs, len(todo)) if cluster is None else jobs, cluster) as workers:
                reading = _reading(workers, asked, threads, cluster)
                for source, part in parts(todo, workers, reading):
                    folder.add(source.name, part)
                    done += 1
                    if progress is not None:
                        progress(done, len(named))
    return read_survey(out)


def _todo(named: list[Source], folder: Folder, retry: bool) -> Iterator[Source]:
    """Yield the models that are not done: those that have changed, too."""
    from truebits.files.remote import SETTINGS

    before = folder.done
    known = [one for one in named if one.name in before and not (before[one.name].failed and retry)]
    same = dict(at_once(lambda one: _is_same(one, before[one.name].state), known, SETTINGS.connections))
    yield from (one for one in named if not same.get(one, False))


def _is_same(source: Source, state: str) -> bool:
    """Tell whether a model is as it was when it was read; where it, or its server, is away, what was read stands."""
    try:
        return source.problem is not None or state_of(source) == state
    except OSError:
        return True


def _reading(workers: Engine, asked: Asked, threads: int | None, cluster: str | None) -> Reading:
    from truebits.files.remote import SETTINGS

    several = workers.workers > 1 or cluster is not None
    remote = {name: getattr(SETTINGS, name) for name in ("connections", "cache", "cache_bytes", "limit")}
    own = threads or (max(1, cores() // workers.workers) if cluster is None else 1)
    return Reading(*asked, own if several else threads, SPLIT_BYTES if several else None, remote)
