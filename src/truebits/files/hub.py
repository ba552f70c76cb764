"""The hub's names, ``hf://org/repo@revision/file``, and what its API says of a repository.

HF_ENDPOINT and HF_TOKEN (or the token that ``hf auth login`` keeps) are honoured; the token is sent to the endpoint's
host only, and never printed.
"""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from truebits.errors import UsageError, shortened
from truebits.files.checkpoint import CONFIGS
from truebits.files.transport import PIECE, RemoteError, ask

if TYPE_CHECKING:
    from urllib3 import PoolManager

NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>[^@]+?))?/?")
PLAIN = re.compile(r"\w[\w.+ ()-]{0,200}")
"""A file's name that is written into the cache: no folder, nothing hidden."""

COMMIT = re.compile(r"[0-9a-f]{40}")
LONGEST_ANSWER = 64 << 20
SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}\.gguf")


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
    match = NAME.fullmatch(name)
    if match is None or ".." in name:
        raise UsageError(
            f"hf://{shortened(name)} is no name of the hub: hf://org/repo, hf://org/repo@revision/file.gguf"
        )
    repository = _ask(pool, match["repository"], match["revision"] or "main")
    if match["file"]:
        if match["file"] not in repository.files:
            some = ", ".join(shortened(file) for file in repository.files[:8])
            raise RemoteError(
                repository.url(match["file"]), f"is not in the repository, which has: {some}", errno.ENOENT
            )
        return repository, _with_shards(repository, match["file"]), match["file"]
    files = [file for file in repository.files if "/" not in file]
    checkpoint = [file for file in files if file.endswith((".safetensors", ".safetensors.index.json"))]
    if checkpoint:
        return repository, (*checkpoint, *(file for file in files if file in CONFIGS)), ""
    models = {SHARD.sub(r"\1", file): file for file in reversed(repository.files) if file.endswith(".gguf")}
    if len(models) == 1:
        (file,) = models.values()
        return repository, _with_shards(repository, file), file
    some = ", ".join(shortened(file) for file in sorted(models.values())[:8])
    has = (
        f"has {len(models)} GGUF models: name one, as hf://{repository.name}/FILE ({some})"
        if models
        else "has no model file"
    )
    raise UsageError(f"hf://{repository.name} {has}")


def _with_shards(repository: Repository, file: str) -> tuple[str, ...]:
    """Return a file, or all of its shard set."""
    match = SHARD.fullmatch(file)
    if match is None:
        return (file,)
    return tuple(sorted(one for one in repository.files if (m := SHARD.fullmatch(one)) and m[1] == match[1])) or (file,)


def _ask(pool: PoolManager, name: str, revision: str) -> Repository:
    url = f"{endpoint()}/api/models/{name}/revision/{quote(revision, safe='')}"
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
        content: Any = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise RemoteError(url, "the answer is no JSON") from None
    commit = content.get("sha") if isinstance(content, dict) else None
    siblings = content.get("siblings") if isinstance(content, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        raise RemoteError(url, "the answer has no commit and list of files")
    names = (one.get("rfilename") for one in siblings if isinstance(one, dict))
    return Repository(name, commit, tuple(file for file in names if isinstance(file, str) and is_plain(file)))


def is_plain(file: str) -> bool:
    """Tell whether a name leads to a file below its folder, and nowhere else."""
    return all(PLAIN.fullmatch(part) for part in file.split("/"))
