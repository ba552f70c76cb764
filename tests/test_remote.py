"""Models behind a URL: right answers, or one clear error, from a server that does all it should not."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import shipped_checkpoint
import truebits as tb
from file_server import COMMIT, repository, serving
from gguf_bytes import ARRAY, STRING, U16, array, key_value, scalar, string, tensor
from gguf_bytes import gguf as gguf_bytes
from safetensors_bytes import safetensors
from truebits import data
from truebits.cli.app import app
from truebits.errors import ModelFileError, UsageError
from truebits.files import remote
from truebits.files.model import open_model
from truebits.files.transport import FsspecFile, RemoteChanged, RemoteError, public
from truebits.precision.scan import scan

MATRIX = 1 << 22


def a_gguf(keys: list[bytes] | None = None) -> bytes:
    """Return a model of 8 MiB: norms before, between and after two matrices of F16."""
    random = np.random.default_rng(1)
    norm = random.standard_normal(1024).astype("<f4")
    matrix = random.standard_normal(MATRIX // 2).astype("<f2")
    infos, at = [], 0
    pieces = [(b"blk.0.attn_norm.weight", norm), (b"blk.0.attn_q.weight", matrix), (b"blk.1.attn_norm.weight", norm)]
    pieces += [(b"blk.1.attn_q.weight", matrix), (b"output_norm.weight", norm)]
    for name, values in pieces:
        infos.append(tensor(name, (1024, values.size // 1024), 0 if values.dtype.itemsize == 4 else 1, at))
        at += values.nbytes
    return gguf_bytes(keys or [], infos, b"".join(values.tobytes() for _, values in pieces))


GGUF = a_gguf()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give a cache of our own; the settings are as they were before."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "HF_TOKEN_PATH", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(remote.SETTINGS, "cache", tmp_path / "cache")
    for name in ("connections", "cache_bytes", "limit", "dry_run"):
        monkeypatch.setattr(remote.SETTINGS, name, getattr(remote.RemoteSettings(), name))
    monkeypatch.setattr("truebits.files.transport.BACKOFF", 0.001)
    return tmp_path / "cache"


def low_bits(model, select=None) -> dict[str, int]:
    return {name: one.low_zero(8) for name, one in scan(model, select).tensors.items()}


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "local.gguf"
    path.write_bytes(GGUF)
    return path


@pytest.mark.parametrize("fault", ["", "busy", "closes"])
def test_the_same_as_a_local_file(local, fault):
    with serving({"/m/model.gguf": GGUF}, fault) as server:
        model = open_model(f"{server.url}/m/model.gguf")
        assert model.is_remote
        assert [one[:7] for one in model.tensors] == [one[:7] for one in open_model(local).tensors]
        assert low_bits(model) == low_bits(local)


def test_only_what_is_selected_is_fetched(local):
    with serving({"/model.gguf": GGUF}) as server:
        model = open_model(f"{server.url}/model.gguf")
        before = server.sent
        assert before <= 1 << 20
        assert low_bits(model, "norm") == low_bits(local, "norm")
        assert server.sent - before <= 2 * 4096
        assert low_bits(model, "norm")
        asked, before = len(server.asked), server.sent
        assert low_bits(open_model(f"{server.url}/model.gguf"), "norm")
        assert len(server.asked) == asked + 1
        assert server.sent == before + 1, "the second time the server is asked only whether the file is the same"


def test_a_long_header_grows(cache):
    words = array(STRING, [string(b"token %d" % i) for i in range(200_000)])
    data = a_gguf([key_value(b"words", ARRAY, words)])
    with serving({"/model.gguf": data}) as server:
        model = open_model(f"{server.url}/model.gguf")
        assert len(model.tensors) == 5
        assert len(model.parts[0].elements("words")) == 200_000
        assert len(server.asked) == 2
        assert server.sent < 5 << 20


def test_100_gb_with_less_than_1_percent_fetched(tmp_path):
    """80 layers with norms of 8,192 values in F32, and matrices of which nobody reads a byte: a file with holes."""
    infos, norms, at = [], [], 0
    for i in range(80):
        norms.append(at)
        infos.append(tensor(b"blk.%d.attn_norm.weight" % i, (8192,), 0, at))
        infos.append(tensor(b"blk.%d.ffn.weight" % i, (8192, 76_300), 1, at + 32768))
        at += 32768 + 8192 * 76_300 * 2
    path = tmp_path / "big.gguf"
    header = gguf_bytes([], infos)
    path.write_bytes(header)
    bits = (np.random.default_rng(2).standard_normal(8192).astype("<f4").view("<u4") & 0xFFFF0000).tobytes()
    with path.open("r+b") as file:
        file.truncate(len(header) + at)
        for start in norms:
            file.seek(len(header) + start)
            file.write(bits)
    assert path.stat().st_size > 100e9
    with serving({"/big.gguf": path}) as server:
        model = open_model(f"{server.url}/big.gguf")
        report = scan(model, "norm")
        assert server.sent < path.stat().st_size / 100
        assert server.sent < 20 << 20
        assert all(one.low_zero(16) == 8192 for one in report.tensors.values())
        assert len(report.tensors) == 80
        stored = sum(file.stat().st_blocks * 512 for file in (tmp_path / "cache").glob("*/*"))
        assert stored < 20 << 20


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no ranges", "does not send ranges"),
        ("another range", "the server says it sends"),
        ("no Content-Range", "the server says it sends nothing"),
        ("gzip", "sends gzip"),
        ("short", "is said to be"),
        ("forever", "redirects without end"),
        ("forbidden", "gated or private"),
        ("gated", "HF_TOKEN"),
        ("closes at once", "again and again"),
    ],
)
def test_servers_that_do_not_do_as_they_should(fault, words):
    with serving({"/model.gguf": GGUF}, fault) as server:
        with pytest.raises(RemoteError, match=words) as caught:
            open_model(f"{server.url}/model.gguf?token=secret")
        assert "secret" not in str(caught.value)
        assert len(server.asked) < 40


def test_a_server_that_lies_about_the_size():
    with serving({"/model.gguf": GGUF}, "lies about the size") as server:
        model = open_model(f"{server.url}/model.gguf")
        assert [odd.error.code for odd in model.parts[0].findings] == ["E_UNEXPLAINED"]
        server.fault = ""
        with pytest.raises(RemoteChanged, match="has changed at the server"):
            low_bits(model)


def test_a_file_that_changes_is_never_mixed():
    with serving({"/model.gguf": GGUF}) as server:
        model = open_model(f"{server.url}/model.gguf")
        server.etag = '"two"'
        with pytest.raises(RemoteChanged, match=r'"two"\) now'):
            low_bits(model)
        changed = bytearray(GGUF)
        changed[-1] ^= 1
        server.files["/model.gguf"] = bytes(changed)
        assert low_bits(open_model(f"{server.url}/model.gguf"))


def test_ctrl_c_waits_for_no_server(tmp_path):
    with serving({"/model.gguf": GGUF}, "hangs") as server:
        environment = {**os.environ, "TRUEBITS_CACHE": str(tmp_path / "other")}
        command = [sys.executable, "-m", "truebits", "scan", f"{server.url}/model.gguf"]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert server.hanging.wait(60)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert time.monotonic() - started < 10
    assert process.returncode == 130
    assert "interrupted" in told


def test_retry_after_is_not_heeded_for_ever(monkeypatch):
    monkeypatch.setattr("truebits.files.transport.LONGEST_WAIT", 0.05)
    with serving({"/model.gguf": GGUF}, "waits for ever") as server:
        assert open_model(f"{server.url}/model.gguf").tensors


def test_nothing_there_and_nobody_there():
    with serving({}) as server, pytest.raises(RemoteError, match="is not there"):
        open_model(f"{server.url}/model.gguf")
    with pytest.raises(RemoteError, match="cannot be reached"):
        open_model(f"{server.url}/model.gguf")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "http://127.0.0.1:1/a/..", "http://127.0.0.1:1/%2e%2e%2fx", "ftp://h/x.gguf"]
)
def test_urls_that_name_no_file(url, cache):
    with pytest.raises(UsageError):
        open_model(url)
    assert not cache.exists()


def test_hostile_headers_behind_http(tmp_path):
    data = [GGUF[:100], gguf_bytes([key_value(b"", U16, b"\0\0")]), gguf_bytes(n_tensors=2**63), b"GGUF" + bytes(60)]
    data += [b"<html>", b"{" * 1000, b"\x80\x04" + bytes(60), safetensors({"w": ("F32", (2**40,), bytes(4))})]
    with serving({f"/{i}.gguf": content for i, content in enumerate(data)}) as server:
        for i in range(len(data)):
            with pytest.raises(ModelFileError):
                open_model(f"{server.url}/{i}.gguf")


def test_shards(tmp_path):
    def shard(number: int) -> bytes:
        keys = [key_value(b"split.count", U16, scalar(U16, 2)), key_value(b"split.no", U16, scalar(U16, number))]
        return gguf_bytes(keys, [tensor(b"t%d" % number)], bytes(32))

    files = {f"/m/x-0000{i + 1}-of-00002.gguf": shard(i) for i in range(2)}
    with serving(files) as server:
        model = open_model(f"{server.url}/m/x-00002-of-00002.gguf")
        assert [one.name for one in model.tensors] == ["t0", "t1"]
        assert low_bits(model) == {"t0": 8, "t1": 8}


def test_the_limit_and_a_dry_run(monkeypatch):
    with serving({"/model.gguf": GGUF}) as server:
        model = open_model(f"{server.url}/model.gguf")
        monkeypatch.setattr(remote.SETTINGS, "limit", 1 << 20)
        with pytest.raises(UsageError, match="--fetch-limit"):
            low_bits(model)
        monkeypatch.setattr(remote.SETTINGS, "dry_run", True)
        before = server.sent
        with pytest.raises(remote.Planned, match=rf"would fetch [\d,]+ of {len(GGUF):,} bytes in \d+ requests"):
            low_bits(model)
        assert server.sent == before


def test_a_dry_run_of_all_blocks_counts_them(monkeypatch):
    with serving({"/q8.gguf": data.MODEL_Q8_0}) as server:
        model = open_model(f"{server.url}/q8.gguf")
        monkeypatch.setattr(remote.SETTINGS, "dry_run", True)
        for part in model.parts:
            remote.PARTIALS[part.path].there = [(0, model.tensors[0].offset)]
        with pytest.raises(remote.Planned) as caught:
            scan(model, blocks=True)
        got = int(str(caught.value).split()[2].replace(",", ""))
        assert got >= sum(one.nbytes for one in model.tensors)


def test_the_cache_is_bounded(cache, monkeypatch):
    monkeypatch.setattr(remote.SETTINGS, "cache_bytes", 3 << 20)
    with serving({f"/{i}.gguf": GGUF for i in range(6)}) as server:
        for i in range(6):
            open_model(f"{server.url}/{i}.gguf")
    assert 1 <= len(list(cache.iterdir())) <= 4


def test_damaged_records_are_fetched_anew(cache):
    with serving({"/model.gguf": GGUF}) as server:
        expected = low_bits(open_model(f"{server.url}/model.gguf"))
        for content in ("", "{}", "[[0, 99999999999]]", "[[-1, 5]]", "[" * 100_000, '[["a", 1]]'):
            (record,) = cache.glob("*/*.ranges")
            record.write_text(content)
            assert low_bits(open_model(f"{server.url}/model.gguf")) == expected


# --- the hub


@pytest.fixture
def hub(monkeypatch):
    """Give a function that serves a repository as the hub does, with a token set."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    def point(server):
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        return server

    return point


