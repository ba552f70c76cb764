"""Models where people keep them: stores made here, honest and hostile."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_bytes import gguf as gguf_bytes
from gguf_bytes import tensor
from safetensors_bytes import safetensors
from truebits import errors
from truebits.files import stores
from truebits.files.locate import locate
from truebits.files.model import open_model

GGUF = gguf_bytes([], [tensor(b"t")], bytes(32))
HEX = "a" * 64
MODEL = "application/vnd.ollama.image.model"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder of our own; no store of this machine is seen."""
    for name in ("OLLAMA_MODELS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def layer(digest: object = f"sha256:{HEX}", kind: object = MODEL) -> dict:
    return {"mediaType": kind, "digest": digest, "size": 1}


def manifest(root: Path, *parts: str, layers: object = None, text: str | None = None) -> None:
    """Write a manifest of an Ollama store, and the blob that an honest one names."""
    content = {"schemaVersion": 2, "layers": [layer(kind="application/vnd.ollama.image.template"), layer()]}
    content |= {} if layers is None else {"layers": layers}
    write(root.joinpath("manifests", *parts), json.dumps(content) if text is None else text)
    write(root / "blobs" / f"sha256-{HEX}", GGUF)


@pytest.fixture
def ollama(home):
    root = home / ".ollama" / "models"
    manifest(root, "registry.ollama.ai", "library", "llama3.2", "latest")
    manifest(root, "registry.ollama.ai", "library", "llama3.2", "1b")
    manifest(root, "registry.ollama.ai", "somebody", "fine", "latest")
    manifest(root, "hf.co", "org", "repo", "Q4_K_M")
    return root


NAMES = ["ollama:hf.co/org/repo:Q4_K_M", "ollama:llama3.2:1b", "ollama:llama3.2", "ollama:somebody/fine"]


@pytest.mark.parametrize("name", [*NAMES, "ollama:llama3.2:latest", "ollama:registry.ollama.ai/library/llama3.2"])
def test_a_model_by_its_ollama_name(ollama, name):
    assert locate(Path(name)) == ollama / "blobs" / f"sha256-{HEX}"
    assert [one.name for one in open_model(name).tensors] == ["t"]


def test_every_ollama_model_is_listed_by_the_name_that_opens_it(ollama):
    assert [(one.store, one.source, one.size) for one in stores.find_all()] == [
        ("Ollama", name, len(GGUF)) for name in NAMES
    ]


def test_ollama_store_of_another_place(home, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "elsewhere"))
    manifest(home / "elsewhere", "registry.ollama.ai", "library", "x", "latest")
    assert locate(Path("ollama:x")).parent.parent == home / "elsewhere"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("ollama:llama3.1", FileNotFoundError, "there are: .*llama3.2"),
        ("ollama:zzz", FileNotFoundError, "ollama pull zzz"),
        ("ollama:../../etc/passwd", errors.UsageError, "no Ollama model's name"),
        ("ollama:..", errors.UsageError, "no Ollama model's name"),
        ("ollama:x:..", errors.UsageError, "no Ollama model's name"),
        ("ollama:a/../b", errors.UsageError, "no Ollama model's name"),
        ("ollama:", errors.UsageError, "no Ollama model's name"),
        ("ollama:\x1b[31m", errors.UsageError, "no Ollama model's name"),
        ("llama3.2:1b", FileNotFoundError, "Ollama has a model of this name: ollama:llama3.2:1b"),
        ("phi:3b", FileNotFoundError, "named ollama:phi:3b"),
        ("org/repo", FileNotFoundError, "hf://org/repo"),
        ("no/such/file.gguf", FileNotFoundError, "no such file or folder$"),
    ],
)
def test_names_that_lead_nowhere(ollama, name, error, words):
    with pytest.raises(error) as caught:
        open_model(name)
    got = caught.value.strerror if isinstance(caught.value, OSError) else str(caught.value)
    assert re.search(words, got), got
    assert got.isprintable()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"text": "{"}, errors.BadManifest),
        ({"text": "[]"}, errors.BadManifest),
        ({"text": "[" * 100_000}, errors.BadManifest),
        ({"text": " " * (2 << 20)}, errors.LimitExceeded),
        ({"text": "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")}, errors.BadManifest),
        ({"layers": []}, errors.BadManifest),
        ({"layers": {"a": 1}}, errors.BadManifest),
        ({"layers": [1, None, "x"]}, errors.BadManifest),
        ({"layers": [layer(kind="application/vnd.ollama.image.tensor")]}, errors.BadManifest),
        ({"layers": [layer("sha256:../../../../etc/passwd")]}, errors.BadManifest),
        ({"layers": [layer(f"sha256:{HEX}/../x")]}, errors.BadManifest),
        ({"layers": [layer(7)]}, errors.BadManifest),
        ({"layers": [layer({})]}, errors.BadManifest),
        ({"layers": [layer(f"sha256:{'b' * 64}")]}, FileNotFoundError),
    ],
)
def test_hostile_manifests(ollama, content, error):
    manifest(ollama, "registry.ollama.ai", "library", "bad", "latest", **content)
    with pytest.raises(error) as caught:
        open_model("ollama:bad")
    assert str(caught.value).isprintable()
    (found,) = [one for one in stores.find_all() if one.source == "ollama:bad"]
    assert found.size is None
    assert found.problem


