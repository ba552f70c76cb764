"""A survey: what its tables say is what scans say, whoever does the work, and however often it is interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

import truebits as tb
from safetensors_bytes import safetensors
from truebits import data
from truebits.cli.app import app
from truebits.errors import Refused, UsageError
from truebits.surveying import crew, survey
from truebits.surveying.engines import Engine, Here, engine
from truebits.surveying.folder import Folder
from truebits.surveying.sources import Source
from truebits.surveying.tables import part_of
from truebits.surveying.tasks import Reading

pq = pytest.importorskip("pyarrow.parquet")

TABLES = ("models.parquet", "tensors.parquet")
ALONE = Engine(Here().submit, 1)


def hashes(out):
    return [hashlib.sha256((out / name).read_bytes()).hexdigest() for name in TABLES]


def rows(out, table="models"):
    return pq.read_table(out / f"{table}.parquet").to_pylist()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Give a folder of models: F32 that use all of it, BF16 in F32, and a broken one."""
    folder = tmp_path_factory.mktemp("models")
    for number in range(6):
        path = folder / f"{number}.gguf"
        tb.synth(path, size=1 << 17, precision="bf16" if number % 3 else "f32", seed=number)
    (folder / "broken.gguf").write_bytes(b"GGUF\x03")
    return folder


@pytest.fixture(scope="module")
def expected(models, tmp_path_factory):
    """Give the hashes of the tables that one process makes at one go."""
    out = tmp_path_factory.mktemp("survey") / "out"
    tb.survey(models, out=out)
    return hashes(out)


def test_the_tables_say_what_scans_say(models, tmp_path):
    found = tb.survey([models, data.MODEL_Q8_0], out=tmp_path / "out")
    assert (found.models, found.failed, found.complete) == (8, 1, 7)
    assert [(row["came_from"], row["models"]) for row in found.stored_as("F32")] == [("bf16", 4), ("f32", 2)]
    by_source = {row["source"]: row for row in rows(tmp_path / "out")}
    tensors = rows(tmp_path / "out", "tensors")
    for source in (models / "0.gguf", models / "1.gguf", data.MODEL_Q8_0):
        report, got = tb.scan(source), by_source[str(source)]
        assert (got["bytes_read"], got["values"]) == (report.coverage.bytes_read, report.model.values)
        assert [one["kind"] for one in got["findings"]] == [one.kind for one in report.findings]
        assert sum(one["bytes"] for one in got["origins"]) == sum(one.nbytes for one in report.model.tensors)
        own = {row["tensor"]: row for row in tensors if row["source"] == str(source)}
        assert list(own) == [tensor.name for tensor in report.model.tensors]
        for name, one in report.tensors.items():
            assert (own[name]["bf16"], own[name]["came_from"]) == (one.fits("bf16"), one.origin.format)
        assert {name for name, row in own.items() if row["read"] in ("scales", "sample")} == report.blocks.keys()
    assert "E_TRUNCATED" in by_source[str(models / "broken.gguf")]["error"]


@pytest.mark.parametrize("way", ["two processes", "another order", "two at a time", "in pieces"])
def test_the_same_tables_bit_for_bit(models, tmp_path, expected, monkeypatch, way):
    out, places = tmp_path / "out", [models]
    if way == "another order":
        places = [f"{models}/[5-9].gguf", models / "broken.gguf", models / "2.gguf", models]
    if way == "two at a time":  # one by one they come into the tables, and models of a later survey between them
        for at in range(5, -1, -2):
            tb.survey([models / f"{at}.gguf"], out=out)
    if way == "in pieces":
        monkeypatch.setattr(survey, "SPLIT_BYTES", 50_000)
        monkeypatch.setattr(survey, "engine", lambda *_: _Given(Engine(Here().submit, 2)))
    tb.survey(places, out=out, jobs=2 if way == "two processes" else 1)
    assert hashes(out) == expected
    assert sorted(one.name for one in out.iterdir()) == [
        ".lock",
        "models.parquet",
        "parts",
        "survey.json",
        "tensors.parquet",
    ]
    assert not list((out / "parts").iterdir())


