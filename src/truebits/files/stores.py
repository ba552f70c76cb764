"""Where people keep models: Ollama's store, the Hugging Face cache, LM Studio's and llama.cpp's folders. Read only.

Ollama: ``manifests/HOST/NAMESPACE/NAME/TAG`` is a small JSON file that names blobs by digest; the one of media type
``application/vnd.ollama.image.model`` is a GGUF, ``blobs/sha256-HEX``. Hugging Face: ``models--ORG--NAME`` holds
``refs/main``, a commit's name, and ``snapshots/COMMIT``, a folder of links to blobs.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from truebits import errors
from truebits.errors import printable, shortened

OLLAMA = "ollama:"
OLLAMA_HOST, OLLAMA_NAMESPACE, OLLAMA_TAG = "registry.ollama.ai", "library", "latest"
OLLAMA_MODEL = "application/vnd.ollama.image.model"
OLLAMA_NAME = re.compile(r"(?:(?:(?P<host>[\w.:-]+)/)?(?P<namespace>[\w.-]+)/)?(?P<name>[\w.-]+)(?::(?P<tag>[\w.-]+))?")
DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")

LONGEST_MANIFEST = 1 << 20
MOST_FOUND = 10_000


class Found(NamedTuple):
    """A model in a store.

    Attributes
    ----------
    store : str
        ``Ollama``, ``Hugging Face``, ``LM Studio``, ``llama.cpp``.
    source : str
        What opens it.
    size : int or None
        Bytes of its files; None where it cannot be opened.
    problem : str or None
        Why not.
    """

    store: str
    source: str
    size: int | None
    problem: str | None = None


def find_ollama(name: str) -> Path:
    """Return the blob of a model by its Ollama name: ``llama3.2``, ``llama3.2:1b``, ``namespace/name``.

    Raises
    ------
    FileNotFoundError
        No store has it; names that are near are given.
    UsageError
        It is no name.
    BadManifest, LimitExceeded
        Its manifest is damaged.
    """
    name = name.removeprefix(OLLAMA)
    match = OLLAMA_NAME.fullmatch(name)
    if match is None or any(set(part) <= {"."} for part in re.split("[/:]", name)):
        raise errors.UsageError(f"{shortened(name)} is no Ollama model's name, as llama3.2 or llama3.2:1b")
    parts = (
        match["host"] or OLLAMA_HOST,
        match["namespace"] or OLLAMA_NAMESPACE,
        match["name"],
        match["tag"] or OLLAMA_TAG,
    )
    for root in _ollama_roots():
        manifest = root.joinpath("manifests", *parts)
        if manifest.is_file():
            return _blob(root, manifest)
    known = [found.source.removeprefix(OLLAMA) for found in _in_ollama()]
    near = get_close_matches(name, known, 3, 0.3)
    hint = f"; there are: {', '.join(map(shortened, near))}" if near else f"; `ollama pull {name}` gets it"
    raise FileNotFoundError(errno.ENOENT, f"Ollama has no such model here{hint}", f"{OLLAMA}{name}")


def find_snapshot(folder: Path) -> Path:
    """Return the snapshot of a Hugging Face cache's ``models--ORG--NAME`` that its branch ``main`` points to.

    Raises
    ------
    FileNotFoundError
        There is none.
    """
    commit = _text(folder / "refs" / "main")
    snapshots = sorted(entry for entry in _entries(folder / "snapshots") if entry.is_dir())
    for snapshot in snapshots:
        if snapshot.name == commit or len(snapshots) == 1:
            return snapshot
    raise FileNotFoundError(
        errno.ENOENT, "has no snapshot of its branch main: give a folder of snapshots/", str(folder)
    )


def is_cached_repository(path: Path) -> bool:
    """Tell whether a folder is a repository of a Hugging Face cache."""
    return path.name.startswith("models--") and (path / "snapshots").is_dir()


def find_all() -> list[Found]:
    """List the models of all stores of this machine, each store's in the order of their names."""
    stores = (_in_ollama, _in_hugging_face, _in_lm_studio, _in_llama_cpp)
    found: list[Found] = []
    for store in stores:
        for one in store():
            if len(found) == MOST_FOUND:
                return found
            found.append(one)
    return found


