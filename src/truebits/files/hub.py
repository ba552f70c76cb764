"""The hub's names, ``hf://org/repo@revision/file``, and what its API says of a repository.

HF_ENDPOINT and HF_TOKEN (or the token that ``hf auth login`` keeps) are honoured; the token is sent to the endpoint's
host only, and never printed.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from truebits.errors import UsageError, shortened
from truebits.files.checkpoint import CONFIGS
from truebits.files.shards import SHARD_NAME, shard_names
from truebits.files.transport import PIECE, RemoteError, ask

if TYPE_CHECKING:
    from urllib3 import PoolManager

NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>[^@]+?))?/?")
PLAIN = re.compile(r"\w[\w.+ ()-]{0,200}")
"""A file's name that is written into the cache: no folder, nothing hidden."""

COMMIT = re.compile(r"[0-9a-f]{40}")
LONGEST_ANSWER = 64 << 20
MOST_SHARDS = 999
CHECKPOINT = (".safetensors", ".safetensors.index.json")
OWNER = re.compile(r"[\w-][\w.-]*")

PAGE = 1000
"""Repositories that are asked for at a time."""

MOST_PAGES = 10_000
NEXT_PAGE = re.compile(r'<([^>]{1,2000})>; *rel="next"')


class Repository(NamedTuple):
    """What is in a repository at one commit.

    Attributes
    ----------
    name : str
        ``org/repo``.
    commit : str
    files : tuple of str
        Names, folders before them.
    """

    name: str
    commit: str
    files: tuple[str, ...]

    def url(self, file: str) -> str:
        """Return where a file is."""
        return f"{endpoint()}/{self.name}/resolve/{self.commit}/{quote(file)}"


def endpoint() -> str:
    """Return the hub's address."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def headers() -> dict[str, str]:
    """Return the headers that carry the token, if there is one."""
    token = os.environ.get("HF_TOKEN") or _kept_token()
    return {"Authorization": f"Bearer {token}"} if token and token.isprintable() else {}


def _kept_token() -> str:
    home = os.environ.get("HF_HOME") or os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/huggingface"
    path = Path(os.environ.get("HF_TOKEN_PATH") or home + "/token").expanduser()
    try:
        return path.read_text()[:1000].strip()
    except (OSError, ValueError):
        return ""


def wanted_files(pool: PoolManager, name: str) -> tuple[Repository, tuple[str, ...], str]:
    """Return a repository, the files of the model that a name means, and the one of them that opens it ("" a folder).

    Raises
    ------
    UsageError
        The name is none, or the repository has several models: they are named.
    RemoteError
        The repository is not there, may not be read, or its answer makes no sense.
    """
    match = _parsed(name)
    known = _known(match["repository"], match["revision"] or "", match["file"] or "")
    repository = known or _ask(pool, match["repository"], match["revision"] or "main")
    if match["file"]:
        _check_there(repository, match["file"])
        return repository, _with_shards(repository, match["file"]), match["file"]
    files = [file for file in repository.files if "/" not in file]
    checkpoint = [file for file in files if file.endswith(CHECKPOINT)]
    if checkpoint:
        return repository, (*checkpoint, *(file for file in files if file in CONFIGS)), ""
    models = _ggufs(repository)
    if len(models) == 1:
        return repository, _with_shards(repository, models[0]), models[0]
    some = ", ".join(shortened(file) for file in models[:8])
    has = (
        f"has {len(models)} GGUF models: name one, as hf://{repository.name}/FILE ({some})"
        if models
        else "has no model file"
    )
    raise UsageError(f"hf://{repository.name} {has}")


def _parsed(name: str) -> re.Match[str]:
    match = NAME.fullmatch(name)
    if match is None or ".." in name:
        raise UsageError(
            f"hf://{shortened(name)} is no name of the hub: hf://org/repo, hf://org/repo@revision/file.gguf"
        )
    return match


def named(pool: PoolManager, name: str) -> tuple[Repository, str]:
    """Return a repository as it is now, and the file of it that a name names, or ``""``.

    Raises
    ------
    UsageError, RemoteError
        As `wanted_files`.
    """
    match = _parsed(name)
    repository = _ask(pool, match["repository"], match["revision"] or "main")
    if match["file"]:
        _check_there(repository, match["file"])
    return repository, match["file"] or ""


def models_of(repository: Repository) -> list[str]:
    """Return the models of a repository: ``""`` for a checkpoint in its first folder, and each GGUF's first file."""
    is_checkpoint = any("/" not in file and file.endswith(CHECKPOINT) for file in repository.files)
    return [*([""] if is_checkpoint else []), *_ggufs(repository)]


