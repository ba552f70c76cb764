"""A file mapped once, and what happens where somebody writes to it."""

import os
from pathlib import Path

import numpy as np
import pytest

from gguf_bytes import STRING, key_value, named_tensors, string
from truebits.files.mapping import REMOTE, FileChanged, Identity, MappedFile, map_file
from truebits.files.model import open_model

NAMES = ("token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.1.attn_norm.weight")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(named_tensors(NAMES, [key_value(b"general.architecture", STRING, string(b"llama"))]))
    return path


def test_map_gives_the_file(path):
    (part,) = open_model(path).parts
    with part.map() as file:
        assert file.data[:] == path.read_bytes()
        file.check()


def test_file_grew_between_open_and_map(path):
    (part,) = open_model(path).parts
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(FileChanged):
        part.map()


def test_file_of_the_same_size_was_written_between_open_and_map(path):
    (part,) = open_model(path).parts
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(FileChanged):
        part.map()


def test_file_was_replaced_between_open_and_map(path, tmp_path):
    (part,) = open_model(path).parts
    status = path.stat()
    other = tmp_path / "other.gguf"
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    with pytest.raises(FileChanged) as caught:
        part.map()
    assert str(path) in str(caught.value)


def test_file_written_while_mapped(path):
    with MappedFile(path) as file:
        file.check()
        with path.open("ab") as other:
            other.write(b"\0")
        with pytest.raises(FileChanged):
            file.check()


def test_file_gone_between_open_and_map(path):
    (part,) = open_model(path).parts
    path.unlink()
    with pytest.raises(FileNotFoundError):
        part.map()


@pytest.mark.parametrize("size", [0, 1, 4096, 4097])
def test_the_bytes_of_a_file(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (size // 256 + 1))
    os.truncate(path, size)
    with MappedFile(path) as file:
        assert (file.identity.size, file.known) == (size, size)
        file.expect(0, size)
        file.expect_all([(0, size)])
        file.forget(0, size + 9999)
        assert file.data[:] == path.read_bytes()
        file.check()


def test_a_mapping_stays_for_its_arrays(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(16)))
    with MappedFile(path) as file:
        got = np.frombuffer(file.data, np.uint8)
    assert got.tolist() == list(range(16))
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.check()


def test_a_file_that_is_refused_is_closed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileChanged, match="has changed since"):
        MappedFile(path, Identity.of(path.stat())._replace(size=2))
    with pytest.raises(IsADirectoryError):
        MappedFile(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_stands_for_a_remote_file_is_mapped_in_its_way(tmp_path, monkeypatch):
    class Other(MappedFile):
        pass

    path = tmp_path / "file"
    path.write_bytes(b"x")
    assert type(map_file(path)) is MappedFile
    monkeypatch.setitem(REMOTE, path, Other)
    assert type(map_file(path)) is Other
