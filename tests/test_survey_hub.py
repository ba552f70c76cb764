"""Models of the hub in a survey: organizations, repositories, what cannot be read, and what is asked again."""

from __future__ import annotations

import json

import pytest

import truebits as tb
from file_server import COMMIT, repository, serving
from safetensors_bytes import safetensors
from truebits import data
from truebits.errors import UsageError
from truebits.files import remote
from truebits.files.transport import RemoteError
from truebits.surveying.sources import sources

pq = pytest.importorskip("pyarrow.parquet")

OTHER = "d" * 40
WEIGHTS = safetensors({"a": ("F32", (2,), bytes(8))})
LIST = "/api/models?author=org&full=true&limit=1000"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_HOME", "HF_TOKEN_PATH", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(remote.SETTINGS, "cache", tmp_path / "cache")
    monkeypatch.setattr("truebits.files.transport.BACKOFF", 0.001)


@pytest.fixture
def hub(monkeypatch):
    """Serve an organization of four repositories on two pages, as the hub does."""
    model = data.MODEL_Q8_0.read_bytes()
    contents = {
        "org/both": {"model.safetensors": WEIGHTS, "a.gguf": model, "sub/b.gguf": model, "README.md": b"x"},
        "org/none": {"README.md": b"x"},
        "org/split": {"x-00001-of-00002.gguf": model, "x-00002-of-00002.gguf": model},
        "org/gone": {"gone.gguf": model},
    }
    files, listed = {}, []
    for name, own in contents.items():
        files |= repository(name, own)
        files |= {f"/api/models/{name}/revision/{COMMIT}": files[f"/api/models/{name}/revision/main"]}
        listed.append({"id": name, "sha": COMMIT, "siblings": [{"rfilename": one} for one in own]})
    del files[f"/org/gone/resolve/{COMMIT}/gone.gguf"]
    hostile = [
        {"id": "org/../../x", "sha": COMMIT, "siblings": []},
        {"id": 5},
        7,
        {"id": "org/x", "sha": "1", "siblings": []},
    ]
    with serving(files) as server:
        server.files[LIST] = json.dumps(listed[:2]).encode()
        server.files["/api/models?cursor=2"] = json.dumps([*listed[2:], *hostile]).encode()
        server.links[LIST] = {"Link": f'<{server.url}/api/models?cursor=2>; rel="next"'}
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_an_organization(hub):
    got = {source.name.removeprefix("hf://org/"): source for source in sources(["hf://org"])}
    assert list(got) == [
        "both",
        "both/a.gguf",
        "both/sub/b.gguf",
        "gone/gone.gguf",
        "none",
        "split/x-00001-of-00002.gguf",
    ]
    assert {source.state for source in got.values()} == {COMMIT}
    assert got["both/a.gguf"].opens == f"hf://org/both@{COMMIT}/a.gguf"
    assert got["none"].problem == "the repository has no GGUF or safetensors file"
    assert len(hub.asked) == 2


def test_a_survey_of_it(hub, tmp_path):
    found = tb.survey("hf://org", out=tmp_path / "out")
    assert (found.models, found.failed) == (6, 3)
    rows = {row["source"]: row for row in pq.read_table(tmp_path / "out/models.parquet").to_pylist()}
    assert {row["publisher"] for row in rows.values()} == {"org"}
    assert "is not there" in rows["hf://org/gone/gone.gguf"]["error"]
    assert rows["hf://org/both"]["format"] == "safetensors"
    asked = [path for path, _, _ in hub.asked]
    assert asked.count(f"/api/models/org/both/revision/{COMMIT}") == 1, "a GGUF at a commit needs no list of files"
    before = len(hub.asked)
    tb.survey("hf://org", out=tmp_path / "out")
    assert len(hub.asked) == before + 2, "only what there is"