CHECKPOINT = {
    "model-00001-of-00002.safetensors": safetensors({"a": ("F32", (2,), bytes(8))}),
    "model-00002-of-00002.safetensors": safetensors({"b": ("BF16", (2,), bytes(4))}),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "config.json": b'{"model_type": "llama"}',
    "README.md": b"x",
}


@pytest.mark.parametrize("name", ["org/repo/model.gguf", "org/repo@v1/model.gguf", "org/repo@v1", "org/repo"])
def test_a_gguf_of_the_hub(hub, local, name):
    with serving(repository("org/repo", {"model.gguf": GGUF, "README.md": b"x"})) as server:
        hub(server)
        assert low_bits(open_model(f"hf://{name}"), "norm") == low_bits(local, "norm")
        assert {one[2] for one in server.asked} == {"Bearer hf_secret"}


def test_a_checkpoint_of_the_hub(hub):
    with serving(repository("org/repo", CHECKPOINT)) as server:
        model = open_model("hf://org/repo") if hub(server) else None
        assert [(one.name, one.part) for one in model.tensors] == [("a", 0), ("b", 1)]
        assert model.config == {"model_type": "llama"}
        assert low_bits(model) == {"a": 2, "b": 2}


def test_the_token_stays_at_its_host(hub):
    files = repository("org/repo", {"model.gguf": GGUF})
    with serving(files) as elsewhere, serving(files, "elsewhere", elsewhere.url) as server:
        hub(server)
        assert open_model("hf://org/repo").tensors
        assert {one[2] for one in server.asked} == {"Bearer hf_secret"}
        assert {one[2] for one in elsewhere.asked} == {""}
        asked = len(server.asked)
        assert low_bits(open_model("hf://org/repo"))
        assert len(server.asked) == asked + 2, "what is in the repository, and once where the file is"