def _ggufs(repository: Repository) -> list[str]:
    ggufs = (file for file in reversed(repository.files) if file.endswith(".gguf"))
    return sorted({SHARD_NAME.sub(r"\g<stem>", file): file for file in ggufs}.values())


def _check_there(repository: Repository, file: str) -> None:
    if file not in repository.files:
        some = ", ".join(shortened(file) for file in repository.files[:8])
        raise RemoteError(repository.url(file), f"is not in the repository, which has: {some}", errno.ENOENT)


def _known(name: str, revision: str, file: str) -> Repository | None:
    """Return what need not be asked: where a GGUF is that is named with its commit, and its shards."""
    if not COMMIT.fullmatch(revision) or not file.endswith(".gguf") or not is_plain(file):
        return None
    files = shard_names(file)
    return Repository(name, revision, tuple(files) if 1 <= len(files) <= MOST_SHARDS else (file,))


def _with_shards(repository: Repository, file: str) -> tuple[str, ...]:
    """Return a file, or all of its shard set."""
    match = SHARD_NAME.fullmatch(file)
    if match is None:
        return (file,)
    found = ((one, SHARD_NAME.fullmatch(one)) for one in repository.files)
    return tuple(sorted(one for one, of in found if of and of["stem"] == match["stem"])) or (file,)


def repositories(pool: PoolManager, owner: str) -> Iterator[Repository]:
    """Yield the repositories of a user or an organization, in the order of their names on each page.

    Raises
    ------
    UsageError
        The owner's name is none.
    RemoteError
        The hub does not list them, or its answer makes no sense.
    """
    if not OWNER.fullmatch(owner):
        raise UsageError(f"hf://{shortened(owner)} is no name of the hub: hf://org, hf://org/repo")
    url = f"{endpoint()}/api/models?author={quote(owner)}&full=true&limit={PAGE}"
    for _ in range(MOST_PAGES):
        content, link = _json(pool, url)
        if not isinstance(content, list):
            raise RemoteError(url, "the answer is no list of repositories")
        found = [_repository(one, one.get("id")) for one in content if isinstance(one, dict)]
        yield from sorted(one for one in found if one is not None and NAME.fullmatch(one.name))
        following = NEXT_PAGE.search(link)
        if following is None:
            return
        if not following[1].startswith(f"{endpoint()}/"):
            raise RemoteError(url, f"the next page is elsewhere: {shortened(following[1])}")
        url = following[1]
    raise RemoteError(url, "pages without end")


def _ask(pool: PoolManager, name: str, revision: str) -> Repository:
    url = f"{endpoint()}/api/models/{name}/revision/{quote(revision, safe='')}"
    found = _repository(_json(pool, url)[0], name)
    if found is None:
        raise RemoteError(url, "the answer has no commit and list of files")
    return found


def _repository(content: Any, name: Any) -> Repository | None:
    """Return what the hub says of a repository; None if that makes no sense."""
    commit = content.get("sha") if isinstance(content, dict) else None
    siblings = content.get("siblings") if isinstance(content, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        return None
    names = (one.get("rfilename") for one in siblings if isinstance(one, dict))
    return Repository(str(name), commit, tuple(file for file in names if isinstance(file, str) and is_plain(file)))


def _json(pool: PoolManager, url: str) -> tuple[Any, str]:
    """Return an answer of the API, and the header that has the next page's address."""
    answer = ask(pool, url, headers())
    text = bytearray()
    try:
        while len(text) <= LONGEST_ANSWER and (piece := answer.read(PIECE)):
            text += piece
    except Exception as error:
        raise RemoteError(url, f"the answer breaks off: {type(error).__name__}") from None
    finally:
        answer.close()
    if len(text) > LONGEST_ANSWER:
        raise RemoteError(url, f"an answer of more than {LONGEST_ANSWER} bytes")
    try:
        return json.loads(text.decode()), answer.headers.get("Link", "")
    except (ValueError, RecursionError):
        raise RemoteError(url, "the answer is no JSON") from None


def is_plain(file: str) -> bool:
    """Tell whether a name leads to a file below its folder, and nowhere else."""
    return all(PLAIN.fullmatch(part) for part in file.split("/"))
