"""The marker beside a file whose rewrite is unfinished."""

import os

import numpy as np
import pytest

from traced_pair import a_gguf
from truebits.errors import Refused, Unfinished
from truebits.rewriting import durable
from truebits.rewriting.beside import marker_path
from truebits.rewriting.marker import clear_marker, find_marker, is_marked, read_marker, set_marker

RECORD = {"operation": {"verb": "truncate", "bits": 16}, "undo": {"file": "u"}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x")
    return path


def test_set_read_and_cleared(path):
    assert read_marker(path) is None
    set_marker(path, RECORD)
    assert read_marker(path) == RECORD
    assert marker_path(path) in durable.provisional
    set_marker(path, RECORD)
    clear_marker(path)
    assert read_marker(path) is None
    assert marker_path(path) not in durable.provisional
    clear_marker(path)
    assert [one.name for one in path.parent.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        (None, None),
        (RECORD, RECORD),
        (RECORD | {"undo": None}, RECORD | {"undo": None}),
        (RECORD | {"operation": {"verb": "fakequant"}}, "another rewrite in place was left unfinished.*fakequant"),
        ({}, "which would say which, cannot be read"),
    ],
)
def test_a_rewrite_that_was_begun(path, begun, expected):
    if begun is not None:
        set_marker(path, begun)
    if isinstance(expected, str):
        with pytest.raises(Unfinished, match=expected):
            find_marker(path, RECORD)
    else:
        assert find_marker(path, RECORD) == expected


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null"])
def test_a_marker_that_cannot_be_read_says_nothing(path, content):
    marker_path(path).write_bytes(content)
    assert read_marker(path) == {}


def test_a_marker_that_is_no_file(path):
    marker = marker_path(path)
    os.mkfifo(marker)
    with pytest.raises(Refused, match="is not a regular file"):
        read_marker(path)
    marker.unlink()
    marker.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        read_marker(path)


def test_a_marker_of_any_file_of_a_model(tmp_path):
    models = [a_gguf(tmp_path / f"{name}.gguf", a=("F32", np.zeros(8, np.uint32))) for name in "ab"]
    parts = [model.parts[0] for model in models]
    assert not is_marked(parts)
    marker_path(models[1].path).symlink_to(tmp_path / "absent")
    assert is_marked(parts)
    assert not is_marked(parts[:1])