@pytest.mark.parametrize(
    ("files", "name", "error", "words"),
    [
        ({"a.gguf": GGUF, "b.gguf": GGUF}, "org/repo", UsageError, "2 GGUF models: name one"),
        ({"README.md": b""}, "org/repo", UsageError, "has no model file"),
        ({"a.gguf": GGUF}, "org/repo/b.gguf", RemoteError, "which has: a.gguf"),
        ({"a.gguf": GGUF}, "org/other", RemoteError, "is not there"),
        ({"a.gguf": GGUF}, "org", UsageError, "no name of the hub"),
        ({"a.gguf": GGUF}, "org/repo/../../x.gguf", UsageError, "no name of the hub"),
    ],
)
def test_names_of_the_hub_that_lead_nowhere(hub, files, name, error, words):
    with serving(repository("org/repo", files)) as server:
        hub(server)
        with pytest.raises(error, match=words) as caught:
            open_model(f"hf://{name}")
        assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    "listed",
    [
        ["../../evil.gguf", "/etc/passwd.gguf", ".hidden.gguf", "a\0b.gguf", "\x1b[31m.gguf", "x/../y.gguf", 7, None],
        [f"{i}/../x.gguf" for i in range(10_000)],
    ],
)
def test_hostile_names_from_the_hub(hub, cache, listed):
    with serving(repository("org/repo", {}, listed)) as server:
        hub(server)
        with pytest.raises(UsageError, match="has no model file"):
            open_model("hf://org/repo")
    assert not cache.exists()


