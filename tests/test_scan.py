"""Scans of real files, against profiles of the same words counted by brute force."""

import os
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_bytes import gguf as gguf_bytes
from models import TENSORS, assert_found, finish, words_for, write, write_raw
from truebits.errors import SelectionError, UsageError
from truebits.files.mapping import FileChanged
from truebits.files.model import open_model
from truebits.precision import batches as batches_module
from truebits.precision.counting import TensorPrecision, low_bits
from truebits.precision.origin import Origin
from truebits.precision.scan import scan
from truebits_native import dispatch
from words import TYPES, grid, mixed, profile_of


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "model.gguf", TENSORS)


# --- what is found


def test_scan_of_every_type(path):
    report = scan(path)
    assert_found(report, TENSORS)
    assert list(report) == list(TENSORS)
    assert len(report) == len(TENSORS)
    assert tuple(precision.tensor for precision in report.values()) == report.model.tensors


def test_scan_of_a_path_a_string_or_a_model(path):
    expected = scan(path).tensors
    assert scan(str(path)).tensors == expected
    model = open_model(path)
    report = scan(model)
    assert report.tensors == expected
    assert report.model is model


def test_a_tensors_precision(path):
    precision = scan(path)["output_norm.weight"]
    assert isinstance(precision, TensorPrecision)
    assert precision.tensor == open_model(path).tensors[-1]
    assert isinstance(precision.origin, Origin)
    words = TENSORS["output_norm.weight"][1]
    assert precision.low_zero(16) == np.count_nonzero(words & 0xFFFF == 0)


def test_a_tensor_that_is_absent(path):
    with pytest.raises(KeyError):
        scan(path)["output.weight"]


def test_tensors_of_one_file_add_up(path):
    report = scan(path)
    norms = [name for name, (type, _) in TENSORS.items() if type == "F32"]
    got = report[norms[0]] + report[norms[1]] + report[norms[2]]
    assert got == profile_of(np.concatenate([TENSORS[name][1] for name in norms]), "F32")


@pytest.mark.parametrize("type", TYPES)
def test_every_pattern_of_a_type(tmp_path, type):
    tensors = {"all": (type, grid(type))}
    assert_found(scan(write(tmp_path / "model.gguf", tensors)), tensors)


def test_a_matrix_counts_all_its_values(tmp_path):
    path, words = tmp_path / "model.gguf", mixed(6 * 64, 8)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("matrix", words.view(np.float32).reshape(2, 3, 64))
    finish(writer)
    report = scan(path)
    assert report["matrix"].tensor.shape == (64, 3, 2)
    assert_found(report, {"matrix": ("F32", words)})


def test_quantized_tensors_are_passed_over(tmp_path):
    tensors = {
        "blk.0.attn_q.weight": ("Q8_0", np.zeros(68, np.uint8)),
        "output_norm.weight": TENSORS["output_norm.weight"],
    }
    report = scan(write(tmp_path / "model.gguf", tensors))
    assert_found(report, {"output_norm.weight": TENSORS["output_norm.weight"]})


def test_neighbouring_tensors_do_not_mix(tmp_path):
    ones, zeros = np.full(33, 0xFFFFFFFF, np.uint32), np.zeros(33, np.uint32)
    tensors = {f"t{i}": ("F32", ones if i % 2 else zeros) for i in range(9)}
    assert_found(scan(write(tmp_path / "model.gguf", tensors)), tensors)


# --- empty tensors


def test_an_empty_tensor_among_others(tmp_path):
    nothing = np.empty(0, np.uint32)
    tensors = {"first": ("F32", nothing), "middle": ("F32", mixed(40, 11)), "last": ("F32", nothing)}
    path = write_raw(tmp_path / "model.gguf", tensors, 32)
    assert_found(scan(path), tensors)
    assert scan(path)["first"].answers()["values"] == 0
    assert low_bits(path, bits=1)["last"] == 0


@pytest.mark.parametrize("type", TYPES)
def test_a_type_of_which_all_tensors_are_empty(tmp_path, type):
    other = "F32" if type == "F16" else "F16"
    tensors = {"empty": (type, words_for(type, 0)), "other": (other, words_for(other, 40))}
    path = write_raw(tmp_path / "model.gguf", tensors, 32)
    assert_found(scan(path), tensors)
    assert_found(scan(path, select="empty"), {"empty": tensors["empty"]})


def test_a_model_without_tensors(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes())
    report = scan(path)
    assert (len(report), report.groups(), report.totals()) == (0, {}, {})


# --- shards


def test_a_shard_set(tmp_path, small_batches):
    write(tmp_path / "model.gguf", TENSORS, split_max_tensors=2)
    shards = sorted(tmp_path.glob("*.gguf"))
    assert len(shards) == 4
    for shard in shards:
        report = scan(shard)
        assert_found(report, TENSORS)
        assert list(report) == list(TENSORS)
        assert report["blk.0.rope"].tensor.part == 1
    calls = []
    expected = {name: report[name].low_zero(16) for name in report if report[name].type == "F32"}
    assert low_bits(shards[2], progress=lambda *call: calls.append(call)) == expected
    assert calls[-1][0] == calls[-1][1] == 4 * sum(TENSORS[name][1].size for name in expected)


# --- selection


def test_selection(path):
    assert list(scan(path, "norm")) == [name for name in TENSORS if "norm" in name]
    assert list(scan(path, r"^blk\.0\.", "norm$|rope")) == ["blk.0.attn_norm.weight", "blk.0.ffn_up.weight"]
    assert list(scan(path, ["rope", "token"], exclude=["token"])) == ["blk.0.rope"]
    assert_found(scan(path, exclude="blk"), {n: t for n, t in TENSORS.items() if "blk" not in n})
    assert list(low_bits(path, r"blk", bits=16)) == ["blk.0.attn_norm.weight", "blk.1.attn_norm.weight"]


