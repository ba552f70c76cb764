"""Where a model is that somebody names."""

from pathlib import Path

import pytest

from truebits.errors import UsageError
from truebits.files import stores
from truebits.files.locate import locate, shown


@pytest.fixture(autouse=True)
def nothing_stored(tmp_path, monkeypatch):
    for name in ("OLLAMA_MODELS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_what_is_there_is_itself(tmp_path):
    path = tmp_path / "model.gguf"
    path.touch()
    assert locate(path) == path
    assert locate(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama3.2:3b", "; a model of Ollama's is named ollama:llama3.2:3b"),
        ("Qwen/Qwen3-8B", "; a repository of huggingface.co is named hf://Qwen/Qwen3-8B"),
        ("model.gguf", ""),
        ("a/b/c", ""),
        ("a b", ""),
    ],
)
def test_what_is_not_there_says_what_may_have_been_meant(name, words):
    with pytest.raises(FileNotFoundError) as caught:
        locate(Path(name))
    assert caught.value.filename == name
    assert (
        caught.value.strerror.endswith(words.removesuffix("$")) if words.endswith("$") else words in str(caught.value)
    )


def test_a_model_that_ollama_has(monkeypatch):
    class Found:
        store, source = "Ollama", "ollama:llama3.2"

    monkeypatch.setattr(stores, "find_all", lambda: [Found])
    with pytest.raises(FileNotFoundError, match=r"Ollama has a model of this name: ollama:llama3.2"):
        locate(Path("llama3.2"))


def test_a_url_of_a_kind_that_is_not_read():
    with pytest.raises(UsageError, match=r"ftp://host/m.gguf: http, https, hf, s3 and gs are read"):
        locate(Path("ftp://host/m.gguf"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("https://user:secret@host:8/a/m.gguf?token=secret#x", "https://host:8/a/m.gguf"),
        ("s3://bucket/m.gguf?versionId=1", "s3://bucket/m.gguf"),
        ("hf://org/repo@v1/m.gguf", "hf://org/repo@v1/m.gguf"),
        ("hf://org@home/repo", "hf://org@home/repo"),
        ("folder/m.gguf", "folder/m.gguf"),
        ("ollama:llama3.2", "ollama:llama3.2"),
        ("https:file?x=y", "https:file?x=y"),
    ],
)
def test_shown(path, expected):
    assert str(shown(Path(path))) == expected


def test_a_folder_named_like_a_url_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("http:/user@host")
    path.mkdir(parents=True)
    assert shown(path) == locate(path) == path
