"""Models in a bucket, of a server that speaks S3: the same as local ones, by ranges."""

from __future__ import annotations

import os

import pytest

import truebits as tb
from running import run
from truebits import data
from truebits.errors import MissingExtra
from truebits.files import remote
from truebits.files.transport import RemoteChanged, RemoteError

boto3 = pytest.importorskip("boto3")
pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")

URL = "s3://models/folder/model.gguf"


@pytest.fixture(scope="module")
def bucket():
    """Give a function that puts a file into a bucket; the environment says where it is."""
    serving = server.ThreadedMotoServer(port=0, verbose=False)
    serving.start()
    _, port = serving.get_host_and_port()
    before = dict(os.environ)
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    yield lambda content: client.put_object(Bucket="models", Key="folder/model.gguf", Body=content)
    os.environ.clear()
    os.environ |= before
    serving.stop()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(remote.SETTINGS, "cache", tmp_path / "cache")


def test_a_model_of_a_bucket(bucket):
    bucket(data.MODEL.read_bytes())
    got, expected = tb.scan(URL), tb.scan(data.MODEL)
    assert got.model.is_remote
    assert got.tensors == expected.tensors
    assert tb.scan(tb.open(URL), "norm").tensors == tb.scan(data.MODEL, "norm").tensors


def test_only_what_is_selected_comes(bucket, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_BYTES", 1 << 14)
    monkeypatch.setattr(remote, "GAP", 0)
    bucket(data.MODEL.read_bytes())
    model = tb.open(URL)
    tb.scan(model, "output_norm")
    there = sum(stop - start for start, stop in remote.PARTIALS[model.parts[0].path].there)
    assert there <= (1 << 14) + 512


def test_an_object_that_changes_is_never_mixed(bucket, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_BYTES", 1 << 14)
    content = bytearray(data.MODEL.read_bytes())
    bucket(bytes(content))
    model = tb.open(URL)
    content[-1] ^= 1
    bucket(bytes(content))
    with pytest.raises(RemoteChanged, match="has changed in the store"):
        tb.scan(model)
    before = remote.PARTIALS[model.parts[0].path].there
    assert before == [(0, 1 << 14)]
    assert tb.scan(tb.open(URL))


def test_what_is_not_there(bucket):
    for url in ("s3://models/folder/other.gguf", "s3://nobody/model.gguf"):
        with pytest.raises(RemoteError, match="is not there"):
            tb.open(url)


def test_without_s3fs(monkeypatch):
    def refuse(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(MissingExtra, match=r"pip install 'truebits\[s3\]'"):
        tb.open("s3://models/model.gguf")


def test_on_the_command_line_and_in_a_survey(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("TRUEBITS_CACHE", str(tmp_path / "other"))
    bucket(data.MODEL.read_bytes())
    done = run("scan", URL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("truebits byte model · llama")
    found = tb.survey(URL, out=tmp_path / "out")
    assert (found.models, found.failed) == (1, 0)
