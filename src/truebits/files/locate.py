"""Where a model is that somebody names: a path, an Ollama name, a repository of the Hugging Face cache, a URL."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from urllib.parse import urlsplit

from truebits.errors import UsageError, shortened

URL = re.compile(r"(?P<scheme>https?|hf|s3|gs|ftp):/{1,2}(?=[^/])")
"""A `Path` of a URL has one slash."""


class UrlPath(type(Path())):  # type: ignore[misc]
    """A URL where a path is expected: it is printed with both its slashes."""

    def __str__(self) -> str:
        return URL.sub(lambda match: f"{match['scheme']}://", super().__str__())


PLAIN_NAME = re.compile(r"[\w.-]+(?::[\w.-]+)?")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def locate(path: Path) -> Path:
    """Return the file or folder that a model is in.

    Raises
    ------
    FileNotFoundError
        There is none; says what may have been meant.
    UsageError
        A URL of a kind that is not read.
    """
    if path.is_file():
        return path
    from truebits.files import stores  # which most models do without

    if path.exists():
        return stores.find_snapshot(path) if stores.is_cached_repository(path) else path
    text = str(path)
    if text.startswith(stores.OLLAMA):
        return stores.find_ollama(text)
    if URL.match(text):
        return _remote(URL.sub(lambda match: f"{match['scheme']}://", text))
    raise FileNotFoundError(errno.ENOENT, f"no such file or folder{_meant(text)}", text)


def shown(path: Path) -> Path:
    """Return a path as it may be printed: of a URL what may be secret (user, query) is left out."""
    text = str(path)
    if not URL.match(text) or path.exists():
        return path
    plain = urlsplit(URL.sub(lambda match: f"{match['scheme']}://", text))
    host = plain.netloc if plain.scheme == "hf" else plain.netloc.rpartition("@")[2]
    return UrlPath(f"{plain.scheme}://{host}{plain.path}")


def _remote(url: str) -> Path:
    from truebits.files import remote

    if url.startswith("ftp"):
        raise UsageError(f"{shortened(url)}: http, https, hf, s3 and gs are read; download the file first")
    return remote.locate(url)


def _meant(text: str) -> str:
    """Say what somebody may have meant by a path that is not there."""
    from truebits.files import stores

    if PLAIN_NAME.fullmatch(text):
        known = {found.source for found in stores.find_all() if found.store == "Ollama"}
        if stores.OLLAMA + text in known:
            return f"; Ollama has a model of this name: {stores.OLLAMA}{text}"
        if ":" in text:
            return f"; a model of Ollama's is named {stores.OLLAMA}{text}"
    if REPOSITORY.fullmatch(text):
        return f"; a repository of huggingface.co is named hf://{text}"
    return ""
