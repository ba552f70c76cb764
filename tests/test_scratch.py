"""One copy of a model in which some tensors are rounded for a while."""

from __future__ import annotations

import numpy as np
import pytest

from truebits import data
from truebits.errors import VerificationFailed
from truebits.experiments import scratch
from truebits.experiments.scratch import Scratch
from truebits.files.model import open_gguf
from truebits.numbers.spelling import target


@pytest.fixture
def copied(tmp_path):
    return Scratch(open_gguf(data.MODEL), tmp_path, 1)


def pairs(copied, name="blk.0.ffn_up.weight"):
    tensor = next(one for one in copied.model.tensors if one.name == name)
    return tensor, [(tensor, target("int4"))]


def test_only_the_bytes_of_a_tensor_are_rewritten_and_come_back(copied, monkeypatch):
    tensor, chosen = pairs(copied)
    written = []
    real = scratch.write_all
    monkeypatch.setattr(
        scratch, "write_all", lambda file, words, at: written.append((at, len(words))) or real(file, words, at)
    )
    before = data.MODEL.read_bytes()
    with copied.rounded(chosen) as difference:
        after = copied.path.read_bytes()
    start, stop = tensor.offset, tensor.offset + tensor.nbytes
    assert after[:start] + after[stop:] == before[:start] + before[stop:]
    expected = np.flatnonzero(np.frombuffer(after, "<u4") != np.frombuffer(before, "<u4"))
    assert len(expected) == difference.changed > 30_000
    assert copied.path.read_bytes() == before
    assert all(start <= at and at + size <= stop for at, size in written)
    assert sum(size for _, size in written) == 2 * tensor.nbytes


def test_it_comes_back_where_a_measurement_fails(copied):
    def fail():
        with copied.rounded(pairs(copied)[1]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert copied.path.read_bytes() == data.MODEL.read_bytes()


def test_a_tensor_that_is_not_back_is_found(copied, monkeypatch):
    with (
        pytest.raises(VerificationFailed, match=r"blk\.0\.ffn_up\.weight is not what it was"),
        copied.rounded(pairs(copied)[1]),
    ):
        monkeypatch.setattr(scratch, "write_all", lambda *_: None)
