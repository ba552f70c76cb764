"""The hub's names and answers, without a hub."""

import json

import pytest

from answers import Answers
from truebits.errors import UsageError
from truebits.files import hub
from truebits.files.hub import Repository, is_plain, wanted_files
from truebits.files.transport import RemoteError

pytest.importorskip("urllib3")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """No token and no settings but those of the test."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def answer(*files, sha=COMMIT):
    return 200, {}, json.dumps({"sha": sha, "siblings": [{"rfilename": file} for file in files]}).encode()


SHARDS = ("q-00001-of-00002.gguf", "q-00002-of-00002.gguf")


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("o/r", ["m.gguf", "README.md"], (("m.gguf",), "m.gguf")),
        ("o/r", SHARDS, (SHARDS, SHARDS[0])),
        ("o/r", ["sub/m.gguf"], (("sub/m.gguf",), "sub/m.gguf")),
        ("o/r", ["model.safetensors", "config.json", "m.gguf"], (("model.safetensors", "config.json"), "")),
        ("o/r", ["sub/model.safetensors", "m.gguf"], (("m.gguf",), "m.gguf")),
        ("o/r/m.gguf", ["m.gguf", "other.gguf"], (("m.gguf",), "m.gguf")),
        ("o/r@v1/sub/m.gguf", ["sub/m.gguf"], (("sub/m.gguf",), "sub/m.gguf")),
        ("o/r/" + SHARDS[1], [*SHARDS, "p-00001-of-00002.gguf"], (SHARDS, SHARDS[1])),
    ],
)
def test_the_files_that_a_name_means(name, files, expected):
    answers = Answers(answer(*files))
    repository, *got = wanted_files(answers, name)
    assert tuple(got) == expected
    assert repository == ("o/r", COMMIT, tuple(files))
    revision = "v1" if "@" in name else "main"
    assert answers.asked[0][0] == f"https://huggingface.co/api/models/o/r/revision/{revision}"


@pytest.mark.parametrize(
    ("name", "files", "error", "words"),
    [
        ("o", [], UsageError, "is no name of the hub"),
        ("", [], UsageError, "is no name of the hub"),
        ("../r", [], UsageError, "is no name of the hub"),
        ("o/r/../x", [], UsageError, "is no name of the hub"),
        ("o/r@", [], UsageError, "is no name of the hub"),
        ("o/r", ["a.gguf", "b.gguf"], UsageError, r"has 2 GGUF models: name one, .*a\.gguf, b\.gguf"),
        ("o/r", ["README.md"], UsageError, "has no model file"),
        ("o/r/absent.gguf", ["a.gguf"], RemoteError, r"is not in the repository, which has: a\.gguf"),
    ],
)
def test_names_that_mean_no_model(name, files, error, words):
    with pytest.raises(error, match=words):
        wanted_files(Answers(answer(*files)), name)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"sha": "main", "siblings": []}',
        b'{"sha": "%s"}' % COMMIT.encode(),
        b'{"sha": "%s", "siblings": {}}' % COMMIT.encode(),
        b"[" * 100_000,
        b'"\xff"',
    ],
)
def test_answers_that_make_no_sense(text):
    with pytest.raises(RemoteError, match="the answer"):
        wanted_files(Answers((200, {}, text)), "o/r")


def test_an_answer_without_end(monkeypatch):
    monkeypatch.setattr(hub, "LONGEST_ANSWER", 99)
    with pytest.raises(RemoteError, match="more than 99 bytes"):
        wanted_files(Answers(answer(*["a" * 50] * 9)), "o/r")


def test_files_of_a_repository_lead_nowhere_else():
    hostile = ["../a.gguf", "/etc/a.gguf", ".git/a.gguf", "a/../../b.gguf", "", "a\0.gguf", "a\\b.gguf"]
    listed = json.dumps({"sha": COMMIT, "siblings": [{"rfilename": one} for one in [*hostile, "m.gguf", 5]] + [7]})
    repository, files, _ = wanted_files(Answers((200, {}, listed.encode())), "o/r")
    assert repository.files == files == ("m.gguf",)
    assert not any(map(is_plain, hostile))


def test_a_url_is_quoted(monkeypatch):
    repository = Repository("o/r", COMMIT, ())
    assert repository.url("a b/c#d.gguf") == f"https://huggingface.co/o/r/resolve/{COMMIT}/a%20b/c%23d.gguf"
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example/")
    assert repository.url("m") == f"http://mirror.example/o/r/resolve/{COMMIT}/m"


def test_the_token_that_is_set_or_kept(tmp_path, monkeypatch):
    assert hub.headers() == {}
    kept = tmp_path / ".cache/huggingface/token"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept\n")
    assert hub.headers() == {"Authorization": "Bearer kept"}
    monkeypatch.setenv("HF_TOKEN", "set")
    assert hub.headers() == {"Authorization": "Bearer set"}
    monkeypatch.setenv("HF_TOKEN", "two\nlines")
    assert hub.headers() == {}