def test_a_manifest_itself_says_how_to_open_the_model(ollama):
    path = ollama / "manifests/registry.ollama.ai/library/x/latest"
    write(path, json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}))
    with pytest.raises(errors.NotGGUF, match="open it as ollama:NAME"):
        open_model(path)


@pytest.fixture
def cache(home):
    """A Hugging Face cache with two snapshots of a checkpoint, links to blobs as there, and a repository of GGUFs."""
    hub = home / ".cache/huggingface/hub"
    repository = hub / "models--org--model"
    blob = write(repository / "blobs/one", safetensors({"new": ("F32", (1,), bytes(4))}))
    for commit in ("c1", "c2"):
        (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots/c2/model.safetensors").symlink_to(blob)
    write(repository / "snapshots/c1/model.safetensors", safetensors({"old": ("F32", (1,), bytes(4))}))
    write(repository / "refs/main", "c2\n")
    write(hub / "models--org--quants/snapshots/c/Q4/model.gguf", GGUF)
    write(hub / "models--org--empty/snapshots/c/config.json", "{}")
    return hub


def test_a_repository_of_the_hugging_face_cache(cache):
    assert [one.name for one in open_model(cache / "models--org--model").tensors] == ["new"]
    (cache / "models--org--model/refs/main").write_text("gone")
    with pytest.raises(FileNotFoundError, match="no snapshot of its branch main"):
        open_model(cache / "models--org--model")


def test_what_the_hugging_face_cache_lists_opens(cache):
    found = stores.find_all()
    assert [one.source for one in found] == [
        str(cache / "models--org--model"),
        str(cache / "models--org--quants/snapshots/c/Q4/model.gguf"),
    ]
    assert all(open_model(one.source).tensors and one.store == "Hugging Face" for one in found)


def test_refs_lead_nowhere_else(cache):
    (cache / "models--org--model/refs/main").write_text("../../models--org--quants/snapshots/c")
    with pytest.raises(FileNotFoundError):
        open_model(cache / "models--org--model")


def test_lm_studio_and_llama_cpp(home):
    first = write(home / ".lmstudio/models/publisher/repo/model.gguf", GGUF)
    second = write(home / ".cache/llama.cpp/model.gguf", GGUF)
    write(home / ".lmstudio/models/publisher/repo/readme.md", "x")
    (home / ".lmstudio/models/loop").symlink_to(home / ".lmstudio/models")
    got = [(one.store, one.source, one.size) for one in stores.find_all()]
    assert got == [("LM Studio", str(first), len(GGUF)), ("llama.cpp", str(second), len(GGUF))]


def test_no_store_at_all(home):
    assert stores.find_all() == []


def test_show_without_a_model_lists_them(ollama):
    def show(*flags: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "truebits", "show", *flags], capture_output=True, text=True, check=True
        ).stdout

    assert show().splitlines()[1].split() == ["ollama:hf.co/org/repo:Q4_K_M", str(len(GGUF)), "B", "Ollama"]
    assert [one["source"] for one in json.loads(show("--json"))["models"]] == NAMES