def test_a_new_commit_is_read_again(hub, tmp_path):
    tb.survey("hf://org/both/a.gguf", out=tmp_path / "out")
    answer = json.loads(hub.files["/api/models/org/both/revision/main"])
    hub.files["/api/models/org/both/revision/main"] = json.dumps({**answer, "sha": OTHER}).encode()
    hub.files[f"/org/both/resolve/{OTHER}/a.gguf"] = data.MODEL.read_bytes()
    tb.survey("hf://org/both/a.gguf", out=tmp_path / "out")
    (row,) = pq.read_table(tmp_path / "out/models.parquet").to_pylist()
    assert (row["source"], row["state"], row["stored"]) == ("hf://org/both/a.gguf", OTHER, "F32")


def test_a_hub_that_is_away_costs_no_row(hub, tmp_path):
    tb.survey("hf://org/both/a.gguf", out=tmp_path / "out")
    del hub.files["/api/models/org/both/revision/main"]
    found = tb.survey("hf://org/both/a.gguf", out=tmp_path / "out", retry=True)
    assert (found.models, found.failed) == (1, 0)


def test_repositories_and_what_cannot_be_read(hub, tmp_path):
    names = ["hf://org/both", "hf://org/none", "hf://org/nobody", "hf://org/both/c.gguf", "hf://org/split@v1"]
    tb.survey(names, out=tmp_path / "out")
    got = {row["source"]: row["error"] for row in pq.read_table(tmp_path / "out/models.parquet").to_pylist()}
    assert {name for name, error in got.items() if error is None} == {
        "hf://org/both",
        "hf://org/both/a.gguf",
        "hf://org/both/sub/b.gguf",
    }
    assert "is not there" in got["hf://org/nobody"]
    assert "which has: model.safetensors" in got["hf://org/both/c.gguf"]


@pytest.mark.parametrize(("fault", "words"), [("gated", "HF_TOKEN"), ("forbidden", "gated or private")])
def test_gated_repositories(hub, tmp_path, fault, words):
    hub.fault = fault
    found = tb.survey("hf://org/both", out=tmp_path / "out")
    assert found.failed == 1
    assert words in found.problems[0]["examples"][0]["error"]
    with pytest.raises(RemoteError, match=words):
        tb.survey("hf://org", out=tmp_path / "out")


def test_a_file_at_a_server_by_its_etag(hub, tmp_path):
    hub.files["/m/model.gguf"] = data.MODEL.read_bytes()
    url = f"{hub.url}/m/model.gguf"
    tb.survey(f"{url}?token=secret", out=tmp_path / "out")
    sent = hub.sent
    tb.survey(f"{url}?token=secret", out=tmp_path / "out")
    assert hub.sent == sent + 1
    hub.etag = '"two"'
    tb.survey(f"{url}?token=secret", out=tmp_path / "out")
    (row,) = pq.read_table(tmp_path / "out/models.parquet").to_pylist()
    assert row["source"] == url
    assert '"two"' in row["state"]


@pytest.mark.parametrize(
    ("answer", "link", "words"),
    [
        (b'{"error": 1}', "", "no list of repositories"),
        (b"[[[", "", "is no JSON"),
        (b"[]", '<http://elsewhere.example/api/models?cursor=2>; rel="next"', "the next page is elsewhere"),
    ],
)
def test_hostile_lists(hub, answer, link, words):
    hub.files[LIST], hub.links[LIST] = answer, {"Link": link}
    with pytest.raises(RemoteError, match=words):
        sources(["hf://org"])


def test_pages_without_end(hub, monkeypatch):
    monkeypatch.setattr("truebits.files.hub.MOST_PAGES", 3)
    hub.links[LIST] = {"Link": f'<{hub.url}{LIST}>; rel="next"'}
    with pytest.raises(RemoteError, match="without end"):
        sources(["hf://org"])


@pytest.mark.parametrize("name", ["hf://..", "hf://a b", "hf://"])
def test_names_of_nobody(hub, name):
    with pytest.raises((UsageError, RemoteError)):
        sources([name])
    assert hub.asked == []


def test_a_repository_of_10_000_files(hub):
    names = [f"folder{number}/model-{number}.gguf" for number in range(10_000)]
    hub.files |= repository("org/many", {}, names)
    got = sources(["hf://org/many"])
    assert len(got) == 10_000
    assert {source.state for source in got} == {COMMIT}
