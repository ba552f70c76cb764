"""Models behind a URL: a sparse file of the right size in a cache, filled by ranges as they are needed.

Such a file is mapped like any other; what will be read of it is fetched by `MappedFile.expect` before. Beside it
stands a record of the ranges that are there. Where in the cache it lies, its URL, size and state at the server say
(its ETag, or the commit in its URL): two states are never mixed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from truebits.errors import TruebitsError, UsageError, shortened
from truebits.files import hub
from truebits.files.at_once import at_once
from truebits.files.mapping import REMOTE, FileChanged, Identity, MappedFile
from truebits.files.ranges import Range, length, missing, requests, union
from truebits.files.shards import shard_names
from truebits.files.transport import FileState, FsspecFile, HttpFile, Transport, pool

FIRST_BYTES = 1 << 20
GAP = 1 << 20
"""Ranges no further apart are fetched as one."""

LONGEST_REQUEST = 16 << 20
Piece = tuple[int, bytes]
"""Bytes, and their place in a file."""


@dataclass
class RemoteSettings:
    """How remote models are read.

    Attributes
    ----------
    connections : int
        At once.
    cache : Path
        Where what was fetched is kept.
    cache_bytes : int
        Its size: the models that were read longest ago are taken out.
    limit : int
        Bytes of one model that may be fetched.
    dry_run : bool
        Say how much would be fetched beyond the header, and stop.
    progress : callable, optional
        Called with bytes done and bytes in all.
    """

    connections: int = 8
    cache: Path = Path(os.environ.get("TRUEBITS_CACHE") or "~/.cache/truebits/remote")
    cache_bytes: int = 20 << 30
    limit: int = 8 << 30
    dry_run: bool = False
    progress: Callable[[int, int], None] | None = None


SETTINGS = RemoteSettings()


class Planned(TruebitsError):
    """A dry run: says what would be fetched."""

    exit_code = 0


class Partial:
    """A remote file, and what of it is in the cache."""

    def __init__(self, path: Path, transport: Transport, first: list[Piece]):
        assert transport.known is not None
        self.path = path
        self.record = path.with_name(path.name + ".ranges")
        self.transport = transport
        self.facts = transport.known
        self.fetched = 0
        self.lock = threading.Lock()
        self.there = self._recorded()
        if not self.there:
            self.path.touch()
            os.truncate(self.path, self.facts.size)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for at, piece in first:
                _write_all(descriptor, piece, at)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._note((at, at + len(piece)) for at, piece in first)

    def _recorded(self) -> list[Range]:
        """Return the ranges that the cache has."""
        size = self.facts.size
        try:
            ranges = [(int(start), int(stop)) for start, stop in json.loads(self.record.read_text())]
            fits = self.path.stat().st_size == size and all(0 <= start <= stop <= size for start, stop in ranges)
        except (OSError, ValueError, TypeError, RecursionError):
            return []
        return union(ranges) if fits else []

    def _note(self, ranges: Iterable[Range]) -> None:
        with self.lock:
            self.there = union([*self.there, *ranges])
            new = self.record.with_name(f"{self.record.name}.{os.getpid()}.{threading.get_ident()}")
            new.write_text(json.dumps(self.there))
            new.replace(self.record)

    @property
    def known(self) -> int:
        """How many bytes from the start are there."""
        return self.there[0][1] if self.there and self.there[0][0] == 0 else 0

    def need(self, wanted: Iterable[Range]) -> None:
        """Fetch what is not there of some ranges; several requests at once.

        Raises
        ------
        RemoteError, RemoteChanged
        UsageError
            More than the limit.
        Planned
            A dry run.
        """
        size = self.facts.size
        absent = missing(((max(0, start), min(stop, size)) for start, stop in wanted), self.there)
        if not absent:
            return
        asked = requests(absent, GAP, LONGEST_REQUEST)
        nbytes = length(asked)
        if self.fetched + nbytes > SETTINGS.limit:
            raise UsageError(
                f"{shortened(self.path.name)}: {nbytes:,} of {size:,} bytes would be fetched, the limit is "
                f"{SETTINGS.limit:,}: select fewer tensors (--include), or raise it (--fetch-limit)"
            )
        done, self.fetched = self.fetched, self.fetched + nbytes
        for (start, stop), _ in at_once(lambda one: self._fetch(*one), asked, SETTINGS.connections):
            done += stop - start
            if SETTINGS.progress is not None:
                SETTINGS.progress(done, self.fetched)

    def _fetch(self, start: int, stop: int) -> None:
        """Get a range; what came before an error is kept, too."""
        came = start
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)

        def write(at: int, piece: bytes) -> None:
            nonlocal came
            _write_all(descriptor, piece, at)
            came = at + len(piece)

        try:
            self.transport.fetch(start, stop, write)
        finally:
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._note([(start, came)])


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


PARTIALS: dict[Path, Partial] = {}


class RemoteFile(MappedFile):
    """A partial file, mapped: what is expected is fetched first."""

    def __init__(self, path: Path, expected: Identity | None = None):
        self.partial = PARTIALS[path]
        super().__init__(path)
        state = int.from_bytes(sha256(self.partial.facts.state.encode()).digest()[:7], "big")
        self.identity = Identity(0, 0, self.partial.facts.size, state)
        if expected is not None and expected != self.identity:
            raise FileChanged(errno.ESTALE, "has changed since its header was read", str(path))

    def check(self) -> None:
        """Nothing: a server that sends another state of the file than the first is found out when it does."""

    def expect(self, start: int, stop: int) -> None:
        self.expect_all([(start, stop)])

    def expect_all(self, ranges: Iterable[Range]) -> None:
        ranges = list(ranges)
        absent = missing(ranges, self.partial.there)
        if SETTINGS.dry_run and absent:
            asked = requests(absent, GAP, LONGEST_REQUEST)
            raise Planned(
                f"would fetch {length(asked):,} of {self.identity.size:,} bytes in {len(asked)} requests; "
                f"the header, {self.partial.known:,} bytes, is here"
            )
        self.partial.need(ranges)

    @property
    def known(self) -> int:
        return self.partial.known

    def grow(self) -> None:
        self.partial.need([(0, 4 * max(self.partial.known, FIRST_BYTES))])


def locate(url: str) -> Path:
    """Return a file or folder of the cache that stands for what is behind a URL; its first bytes are there.

    Parameters
    ----------
    url : str
        ``https://``, ``hf://``, ``s3://``, ``gs://``.

    Raises
    ------
    RemoteError
        It cannot be reached, is not there, may not be read, or the server does not do as it should.
    UsageError
        It names no file, or several models.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "hf":
        return _locate_in_hub(rest)
    name, transports = _transports(url)
    return _begin(transports) / name


