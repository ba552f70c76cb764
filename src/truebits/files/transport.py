"""Ranges of bytes by HTTP, or by whatever fsspec knows: what is asked for, or one clear error.

A server is believed nothing: status, Content-Range, length, encoding and ETag of every answer are checked. Retries,
backoff, ``Retry-After`` and redirects are urllib3's, which leaves the token behind where a redirect leads to
another host.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from truebits.errors import MissingExtra, clipped

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
MOST_RETRIES, MOST_REDIRECTS = 5, 5
LONGEST_WAIT = 60.0
"""Seconds that a server's ``Retry-After`` is heeded for."""

BACKOFF = 0.25
"""Seconds before the second retry; each later one waits twice as long."""

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
PIECE = 1 << 20

Write = Callable[[int, bytes], None]
"""Takes what came, with its place in the file."""


class RemoteError(OSError):
    """A server does not give what it was asked for; says which server and what."""

    def __init__(self, url: str, message: str, number: int = errno.EIO):
        super().__init__(number, clipped(message), public(url))


class RemoteChanged(RemoteError):
    """The file at the server is not, any more, the one whose first bytes were read."""


class FileState(NamedTuple):
    """What a server says about a file: its size in bytes, and what tells one state of it from another."""

    size: int
    state: str

    def __str__(self) -> str:
        return f"{self.size:,} bytes ({self.state or 'no ETag'})"


class Transport(Protocol):
    """How to get ranges of one file."""

    url: str
    known: FileState | None

    def fetch(self, start: int, stop: int, write: Write) -> None:
        """Get a range, or its part up to the end of the file, piece by piece; the first time sets `known`."""


