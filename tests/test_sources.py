"""What was named for a survey, and what tells that a model is still the same."""

import os
from pathlib import Path

import pytest

from gguf_bytes import named_tensors
from truebits.errors import UsageError
from truebits.files import hub
from truebits.surveying import sources as sources_module
from truebits.surveying.sources import Source, sources, state_of

COMMIT = "0" * 40


@pytest.fixture
def tree(tmp_path):
    for name in ("a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf", "hf/config.json", "hf/x.safetensors"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(named_tensors("a"))
    return tmp_path


def test_files_and_folders_by_name_and_once(tree, monkeypatch):
    monkeypatch.chdir(tree)
    got = sources(["hf", "a.gguf", "a.gguf", "*.gguf", "absent.gguf"])
    assert [one.name for one in got] == [
        "a.gguf",
        "absent.gguf",
        "b-00001-of-00002.gguf",
        "b-00002-of-00002.gguf",
        "hf",
    ]
    assert {one.opens == one.name for one in got} == {True}
    assert {(one.state, one.problem) for one in got} == {(None, None)}
    with pytest.raises(UsageError, match="matches no file"):
        sources(["*.onnx"])


def test_secrets_of_a_url_are_not_its_name():
    (got,) = sources(["https://user:secret@host/m.gguf?token=x"])
    assert got.name == "https://host/m.gguf"
    assert "secret" in got.opens


REPOSITORIES = {
    "o/gguf": hub.Repository("o/gguf", COMMIT, ("a.gguf", "b.gguf")),
    "o/hf": hub.Repository("o/hf", COMMIT, ("model.safetensors", "config.json")),
    "o/data": hub.Repository("o/data", COMMIT, ("README.md",)),
}


@pytest.fixture
def asked(monkeypatch):
    pytest.importorskip("urllib3")

    def named(pool, name):
        if name.startswith("o/gone"):
            raise OSError("is not there")
        repository, _, file = name.removesuffix("@main").partition("/")[2].partition("/")
        return REPOSITORIES[f"o/{repository}"], file

    monkeypatch.setattr(hub, "named", named)
    monkeypatch.setattr(hub, "repositories", lambda pool, owner: iter(REPOSITORIES.values()))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf://o/gguf", ["hf://o/gguf/a.gguf", "hf://o/gguf/b.gguf"]),
        ("hf://o/gguf/b.gguf", ["hf://o/gguf/b.gguf"]),
        ("hf://o/hf/", ["hf://o/hf"]),
        ("hf://o/data", ["hf://o/data"]),
        ("hf://o/gone", ["hf://o/gone"]),
        ("hf://o", ["hf://o/data", "hf://o/gguf/a.gguf", "hf://o/gguf/b.gguf", "hf://o/hf"]),
    ],
)
def test_models_of_the_hub(asked, name, expected):
    got = sources([name])
    assert [one.name for one in got] == expected
    for one in got:
        if one.name == "hf://o/gone":
            assert one.problem == "is not there"
        elif one.name == "hf://o/data":
            assert one.problem == "the repository has no GGUF or safetensors file"
        else:
            assert (one.state, one.problem) == (COMMIT, None)
            assert f"@{COMMIT}" in one.opens


def test_a_state_is_of_all_files_of_a_model(tree, monkeypatch):
    monkeypatch.chdir(tree)
    before = {name: state_of(Source(name, name)) for name in ("a.gguf", "b-00001-of-00002.gguf", "hf")}
    assert {name: state.count(":") for name, state in before.items()} == {
        "a.gguf": 1,
        "b-00001-of-00002.gguf": 2,
        "hf": 2,
    }
    os.utime("b-00002-of-00002.gguf", ns=(0, 1))
    Path("hf/README.md").write_text("no part of what is scanned")
    Path("hf/old.json").mkdir()
    assert state_of(Source("hf", "hf")) == before["hf"]
    os.utime("hf/x.safetensors", ns=(0, 1))
    after = {name: state_of(Source(name, name)) for name in before}
    assert [name for name in before if before[name] == after[name]] == ["a.gguf"]
    with pytest.raises(FileNotFoundError):
        state_of(Source("x", "absent.gguf"))


def test_a_state_that_is_known_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(sources_module, "locate", lambda path: pytest.fail("asked"))
    assert state_of(Source("hf://o/r", "hf://o/r", COMMIT)) == COMMIT