@pytest.mark.parametrize("answer", [b"{}", b"{[", b'{"sha": "..", "siblings": []}', b'{"a":' * 50_000, b'{"sha": 5}'])
def test_hostile_answers_of_the_hub(hub, answer):
    with serving({"/api/models/org/repo/revision/main": answer}) as server:
        hub(server)
        with pytest.raises(RemoteError, match="answer"):
            open_model("hf://org/repo")


# --- every verb that reads


def test_every_verb_says_the_same_of_a_url(hub, tmp_path, monkeypatch):
    """A reader that did not say what it reads would see zeros."""
    monkeypatch.setattr(remote, "FIRST_BYTES", 512)
    monkeypatch.setattr(remote, "GAP", 0)
    shipped_checkpoint.write(tmp_path / "hf")
    checkpoint = {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()}
    files = {"/q8.gguf": data.MODEL_Q8_0, "/full.gguf": data.MODEL, **repository("org/repo", checkpoint)}
    with serving(files) as server:
        hub(server)
        there = (f"{server.url}/q8.gguf", f"{server.url}/full.gguf", "hf://org/repo")
        here = (data.MODEL_Q8_0, data.MODEL, tmp_path / "hf")
        for verb in (
            lambda q8, full, hf: scan(q8, blocks=True).to_dict(),
            lambda q8, full, hf: scan(full).to_dict(),
            lambda q8, full, hf: scan(hf).to_dict(),
            lambda q8, full, hf: tb.diff(q8, full).to_dict(),
            lambda q8, full, hf: [tb.fingerprint(one).to_dict() for one in (q8, full, hf)],
            lambda q8, full, hf: tb.check(full).to_dict(),
            lambda q8, full, hf: tb.trace(q8, hf).to_dict(),
        ):
            shutil.rmtree(remote.SETTINGS.cache, ignore_errors=True)
            got, expected = (json.dumps(verb(*paths), default=str) for paths in (there, here))
            for far, near in zip(there, here, strict=True):
                got, expected = got.replace(str(far), "X"), expected.replace(str(near), "X")
            assert got == expected