def _ollama_roots() -> list[Path]:
    own = os.environ.get("OLLAMA_MODELS")
    shared = [Path("/usr/share/ollama/.ollama/models"), Path("/var/lib/ollama/models")]
    return [Path(own)] if own else [Path.home() / ".ollama" / "models", *shared]


def _in_ollama() -> Iterator[Found]:
    for root in _ollama_roots():
        for manifest in sorted(_walk(root / "manifests", 4)):
            parts = manifest.relative_to(root / "manifests").parts
            if len(parts) != 4:
                continue
            host, namespace, name, tag = parts
            name = name if tag == OLLAMA_TAG else f"{name}:{tag}"
            name = name if namespace == OLLAMA_NAMESPACE else f"{namespace}/{name}"
            name = name if host == OLLAMA_HOST else f"{host}/{parts[1]}/{name.removeprefix(f'{namespace}/')}"
            try:
                yield Found("Ollama", OLLAMA + name, _blob(root, manifest).stat().st_size)
            except (errors.ModelFileError, OSError) as error:
                yield Found("Ollama", OLLAMA + name, None, _reason(error))


def _in_hugging_face() -> Iterator[Found]:
    home = os.environ.get("HF_HOME") or os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/huggingface"
    root = Path(os.environ.get("HF_HUB_CACHE") or home + "/hub").expanduser()
    for folder in sorted(entry for entry in _entries(root) if is_cached_repository(entry)):
        try:
            snapshot = find_snapshot(folder)
        except OSError as error:
            yield Found("Hugging Face", str(folder), None, _reason(error))
            continue
        ggufs = sorted(path for path in _walk(snapshot, 3) if path.suffix == ".gguf")
        for path in ggufs:
            yield _file("Hugging Face", path)
        weights = [path for path in _entries(snapshot) if path.suffix == ".safetensors"]
        if weights:
            yield Found("Hugging Face", str(folder), sum(_size(path) for path in weights))


def _in_lm_studio() -> Iterator[Found]:
    for root in (Path.home() / ".lmstudio" / "models", Path.home() / ".cache" / "lm-studio" / "models"):
        for path in sorted(path for path in _walk(root, 4) if path.suffix == ".gguf"):
            yield _file("LM Studio", path)


def _in_llama_cpp() -> Iterator[Found]:
    cache = os.environ.get("LLAMA_CACHE") or os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/llama.cpp"
    for path in sorted(path for path in _entries(Path(cache).expanduser()) if path.suffix == ".gguf"):
        yield _file("llama.cpp", path)


def _file(store: str, path: Path) -> Found:
    try:
        return Found(store, str(path), path.stat().st_size)
    except OSError as error:
        return Found(store, str(path), None, _reason(error))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to a blob that was deleted
        return 0


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, errors.ModelFileError) else getattr(error, "strerror", None) or str(error)


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing if it cannot be read, or is not there."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the files of a folder and of folders in it, so many deep; links to folders are not followed."""
    for entry in _entries(folder):
        if entry.is_file():
            yield entry
        elif depth > 1 and entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, depth - 1)


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(200).strip()
    except OSError:
        return ""


def _blob(root: Path, manifest: Path) -> Path:
    """Return the model's blob that a manifest names: always a file of the store's own folder of blobs."""
    size = manifest.stat().st_size
    if size > LONGEST_MANIFEST:
        raise errors.LimitExceeded(manifest, 0, f"a manifest of {size} bytes, the limit is {LONGEST_MANIFEST}")
    try:
        content = json.loads(manifest.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else printable(str(error))
        raise errors.BadManifest(manifest, 0, f"not JSON that can be read: {reason}") from error
    digest = next((layer.get("digest") for layer in _layers(content) if layer.get("mediaType") == OLLAMA_MODEL), None)
    if digest is None:
        raise errors.BadManifest(manifest, 0, "no layer of it is a model in GGUF")
    match = DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise errors.BadManifest(manifest, 0, f"the model's digest is {shortened(str(digest))}, not sha256:HEX")
    blob = root / "blobs" / f"sha256-{match[1]}"
    if not blob.is_file():
        raise FileNotFoundError(errno.ENOENT, f"its blob {blob.name[:19]}... is not in the store", str(manifest))
    return blob


def _layers(content: Any) -> list[dict[str, Any]]:
    layers = content.get("layers") if isinstance(content, dict) else None
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