@pytest.mark.parametrize("ask", [scan, low_bits])
def test_a_selection_that_matches_nothing(path, ask):
    for selection in ({"select": "nothing"}, {"exclude": "."}, {"select": "norm", "exclude": "norm"}, {"select": "("}):
        with pytest.raises(SelectionError) as caught:
            ask(path, **selection)
        assert caught.value.exit_code == 2
        assert isinstance(caught.value, UsageError)


def test_a_selection_of_quantized_tensors_only(tmp_path):
    tensors = {"q": ("Q8_0", np.zeros(34, np.uint8)), "norm": ("F16", np.zeros(4, np.uint16))}
    path = write(tmp_path / "model.gguf", tensors)
    with pytest.raises(SelectionError, match=r"no F32 or F16 or F64 or BF16 tensor is selected, only Q8_0"):
        scan(path, "q", blocks=False)
    with pytest.raises(SelectionError, match=r"no F32 tensor is selected, only F16, Q8_0"):
        low_bits(path)
    with pytest.raises(SelectionError, match=r"only F16"):
        low_bits(path, select="norm")


def test_a_model_of_quantized_tensors_only_has_nothing_to_report(tmp_path):
    path = write(tmp_path / "model.gguf", {"q": ("Q8_0", np.zeros(34, np.uint8))})
    assert len(scan(path)) == 0
    assert scan(path).totals() == {}


# --- threads


def test_any_number_of_threads_finds_the_same(path, kernels, small_batches):
    one, two = scan(path, threads=1), scan(path, threads=2)
    assert_found(one, TENSORS)
    assert one.tensors == two.tensors == scan(path).tensors
    assert low_bits(path, threads=1) == low_bits(path, threads=2)


def test_kernels_and_twins_find_the_same(path, monkeypatch):
    found = []
    for uses_kernels in (True, False):
        monkeypatch.setattr(dispatch, "uses_kernel", lambda *_, answer=uses_kernels: answer)
        found.append((scan(path).tensors, low_bits(path, bits=9)))
    assert found[0] == found[1]


# --- progress


@pytest.mark.parametrize("ask", [scan, low_bits])
@pytest.mark.parametrize("batch_bytes", [1_000, 4_096, 32 << 20])
def test_progress_grows_to_the_total(path, monkeypatch, ask, batch_bytes):
    monkeypatch.setattr(batches_module, "BATCH_BYTES", batch_bytes)
    calls = []
    ask(path, progress=lambda done, total: calls.append((done, total)))
    types = ("F32",) if ask is low_bits else TYPES
    expected = sum(words.nbytes for type, words in TENSORS.values() if type in types)
    done = [call[0] for call in calls]
    assert {call[1] for call in calls} == {expected}
    assert all(before < after for before, after in zip([0, *done], done, strict=False))
    assert done[-1] == expected
    if batch_bytes < 2_000:
        assert len(calls) > 5


def test_an_exception_in_progress_ends_the_scan(path, small_batches):
    def stop(done, total):
        raise KeyboardInterrupt

    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(KeyboardInterrupt):
        scan(path, progress=stop)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- a file that changes


def changes(path):
    """Return ways to change a file, by name."""

    def overwrite():
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x55")
        os.utime(path, ns=(1, 1))

    def grow():
        with open(path, "ab") as file:
            file.write(b"\0")

    def replace():
        path.with_suffix(".new").write_bytes(path.read_bytes())
        path.with_suffix(".new").replace(path)

    def shrink():
        os.truncate(path, path.stat().st_size - 1)

    return {"overwritten": overwrite, "grown": grow, "replaced": replace, "shrunk": shrink}


@pytest.mark.parametrize("ask", [scan, low_bits])
@pytest.mark.parametrize("way", ["overwritten", "grown", "replaced", "shrunk"])
def test_a_file_changed_since_it_was_opened(path, ask, way):
    model = open_model(path)
    changes(path)[way]()
    with pytest.raises(FileChanged) as caught:
        ask(model)
    assert caught.value.filename == str(path)
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("ask", [scan, low_bits])
@pytest.mark.parametrize("way", ["overwritten", "grown", "shrunk"])
def test_a_file_changed_during_the_scan(path, small_batches, ask, way):
    def change(done, total):
        if len(calls) == 1:
            changes(path)[way]()
        calls.append(done)

    calls = []
    with pytest.raises(FileChanged, match="was changed by another process"):
        ask(path, progress=change)
    assert len(calls) == 2


def test_a_file_replaced_during_the_scan_is_not_mixed_with_the_new_one(path, small_batches):
    """The counts are of the old file, which is still mapped; what is looked at after them would be of the new one."""
    with pytest.raises(FileChanged):
        scan(path, progress=lambda *_: changes(path)["replaced"]())


# --- many tensors


def test_2000_small_tensors(tmp_path, kernels):
    random = np.random.default_rng(12)
    sizes = random.integers(1, 40, 2_000)
    tensors = {}
    for i, size in enumerate(sizes.tolist()):
        type = TYPES[i % 4]
        tensors[f"blk.{i}.attn_norm.weight"] = (type, words_for(type, size, i))
    path = write(tmp_path / "model.gguf", tensors)
    calls = []
    report = scan(path, progress=lambda *call: calls.append(call))
    assert list(report) == list(tensors)
    assert len(calls) == 4
    assert_found(report, tensors)
    assert len(report.groups()) == 4