def test_of_a_quantized_model_only_the_rest_is_fetched_unless_asked_for():
    with serving({"/q8.gguf": data.MODEL_Q8_0}) as server:
        model = open_model(f"{server.url}/q8.gguf")
        report = scan(model)
        assert {one.type for one in report.tensors.values()} == {"F32"}
        assert not report.blocks
        assert any("--blocks" in one.why for one in report.coverage.not_read)


def test_nothing_behind_a_url_is_rewritten(tmp_path):
    with serving({"/model.gguf": GGUF}) as server:
        for arguments in ({"in_place": True}, {"out": tmp_path / "out.gguf"}):
            with pytest.raises(UsageError, match="download it"):
                tb.truncate(f"{server.url}/model.gguf", bits=16, **arguments)
        with pytest.raises(UsageError, match="download it"):
            tb.dequantize(f"{server.url}/model.gguf", tmp_path / "out.gguf", to="f32")


# --- others


def test_fsspec():
    """Its memory stands for s3 and gs, which it reads in the same way."""
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/model.gguf", GGUF)
    file, got = FsspecFile("memory://model.gguf"), bytearray(100)
    file.fetch(50, 150, lambda at, piece: got.__setitem__(slice(at - 50, at - 50 + len(piece)), piece))
    assert bytes(got) == GGUF[50:150]
    assert file.known.size == len(GGUF)
    with pytest.raises(RemoteError, match="is not there"):
        FsspecFile("memory://other.gguf").fetch(0, 1, lambda at, piece: None)


def test_what_may_be_secret_in_a_url_is_not_told():
    with serving({"/model.gguf": GGUF}) as server:
        model = open_model(f"{server.url}/model.gguf?X-Amz-Signature=secret")
        assert str(model.path) == f"{server.url}/model.gguf"
        assert model.path.name == "model.gguf"
    assert public("https://user:pass@host:8/a/b.gguf?X-Amz-Signature=1#x") == "https://host:8/a/b.gguf"


def test_where_many_are_read_a_url_that_cannot_be_is_named_as_it_is(local):
    for verb in ("scan", "check"):
        done = CliRunner().invoke(app, [verb, "http://127.0.0.1:1/m.gguf", str(local)])
        assert done.exception.exit_code == 4
        assert "http://127.0.0.1:1/m.gguf: " in done.output


def test_on_the_command_line(tmp_path, local):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TRUEBITS_CACHE": str(tmp_path / "other")}
        command = [sys.executable, "-m", "truebits", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    with serving({"/model.gguf": GGUF}) as server:
        url = f"{server.url}/model.gguf"
        assert " · 4.2 M weights" in run("show", url).stdout
        got, expected = (json.loads(run("scan", one, "--json").stdout)["tensors"] for one in (url, str(local)))
        assert got == expected
        assert run("diff", url, str(local)).returncode == 0
    done = run("show", url)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert COMMIT not in done.stderr


EXPECTED_BEFORE = {"batches._words", "copy._view", "copy._copy_range", "dequantize._block_values"}
EXPECTED_BEFORE |= {"relaid.copied", "relaid.pieces", "relaid.write", "narrowest.own_words"}
"""Whose callers say what is read; of a remote model nothing is copied."""


def test_whoever_reads_a_file_says_so_before():
    """A hole of a remote file reads as zeros: so who looks at bytes calls `expect` or `expect_all`."""
    package, got = Path(tb.__file__).parent, set()
    for path in package.rglob("*.py"):
        if path.parent.name in ("files", "data"):
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            text = ast.unparse(function)
            if re.search(r"frombuffer\(\w+\.data\b|\b(file|source|left|right)\.data\[", text) and ".expect" not in text:
                got.add(f"{path.stem}.{function.name}")
    assert got <= EXPECTED_BEFORE