def state(url: str) -> str:
    """Return what the server says of the files behind a URL that is no name of the hub's: sizes and ETags.

    Raises
    ------
    RemoteError, UsageError
        As `locate`.
    """
    _, transports = _transports(url)
    looked = dict(at_once(_look, transports.values(), SETTINGS.connections))
    return "\n".join(str(looked[transport]) for transport in transports.values())


def state_when_opened(paths: Iterable[Path]) -> str:
    """Return the same of files that are open: what `state` said then."""
    return "\n".join(str(PARTIALS[path].facts) for path in paths)


def _look(transport: Transport) -> FileState:
    """Ask for one byte: with it comes what the server says of the file."""
    transport.fetch(0, 1, lambda at, piece: None)
    assert transport.known is not None
    return transport.known


def _transports(url: str) -> tuple[str, dict[str, Transport]]:
    """Return the name of the file that a URL names, and by name how to get it, and its shards."""
    name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    if not hub.PLAIN.fullmatch(name):
        raise UsageError(f"{shortened(url)} names no file: a URL ends in NAME.gguf or NAME.safetensors")
    names = shard_names(name)
    if len(names) > hub.MOST_SHARDS:
        raise UsageError(f"{shortened(name)} is one of {len(names)} files, at most {hub.MOST_SHARDS} are opened by URL")
    addresses = {one: url if one == name else url.replace(name, one) for one in names}
    if not url.startswith(("http:", "https:")):
        return name, {one: FsspecFile(address) for one, address in addresses.items()}
    connections = pool(SETTINGS.connections)
    return name, {one: HttpFile(connections, address, {}) for one, address in addresses.items()}


def _locate_in_hub(name: str) -> Path:
    connections, token = pool(SETTINGS.connections), hub.headers()
    repository, files, main = hub.wanted_files(connections, name)
    transports = {
        file.rpartition("/")[2]: HttpFile(connections, repository.url(file), token, repository.commit) for file in files
    }
    folder = _begin(transports)
    for one in transports:
        if one.endswith(".json"):
            PARTIALS[folder / one].need([(0, PARTIALS[folder / one].facts.size)])
    return folder / main.rpartition("/")[2] if main else folder


def _begin(transports: Mapping[str, Transport]) -> Path:
    """Return the cache's folder for files in their present states, with the first bytes of each.

    Where the cache has these files, in whatever state, the server is asked for that alone.
    """
    files = "\n".join(one.url for one in transports.values())
    is_known = any(SETTINGS.cache.expanduser().glob(f"{_hash(files)}*"))

    def first(transport: Transport) -> list[Piece]:
        pieces: list[Piece] = []
        transport.fetch(0, 1 if is_known else FIRST_BYTES, lambda at, piece: pieces.append((at, piece)))
        return pieces

    pieces = dict(at_once(lambda name: first(transports[name]), transports, SETTINGS.connections))
    folder = _folder(_hash(files) + _hash("\n".join(str(one.known) for one in transports.values())))
    for name, transport in transports.items():
        PARTIALS[folder / name] = Partial(folder / name, transport, pieces[name])
        REMOTE[folder / name] = RemoteFile
    if is_known:
        for name in transports:
            PARTIALS[folder / name].need([(0, FIRST_BYTES)])
    return folder


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def _folder(name: str) -> Path:
    """Return the cache's folder of a name; makes it, and room for it."""
    folder = SETTINGS.cache.expanduser() / name
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    _make_room(folder)
    return folder.resolve()


def _make_room(keep: Path) -> None:
    """Take the models out of the cache that were read longest ago, until the rest is small enough."""
    folders = [entry for entry in keep.parent.iterdir() if re.fullmatch(r"[0-9a-f]{32}", entry.name)]
    folders.sort(key=lambda folder: folder.stat().st_mtime)
    sizes = {folder: sum(file.stat().st_blocks * 512 for file in folder.iterdir()) for folder in folders}
    excess = sum(sizes.values()) - SETTINGS.cache_bytes
    for folder in folders:
        if excess > 0 and folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
            excess -= sizes[folder]
