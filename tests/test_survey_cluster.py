"""A survey on a Dask cluster: the same tables bit for bit, whoever dies."""

from __future__ import annotations

import hashlib
import os
import signal
import sys

import numpy as np
import pytest

import models
import truebits as tb
from truebits.errors import MissingExtra, UsageError
from truebits.surveying import survey

pytest.importorskip("pyarrow")
distributed = pytest.importorskip("distributed")


def hashes(out):
    return [hashlib.sha256((out / f"{name}.parquet").read_bytes()).hexdigest() for name in ("models", "tensors")]


@pytest.fixture
def folder(tmp_path):
    """Give a folder of models: one that is large as sizes go here, with a NaN far behind, and small ones."""
    folder = tmp_path / "models"
    folder.mkdir()
    words = np.random.default_rng(1).standard_normal(1 << 18).astype("<f4").view("<u4")
    words[200_000] = 0x7FC00000
    models.write(
        folder / "0-large.gguf", {"blk.0.ffn_up.weight": ("F32", words), "output_norm.weight": ("F32", words[:64])}
    )
    for number in range(6):
        tb.synth(folder / f"{number}.gguf", size=1 << 16, precision="bf16" if number % 2 else "f32", seed=number)
    return folder


@pytest.mark.filterwarnings("ignore:.*:ResourceWarning")
def test_a_cluster_of_which_a_worker_dies(folder, tmp_path, monkeypatch):
    expected = tmp_path / "alone"
    tb.survey(folder, out=expected)
    monkeypatch.setattr(survey, "SPLIT_BYTES", 1 << 18)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options, silence_logs=50) as cluster:
        with distributed.Client(cluster) as client:
            pids = list(client.run(os.getpid).values())
        killed = []

        def kill_one(done, _):
            if done == 1:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        found = tb.survey(folder, out=tmp_path / "out", cluster=cluster.scheduler_address, progress=kill_one)
    assert killed
    assert (found.models, found.failed) == (7, 0)
    assert hashes(tmp_path / "out") == hashes(expected)
    (nan,) = [row for row in found.findings if row["kind"] == "nan"]
    assert nan["tensors"] == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:ResourceWarning")
def test_a_cluster_of_its_own(folder, tmp_path):
    for name, cluster in (("alone", None), ("local", "local")):
        tb.survey(folder, out=tmp_path / name, cluster=cluster, jobs=2)
    assert hashes(tmp_path / "local") == hashes(tmp_path / "alone")


def test_ranges_say_where_a_nan_stands(folder, tmp_path, monkeypatch):
    from truebits.precision.counting import Counts
    from truebits.surveying.sources import sources
    from truebits.surveying.tasks import Reading, count_ranges, survey_model

    reading = Reading([], [], None, 1, 1 << 18, {})
    (source,) = sources([folder / "0-large.gguf"])
    ranges = survey_model(source, reading)
    assert len(ranges.tasks) == 5
    parts = [count_ranges(source, ranges.state, *one, reading) for one in zip(ranges.tasks, ranges.starts, strict=True)]
    got, model = Counts.merge(parts), tb.open(folder / "0-large.gguf")
    assert got.first["blk.0.ffn_up.weight"] == {"nan": 200_000}
    report, expected = tb.scan(model, counts=got), tb.scan(model)
    assert report.tensors == expected.tensors
    assert report.to_dict() == expected.to_dict()


def test_no_scheduler_and_no_dask(folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no scheduler of Dask's answers at nowhere"):
        tb.survey(folder, out=tmp_path / "out", cluster="nowhere")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra, match=r"pip install 'truebits\[distributed\]'"):
        tb.survey(folder, out=tmp_path / "out", cluster="local")