def public(url: str) -> str:
    """Return a URL without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def pool(connections: int) -> PoolManager:
    """Return connections for all files of a model."""
    try:
        from urllib3 import PoolManager, Retry, Timeout
    except ImportError:
        raise MissingExtra("reading a model by its URL", "remote") from None

    class Patient(Retry):
        """Retries that a server cannot draw out for ever."""

        def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
            after = super().get_retry_after(response)
            return None if after is None else min(after, LONGEST_WAIT)

    retries = Patient(
        total=MOST_RETRIES + MOST_REDIRECTS,
        connect=MOST_RETRIES,
        read=MOST_RETRIES,
        status=MOST_RETRIES,
        redirect=MOST_REDIRECTS,
        backoff_factor=BACKOFF,
        backoff_max=10,
        status_forcelist=(429, 500, 502, 503, 504),
        respect_retry_after_header=True,
        raise_on_status=False,
    )
    timeout = Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
    return PoolManager(num_pools=16, maxsize=connections, block=True, retries=retries, timeout=timeout)


def ask(pool: PoolManager, url: str, headers: dict[str, str]) -> BaseHTTPResponse:
    """Begin a GET; the caller reads or closes it.

    Raises
    ------
    RemoteError
        The server cannot be reached, or answers with an error.
    """
    from urllib3 import exceptions

    try:
        answer = pool.request("GET", url, headers={"Accept-Encoding": "identity", **headers}, preload_content=False)
    except exceptions.MaxRetryError as error:
        reason = type(error.reason).__name__ if error.reason else "no answer"
        redirects = "redirect" in str(error.reason)
        raise RemoteError(url, "redirects without end" if redirects else f"cannot be reached: {reason}") from None
    except (exceptions.HTTPError, ValueError) as error:
        raise RemoteError(url, f"cannot be reached: {type(error).__name__}") from None
    if answer.status >= 400:
        answer.close()
        raise RemoteError(url, _refused(answer.status), errno.ENOENT if answer.status == 404 else errno.EIO)
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        answer.close()
        encoding = answer.headers["Content-Encoding"][:20]
        raise RemoteError(url, f"the server sends {encoding}, though the bytes as they are were asked for")
    return answer


def _refused(status: int) -> str:
    reasons = {
        401: "needs a token: set HF_TOKEN",
        403: "may not be read: a gated or private model needs a token that may read it, in HF_TOKEN",
        404: "is not there",
        416: "the server says that the range asked for lies behind the end of the file: it lied about the size",
        429: "the server asks to come back later",
    }
    return f"{reasons.get(status, 'the server answers with an error')} (HTTP {status})"


class HttpFile:
    """A file behind an http or https URL.

    Parameters
    ----------
    pool : urllib3.PoolManager
    url : str
    headers : dict of str to str
        A token, for the first host only.
    state : str, optional
        What is known to tell its state, as a commit in its URL; otherwise its ETag does, or when it was changed.
    """

    def __init__(self, pool: PoolManager, url: str, headers: dict[str, str], state: str | None = None):
        self.pool = pool
        self.url = url
        self.headers = headers
        self.pinned = state
        self.place: str | None = None
        self.known: FileState | None = None

    def fetch(self, start: int, stop: int, write: Write) -> None:
        """Get a range; what came before a connection broke is kept, and the rest asked for anew."""
        from urllib3 import exceptions

        failures = 0
        while start < stop:
            answer, before = self._ask(start, stop), start
            try:
                facts = self._facts(answer, start, stop)
                self.known = self.known or facts
                if facts != self.known:
                    raise RemoteChanged(self.url, f"has changed at the server: {self.known} before, {facts} now")
                stop = min(stop, facts.size)
                while start < stop and (piece := answer.read1(min(PIECE, stop - start))):
                    write(start, piece)
                    start += len(piece)
            except exceptions.HTTPError:
                pass
            finally:
                answer.close() if start < stop else answer.release_conn()
            failures = 0 if start > before else failures + 1
            if failures > MOST_RETRIES:
                raise RemoteError(self.url, f"the server closes the connection at byte {start}, again and again")

    def _ask(self, start: int, stop: int) -> BaseHTTPResponse:
        """Begin a range: where a redirect led to another host, there again, as long as that address is good."""
        wanted = {"Range": f"bytes={start}-{stop - 1}"}
        if (place := self.place) is not None:
            try:
                return ask(self.pool, place, wanted)
            except RemoteError:
                self.place = None
        answer = ask(self.pool, self.url, {**self.headers, **wanted})
        host = urlsplit(found := answer.geturl() or "").netloc
        self.place = found if host not in ("", urlsplit(self.url).netloc) else None
        return answer

    def _facts(self, answer: BaseHTTPResponse, start: int, stop: int) -> FileState:
        """Check that an answer is the range asked for, or its part up to the end of the file."""
        if answer.status != 206:
            raise RemoteError(self.url, "the server does not send ranges of a file: download it first")
        given = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        first, last, size = map(int, given.groups()) if given else (-1, -1, -1)
        if first != start or last != min(stop, size) - 1:
            told = answer.headers.get("Content-Range", "nothing")[:80]
            raise RemoteError(self.url, f"asked for bytes {start} to {stop - 1}, the server says it sends {told}")
        length = answer.headers.get("Content-Length")
        if length is not None and length != str(last + 1 - first):
            raise RemoteError(self.url, f"a range of {last + 1 - first} bytes is said to be {length[:20]} bytes long")
        state = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        return FileState(size, state[:200] if self.pinned is None else self.pinned)


class FsspecFile:
    """A file of a store that fsspec knows: ``s3://``, ``gs://``.

    The store is asked for the file's state after each piece: what came of another one is not written.
    """

    def __init__(self, url: str):
        try:
            import fsspec
        except ImportError:
            raise MissingExtra("reading a model by its URL", "remote") from None
        self.url = url
        try:
            self.system, self.path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            if url.startswith("s3:"):
                raise MissingExtra("reading s3://", "s3") from None
            raise RemoteError(url, f"needs another package: {error}") from None
        self.known: FileState | None = None

    def fetch(self, start: int, stop: int, write: Write) -> None:
        """Get a range; `RemoteChanged` if the file is another than the first time."""
        known = self.known = self.known or self._state()
        stop = min(stop, known.size)
        for at in range(start, stop, 8 * PIECE):
            end = min(at + 8 * PIECE, stop)
            piece = self._try(self.system.cat_file, self.path, start=at, end=end)
            if (now := self._state()) != known:
                raise RemoteChanged(self.url, f"has changed in the store: {known} before, {now} now")
            if len(piece) != end - at:
                raise RemoteError(self.url, f"asked for {end - at} bytes at {at}, {len(piece)} came")
            write(at, piece)

    def _state(self) -> FileState:
        self.system.invalidate_cache(self.path)
        info = self._try(self.system.info, self.path)
        state = info.get("ETag") or info.get("etag") or info.get("LastModified") or ""
        return FileState(int(info["size"]), str(state)[:200])

    def _try(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except FileNotFoundError:
            raise RemoteError(self.url, "is not there", errno.ENOENT) from None
        except Exception as error:
            raise RemoteError(self.url, f"cannot be read: {type(error).__name__}: {error}") from None
