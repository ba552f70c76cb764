"""What was named on a command line, and the models that it stands for."""

import pytest

from truebits.errors import UsageError
from truebits.files.collect import collect

TREE = (
    "a.gguf",
    "notes.txt",
    "b-00001-of-00002.gguf",
    "b-00002-of-00002.gguf",
    "c/.hidden.gguf",
    "c/deep/d.gguf",
    "hf/config.json",
    "hf/model.gguf",
    "st/x.safetensors",
    "empty/README.md",
    "models--o--r/refs/main",
    ".cache/e.gguf",
)


@pytest.fixture
def tree(tmp_path):
    for name in TREE:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], []),
        (["a.gguf"], ["a.gguf"]),
        (["absent.gguf"], ["absent.gguf"]),
        (["a.gguf", "c/deep/d.gguf", "a.gguf"], ["a.gguf", "c/deep/d.gguf"]),
        (["c"], ["c/deep/d.gguf"]),
        (["hf"], ["hf"]),
        (["st"], ["st"]),
        (["empty"], ["empty"]),
        (["models--o--r"], ["models--o--r"]),
        (["*.gguf"], ["a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"]),
        (["**/d.gguf", "[ac]*"], ["c/deep/d.gguf", "a.gguf"]),
        (["."], ["a.gguf", "b-00001-of-00002.gguf", "c/deep/d.gguf", "hf", "models--o--r", "st"]),
    ],
)
def test_collect(tree, monkeypatch, places, expected):
    monkeypatch.chdir(tree)
    assert list(map(str, collect(places))) == expected
    assert [path.relative_to(tree) for path in collect(tree / place for place in places)] == collect(places)


def test_a_pattern_that_matches_nothing(tree):
    with pytest.raises(UsageError, match=r"\*\.onnx matches no file"):
        collect([tree / "*.onnx"])


def test_a_name_with_the_signs_of_a_pattern_is_a_name(tree):
    path = tree / "model[1]*.gguf"
    path.touch()
    assert collect([path]) == [path]
    assert list(map(str, collect(["https://host/a*.gguf"]))) == ["https:/host/a*.gguf"]
