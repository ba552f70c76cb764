"""What rounding does to a loaded model's predictions."""

from __future__ import annotations

import multiprocessing
import tempfile
from contextlib import closing

import pytest

from extras import NEEDS_EVAL
from truebits import data
from truebits.experiments import bench
from truebits.experiments.sensitivity import sensitivity
from truebits.files.model import open_gguf
from truebits.numbers.spelling import target

QUICK = {"text": data.HELDOUT, "chunks": 2, "n_ctx": 128, "threads": 1}


@NEEDS_EVAL
def test_nothing_is_left_where_it_cannot_begin(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(bench, "Baseline", lambda *_: (_ for _ in ()).throw(OSError("no memory")))
    with pytest.raises(OSError, match="no memory"):
        sensitivity(data.MODEL, "ffn_up", to="int4", **QUICK)
    assert multiprocessing.active_children() == []
    assert list(tmp_path.iterdir()) == []


@NEEDS_EVAL
def test_where_nothing_changes_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(bench.Baseline, "score", scored := counted(bench.Baseline.score))
    got = sensitivity(data.MODEL_Q8_0, "norm", to="bf16", **QUICK)
    assert scored.calls == 1  # the floor
    assert {(one.changed, one.kl, one.error) for one in got.effects} == {(0, 0.0, 0.0)}
    assert got.unclear == ()


def counted(function):
    def call(*arguments, **named):
        call.calls += 1
        return function(*arguments, **named)

    call.calls = 0
    return call


@NEEDS_EVAL
def test_chunks_follow_from_the_error(monkeypatch):
    monkeypatch.setattr(bench, "FIRST_CHUNKS", 2)
    options = QUICK | {"chunks": None}
    few = sensitivity(data.MODEL, "ffn_up", to="int4", **options)
    monkeypatch.setattr(bench, "ENOUGH", 0.5)
    fewest = sensitivity(data.MODEL, "ffn_up", to="int4", **options)
    assert fewest.settings["chunks"] == 2 < few.settings["chunks"]
    assert few.together[0].error < 0.08 * few.together[0].kl


@NEEDS_EVAL
def test_an_effect_is_of_the_values_and_of_the_predictions():
    tensors = {tensor.name: tensor for tensor in open_gguf(data.MODEL).tensors}
    with closing(bench.Bench(open_gguf(data.MODEL), **QUICK)) as measured:
        assert (measured.used, measured.settings["n_ctx"], len(measured.digest)) == (2, 128, 64)
        assert measured.floor.mean == 0
        coarse, fine, none = (
            measured.measure([(tensors[name], target(to))])
            for name, to in (
                ("blk.0.ffn_up.weight", "int4"),
                ("blk.0.ffn_up.weight", "int8"),
                ("output_norm.weight", "f32"),
            )
        )
    assert coarse.divergence.mean > fine.divergence.mean > 0
    assert coarse.difference.squared_error > fine.difference.squared_error
    assert (none.difference.changed, none.divergence) == (0, None)