class _Given:
    def __init__(self, engine):
        self.engine = engine

    def __enter__(self):
        return self.engine

    def __exit__(self, *_):
        """Nothing."""


def test_groups_of_rows_do_not_depend_on_how_they_come(models, tmp_path, monkeypatch):
    monkeypatch.setattr("truebits.surveying.folder.ROWS", 3)
    tb.survey(models, out=tmp_path / "one")
    for path in sorted(models.glob("*.gguf"), reverse=True):
        tb.survey(path, out=tmp_path / "two")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert pq.ParquetFile(tmp_path / "one/tensors.parquet").num_row_groups > 2


def test_what_is_done_is_not_done_again(models, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(crew, "survey_model", lambda source, way: asked.append(source.name) or done(source, way))
    out, own = tmp_path / "out", tmp_path / "own.gguf"
    own.write_bytes((models / "1.gguf").read_bytes())
    done = survey_model
    calls = []

    def interrupted(at, of):
        calls.append((at, of))
        if at == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tb.survey([models, own], out=out, progress=interrupted)
    assert (len(asked), calls) == (3, [(1, 8), (2, 8), (3, 8)])
    assert tb.survey([models, own], out=out).models == 8
    assert len(asked) == len(set(asked)) == 8
    tb.survey([models, own], out=out)
    assert len(asked) == 8, "neither what was read, nor what could not be"
    tb.survey([models, own], out=out, retry=True)
    assert asked[8:] == [str(models / "broken.gguf")]
    os.utime(own, ns=(1, 1))
    tb.survey([models, own], out=out)
    assert asked[9:] == [str(own)]


survey_model = crew.survey_model

KILLED = """
import os, signal, sys
import truebits as tb
def stop(at, of):
    if at == 4:
        open(sys.argv[2] + "/parts/.half.truebits", "wb").write(b"PAR1")
        os.kill(os.getpid(), signal.SIGKILL)
tb.survey(sys.argv[1], out=sys.argv[2], progress=stop)
"""


def test_a_killed_survey_goes_on(models, tmp_path, expected, monkeypatch):
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, models, out], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert len(list((out / "parts").glob("*.arrow"))) == 4
    with pytest.raises(UsageError, match="4 models are done, run it again"):
        tb.read_survey(out)
    asked = []
    monkeypatch.setattr(
        crew, "survey_model", lambda source, way: asked.append(source.name) or survey_model(source, way)
    )
    tb.survey(models, out=out)
    assert len(asked) == 3
    assert hashes(out) == expected


def test_a_part_that_the_power_cut_off_is_done_again(models, tmp_path, expected):
    out = tmp_path / "out"
    (out / "parts").mkdir(parents=True)
    for number, content in enumerate((b"", b"ARROW1", part_of({})[:-20], (models / "1.gguf").read_bytes())):
        (out / f"parts/{number:032}.arrow").write_bytes(content)
    tb.survey(models, out=out)
    assert hashes(out) == expected


