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
    "st/more/y.gguf",
    "both/config.json",
    "both/model.safetensors",
    "both/model.gguf",
    "both/1_Pooling/config.json",
    "loras/a.safetensors",
    "loras/b.safetensors",
    "loras/c.gguf",
    "shards/x-00001-of-00002.safetensors",
    "shards/x-00002-of-00002.safetensors",
    "named/x.safetensors",
    "named/y.safetensors",
    "named/model.safetensors.index.json",
    "pickled/config.json",
    "pickled/pytorch_model.bin",
    "empty/README.md",
    "models--o--r/refs/main",
    ".cache/e.gguf",
)

ALL = [
    *("a.gguf", "b-00001-of-00002.gguf", "both", "both/model.gguf", "c/deep/d.gguf", "hf/model.gguf"),
    *("loras/a.safetensors", "loras/b.safetensors", "loras/c.gguf", "models--o--r", "named", "pickled"),
    *("shards", "st", "st/more/y.gguf"),
]


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
        (["hf"], ["hf/model.gguf"]),
        (["st"], ["st", "st/more/y.gguf"]),
        (["both"], ["both", "both/model.gguf"]),
        (["loras"], ["loras/a.safetensors", "loras/b.safetensors", "loras/c.gguf"]),
        (["shards"], ["shards"]),
        (["named"], ["named"]),
        (["pickled"], ["pickled"]),
        (["empty"], ["empty"]),
        (["models--o--r"], ["models--o--r"]),
        (["*.gguf"], ["a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"]),
        (["**/d.gguf", "[ac]*"], ["c/deep/d.gguf", "a.gguf"]),
        (["."], ALL),
    ],
)
def test_collect(tree, monkeypatch, places, expected):
    monkeypatch.chdir(tree)
    assert list(map(str, collect(places))) == expected
    assert [path.relative_to(tree) for path in collect(tree / place for place in places)] == collect(places)


def test_a_link_to_the_folder_that_it_is_in(tree):
    (tree / "c/deep/up").symlink_to(tree)
    (tree / "c/deep/here").symlink_to(".")
    (tree / "elsewhere").symlink_to(tree / "c/deep")
    assert collect([tree / "c"]) == [tree / "c/deep/d.gguf"]
    assert collect([tree / "elsewhere"]) == [tree / "elsewhere/d.gguf"]


def test_a_list(tree, monkeypatch):
    monkeypatch.chdir(tree)
    (tree / "names").write_text("# all\n\n  c \nabsent.gguf\n@names\n")
    assert list(map(str, collect(["@names", "a.gguf"]))) == ["c/deep/d.gguf", "absent.gguf", "@names", "a.gguf"]
    (tree / "@odd.gguf").touch()
    assert list(map(str, collect(["@odd.gguf"]))) == ["@odd.gguf"]
    (tree / "binary").write_bytes(b"\xff\xfe\x00")
    for name, words in (("@absent", "No such file"), ("@binary", "it is no text"), ("@c", "directory")):
        with pytest.raises(UsageError, match=words):
            collect([name])


def test_a_pattern_that_matches_nothing(tree):
    with pytest.raises(UsageError, match=r"\*\.onnx matches no file"):
        collect([tree / "*.onnx"])


def test_a_name_with_the_signs_of_a_pattern_is_a_name(tree):
    path = tree / "model[1]*.gguf"
    path.touch()
    assert collect([path]) == [path]
    assert list(map(str, collect(["https://host/a*.gguf"]))) == ["https:/host/a*.gguf"]