def test_a_fold_that_is_killed_between_the_two_names(models, tmp_path, expected, monkeypatch):
    """The tensors' table is new, the models' old: what the parts have is right."""
    out = tmp_path / "out"
    tb.survey(models / "3.gguf", out=out)
    before = (out / "models.parquet").read_bytes()
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
    tb.survey(models, out=out)
    monkeypatch.undo()
    assert len(list((out / "parts").glob("*.arrow"))) == 6
    (out / "models.parquet").write_bytes(before)
    assert tb.survey(models, out=out).models == 7
    assert hashes(out) == expected


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [[], ["--cluster", "local"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nobody_works_on_after_a_signal(tmp_path, number, cluster):
    if cluster:
        pytest.importorskip("distributed")
    folder, out = tmp_path / "models", tmp_path / "out"
    folder.mkdir()
    for name in range(400):
        tb.synth(folder / f"{name}.gguf", size=1 << 15, tensors=20)
    command = [sys.executable, "-m", "truebits", "survey", str(folder), "--out", str(out), "--jobs", "2", *cluster]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while len(list(out.glob("parts/*.arrow"))) < 5 and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, told = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert (process.returncode, told) == (130, "\ntruebits: interrupted; nothing is left half done\n")
        assert (out / "models.parquet").exists()
    ended = time.monotonic() + 20
    while _alive(process.pid) and time.monotonic() < ended:
        time.sleep(0.1)
    assert not _alive(process.pid)


def _alive(group):
    """Tell whether a process of a group is there: the children of a killed parent are nobody's to wait for."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = status.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                return True
    return False


def test_a_model_that_kills_its_worker_is_a_row(models):
    """All that ran beside it are tried again, one by one."""
    tried = []

    def submit(work, source, *arguments):
        future: Future = Future()
        tried.append(source.name)
        future.set_exception(BrokenExecutor()) if source.name == "bad" else future.set_result(source.name.encode())
        return future

    renewed = []
    workers = Engine(submit, 2, (BrokenExecutor,), lambda: renewed.append(1))
    todo = deque(Source(name, name) for name in ("a", "bad", "b", "c", "d", "e"))
    got = {source.name: part for source, part in crew.parts(todo, workers, Reading([], [], None, None, None, {}))}
    assert {name: part for name, part in got.items() if name != "bad"} == {name: name.encode() for name in "abcde"}
    assert crew.DIED.encode() in got["bad"]
    assert tried.count("bad") == 2
    assert len(renewed) == 2


def test_a_worker_that_others_made_anew_in_vain():
    """As Dask does, three times."""

    def submit(work, source, *arguments):
        future: Future = Future()
        future.set_exception(BrokenExecutor()) if source.name == "bad" else future.set_result(b"good")
        return future

    todo = deque(Source(name, name) for name in ("a", "bad", "b"))
    reading = Reading([], [], None, None, None, {})
    got = {source.name: part for source, part in crew.parts(todo, Engine(submit, 2, (BrokenExecutor,)), reading)}
    assert (got["a"], got["b"]) == (b"good", b"good")
    assert crew.DIED.encode() in got["bad"]


def test_nobody_is_waited_for_who_is_not_there(monkeypatch):
    monkeypatch.setattr(crew, "LOOK_AFTER", 0.01)
    workers = Engine(lambda *_: Future(), 2, is_there=lambda: False)
    with pytest.raises(CancelledError):
        list(crew.parts(deque([Source("a", "a")]), workers, Reading([], [], None, None, None, {})))


def test_processes_are_made_anew_and_end_with_their_parent():
    with engine(2, None) as workers:
        with pytest.raises(BrokenExecutor):
            workers.submit(os._exit, 1).result()
        workers.renew()
        pid = workers.submit(os.getpid).result()
        assert pid != os.getpid()
        workers.submit(time.sleep, 60)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("places", "words"),
    [([], "no model is named"), (["@nothing.txt"], "no list of models"), (["*.nothing"], "matches no file")],
)
def test_sources_that_are_none(tmp_path, places, words):
    with pytest.raises(UsageError, match=words):
        tb.survey(places, out=tmp_path / "out")


def test_a_selection_is_all_that_is_read(models, tmp_path):
    out = tmp_path / "out"
    tb.survey(models / "1.gguf", "norm", out=out)
    (row,) = rows(out)
    expected = tb.scan(models / "1.gguf", "norm")
    assert row["bytes_read"] == expected.coverage.bytes_read < row["bytes"]
    assert {one["tensor"] for one in rows(out, "tensors") if one["read"] == "all"} == expected.tensors.keys()
    with pytest.raises(UsageError, match=r"has models read with select \['norm'\]: name another folder"):
        tb.survey(models / "2.gguf", out=out)
    (out / "survey.json").write_text("{")
    with pytest.raises(UsageError, match="name another folder"):
        tb.survey(models / "2.gguf", "norm", out=out)


def test_the_work_of_all_models_is_announced(models, tmp_path, monkeypatch):
    """So that kernels are loaded once all of it is worth it, though no model is."""
    announced = []
    monkeypatch.setattr("truebits.surveying.tasks.seen", {})
    monkeypatch.setattr("truebits_native.expect_work", lambda kind, words: announced.append((kind, words)))
    tb.survey([models / f"{number}.gguf" for number in range(3)], out=tmp_path / "out")
    values = [tb.open(models / f"{number}.gguf").values for number in range(3)]
    assert {("profiles", sum(values[: count + 1])) for count in range(3)} <= set(announced)


def test_a_list_of_models(models, tmp_path):
    names = tmp_path / "list.txt"
    names.write_text(f"# two\n{models / '1.gguf'}\n\n  {models / '[02].gguf'}\nnot-there.gguf\n")
    tb.survey(f"@{names}", out=tmp_path / "out")
    got = {row["source"]: row["exit_code"] for row in rows(tmp_path / "out")}
    assert got == {**{str(models / f"{number}.gguf"): 0 for number in (0, 1, 2)}, "not-there.gguf": 4}


def test_a_folder_of_something_else_and_one_that_is_written(models, tmp_path):
    (tmp_path / "report.pdf").touch()
    with pytest.raises(UsageError, match=r"has report\.pdf"):
        tb.survey(models, out=tmp_path)
    out = tmp_path / "out"
    with (
        Folder(out, {"select": [], "exclude": [], "blocks": None}).opened(),
        pytest.raises(Refused, match="another survey"),
    ):
        tb.survey(models, out=out)
    with pytest.raises(UsageError, match="has no tables"):
        tb.read_survey(tmp_path)


def test_where_none_can_be_read_the_exit_code_says_so(models, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    for number, (names, expected) in enumerate(
        [([broken], 3), ([tmp_path / "absent.gguf", broken], 4), ([broken, models], 0)]
    ):
        command = ["survey", *map(str, names), "--out", str(tmp_path / str(number)), "--jobs", "1"]
        done = CliRunner().invoke(app, command)
        assert getattr(done.exception, "exit_code", 0) == expected, done.output
        assert "not read:" in done.output
        assert ("came from" in done.output) is (expected == 0)


def test_what_was_read_and_what_was_not_is_told_apart(tmp_path):
    checkpoints = Path(__file__).parent / "data" / "checkpoints"
    numbers = tmp_path / "numbers.safetensors"
    numbers.write_bytes(safetensors({"a": ("I32", (4,), bytes(16)), "b": ("I32", (4,), bytes(16))}))
    found = tb.survey([checkpoints / "fp8-blocks.safetensors", numbers], out=tmp_path / "out")
    assert ("F8_E4M3 x scale", "scaled") in {(row["type"], row["came_from"]) for row in found.tensors}
    assert ("I32", None) in {(row["stored"], row["came_from"]) for row in found.uploads}
    assert [(row["kind"], row["tensors"]) for row in found.findings] == [("not_read", 2)]


def test_on_the_command_line(models, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "truebits", "survey", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
        assert done.returncode == 0, done.stderr
        return done.stdout

    screen = run(models, data.MODEL_Q8_0, "--out", tmp_path / "out", "--jobs", 1)
    assert screen.splitlines()[0] == "F32: of 6 models 4 (66.7 %) carry BF16, 2 (33.3 %) use all of it."
    assert max(map(len, screen.splitlines())) <= 100
    assert run("report", tmp_path / "out") == screen
    document = json.loads(run("report", tmp_path / "out", "--json"))
    assert document == tb.read_survey(tmp_path / "out").to_dict()
