"""Scans of real files, against profiles of the same words counted by brute force."""

import os
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_bytes import gguf as gguf_bytes
from models import words_for, write, write_raw
from truebits.errors import SelectionError, UsageError
from truebits.files.mapping import FileChanged
from truebits.files.model import open_model
from truebits.precision import batches as batches_module
from truebits.precision.counting import TensorPrecision, low_bits
from truebits.precision.origin import Origin
from truebits.precision.scan import scan
from truebits_native import dispatch
from words import TYPES, grid, mixed, profile_of


def assert_found(report, tensors):
    """Check that a report holds exactly the profiles of `tensors`, (type, words) by name."""
    assert set(report) == set(tensors)
    for name, (type, words) in tensors.items():
        assert report[name].type == type
        assert report[name].values == report[name].tensor.values == words.size
        assert report[name] == profile_of(words, type), name


TENSORS = {
    "token_embd.weight": ("F16", words_for("F16", 3_000, 1)),
    "blk.0.attn_norm.weight": ("F32", words_for("F32", 2_048, 2)),
    "blk.0.ffn_up.weight": ("BF16", words_for("BF16", 5_000, 3)),
    "blk.0.rope": ("F64", words_for("F64", 1_001, 4)),
    "blk.1.attn_norm.weight": ("F32", words_for("F32", 2_048, 5)),
    "blk.1.ffn_up.weight": ("BF16", words_for("BF16", 1, 6)),
    "output_norm.weight": ("F32", words_for("F32", 333, 7)),
}


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "model.gguf", TENSORS)


@pytest.fixture
def small_batches(monkeypatch):
    """Read 4 KiB at a time."""
    monkeypatch.setattr(batches_module, "BATCH_BYTES", 4_096)


@pytest.fixture
def kernels(monkeypatch):
    """Let the Numba kernels do work of any size."""
    monkeypatch.setattr(dispatch, "uses_kernel", lambda *_: True)


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
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
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


@pytest.mark.parametrize("type", TYPES)
def test_480_is_counted_by_itself(tmp_path, type):
    """It shares exponent and trailing zeros with 288, 352 and 416, which FP8 E4M3FN holds."""
    dtype = {"F32": np.float32, "F16": np.float16, "BF16": np.float32, "F64": np.float64}[type]
    values_by_name = {"without": [288, 352, 416, 448], "with": [288, 480, -480, 1], "only": [480, 480, -480]}
    words = {}
    for name, values in values_by_name.items():
        raw = np.array(values, dtype).view(f"u{np.dtype(dtype).itemsize}")
        words[name] = (type, (raw >> 16).astype(np.uint16) if type == "BF16" else raw)
    report = scan(write(tmp_path / "model.gguf", words))
    assert_found(report, words)
    got = {name: report[name].fits("fp8_e4m3fn") for name in report}
    assert got == {"without": 4, "with": 2, "only": 0}
    assert {report[name].fits("e5m3") - report[name].values for name in report} == {0}


@pytest.mark.parametrize("type", ["F32", "F16", "F64"])
def test_65504_is_counted_by_itself(tmp_path, type):
    """Clipped values stand there; others of its exponent and mantissa are no sign of clipping."""
    bfloats = np.random.default_rng(0).normal(0, 1, 500).astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    values = bfloats.view(np.float32)
    dtype = {"F32": np.float32, "F16": np.float16, "F64": np.float64}[type]
    tensors = {}
    for name, largest in (("clipped", 65504), ("near", 65440)):
        words = np.append(values, np.float32(-largest)).astype(dtype).view(f"u{np.dtype(dtype).itemsize}")
        tensors[name] = (type, words)
    report = scan(write(tmp_path / "model.gguf", tensors))
    assert_found(report, tensors)
    assert {name: report[name].origin.through for name in report} == {"clipped": "fp16", "near": None}


def test_480_in_every_batch_of_a_tensor(tmp_path, small_batches):
    values = np.tile(np.array([480, 288, -480, 3], np.float32), 3_000)
    values[-5_000:] = 288
    tensors = {"t": ("F32", values.view(np.uint32)), "none": ("F32", np.ones(9, np.uint32))}
    report = scan(write(tmp_path / "model.gguf", tensors))
    assert_found(report, tensors)
    assert report["t"].fits("fp8_e4m3fn") == np.count_nonzero(np.abs(values) != 480)


# --- where the data lies


@pytest.mark.parametrize("aligned", [8, 16, 64, 4096])
def test_alignments_of_gguf_py(tmp_path, aligned):
    assert_found(scan(write(tmp_path / "model.gguf", TENSORS, aligned)), TENSORS)


@pytest.mark.parametrize("aligned", [1, 2])
@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("batch_bytes", [1 << 12, 32 << 20])
def test_data_that_is_not_aligned(tmp_path, monkeypatch, aligned, shift, batch_bytes):
    """The length of the first name moves all data."""
    monkeypatch.setattr(batches_module, "BATCH_BYTES", batch_bytes)
    tensors = {"n" * (1 + shift): ("F16", words_for("F16", 1, 9)), **TENSORS}
    path = write_raw(tmp_path / "model.gguf", tensors, aligned)
    assert any(t.offset % 4 for t in open_model(path).tensors if t.type == "F32")
    assert_found(scan(path), tensors)
    expected = {name: np.count_nonzero(words & 0xFF == 0) for name, (type, words) in tensors.items() if type == "F32"}
    assert low_bits(path, bits=8) == expected


def test_data_at_every_offset(tmp_path):
    data = words_for("F64", 50, 10)
    remainders = set()
    for shift in range(8):
        path = write_raw(tmp_path / f"{shift}.gguf", {"n" * (1 + shift): ("F64", data)}, 1)
        remainders.add(open_model(path).tensors[0].offset % 8)
        assert_found(scan(path), {"n" * (1 + shift): ("F64", data)})
    assert remainders == set(range(8))


@pytest.mark.parametrize("batch_bytes", [8, 64, 4_096, 10_000, 1 << 20])
def test_tensors_longer_and_shorter_than_a_batch(tmp_path, monkeypatch, batch_bytes):
    monkeypatch.setattr(batches_module, "BATCH_BYTES", batch_bytes)
    sizes = (1, 2, 200) if batch_bytes < 100 else (1, 7, 1_024, 1_025, 20_000, 3)
    tensors = {f"t{i}.{type}": (type, words_for(type, size, i)) for i, size in enumerate(sizes) for type in TYPES}
    path = write(tmp_path / "model.gguf", tensors)
    assert_found(scan(path), tensors)


def test_a_batch_is_not_longer_than_twice_its_size(path, small_batches):
    model = open_model(path)
    batches = list(batches_module.batches(model, model.tensors))
    sizes = [int((batch.stops - batch.starts).sum()) * batch.words.itemsize for batch in batches]
    assert sum(sizes) == sum(t.nbytes for t in model.tensors)
    assert max(sizes) < 2 * 4_096
    assert len(batches) > len(TYPES)
    assert not any(batch.words.flags.writeable for batch in batches)


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


def test_low_bits_of_nothing(tmp_path):
    path = write_raw(tmp_path / "model.gguf", {"empty": ("F32", np.empty(0, np.uint32))}, 32)
    assert low_bits(path) == {"empty": 0}


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


# --- groups and totals


def test_groups(path):
    groups = scan(path).groups()
    norms = [TENSORS[f"blk.{i}.attn_norm.weight"][1] for i in (0, 1)]
    ups = [TENSORS[f"blk.{i}.ffn_up.weight"][1] for i in (0, 1)]
    assert list(groups) == [
        "token_embd.weight",
        "blk.*.attn_norm.weight",
        "blk.*.ffn_up.weight",
        "blk.*.rope",
        "output_norm.weight",
    ]
    assert groups["blk.*.attn_norm.weight"] == profile_of(np.concatenate(norms), "F32")
    assert groups["blk.*.ffn_up.weight"] == profile_of(np.concatenate(ups), "BF16")
    assert groups["output_norm.weight"] == profile_of(TENSORS["output_norm.weight"][1], "F32")


def test_groups_of_several_types_stand_by_type(tmp_path):
    tensors = {
        "blk.0.a": ("F32", words_for("F32", 10, 1)),
        "blk.1.a": ("F16", words_for("F16", 20, 2)),
        "blk.2.a": ("F32", words_for("F32", 30, 3)),
        "blk.0.b": ("F16", words_for("F16", 40, 4)),
    }
    groups = scan(write(tmp_path / "model.gguf", tensors)).groups()
    assert list(groups) == ["blk.*.a (F32)", "blk.*.a (F16)", "blk.*.b"]
    singles = np.concatenate([tensors["blk.0.a"][1], tensors["blk.2.a"][1]])
    assert groups["blk.*.a (F32)"] == profile_of(singles, "F32")
    assert groups["blk.*.a (F16)"] == profile_of(tensors["blk.1.a"][1], "F16")


def test_exceptions_have_a_place(tmp_path, small_batches):
    values = np.random.default_rng(0).normal(0, 0.02, 5_000).astype(np.float32)
    bfloats = values.view(np.uint32) & np.uint32(0xFFFF0000)
    doubles = values.astype(np.float64).view(np.uint64)
    clean = bfloats.copy()
    bfloats[[17, 4_321]] |= 1
    doubles[[0, 2_222]] |= np.uint64(1)
    tensors = {"a": ("F32", bfloats), "b": ("F64", doubles), "c": ("F32", clean)}
    report = scan(write(tmp_path / "m.gguf", tensors))
    assert [str(report[name].origin) for name in "abc"] == ["f32 (bf16 but for 2)", "f64 (f32 but for 2)", "bf16"]
    assert report.exceptions("a") == [(at, f"{bfloats[at]:08x}") for at in (17, 4_321)]
    assert report.exceptions("b", limit=1) == [(0, f"{doubles[0]:016x}")]
    assert report.exceptions("c") == []


def test_totals(path):
    totals = scan(path).totals()
    assert set(totals) == set(TYPES)
    for type, total in totals.items():
        words = np.concatenate([words for of, words in TENSORS.values() if of == type])
        assert total == profile_of(words, type)


# --- low_bits


def test_low_bits_are_those_of_the_scan(path, small_batches):
    report = scan(path)
    norms = [name for name, (type, _) in TENSORS.items() if type == "F32"]
    for bits in range(1, 32):
        got = low_bits(path, bits=bits)
        assert got == {name: report[name].low_zero(bits) for name in norms}
        assert list(got) == norms
    assert low_bits(path) == low_bits(path, bits=16)


@pytest.mark.parametrize("bits", [0, 32, -1])
def test_low_bits_refuses_other_numbers_of_bits(path, bits):
    with pytest.raises(ValueError, match="allowed are 1 to 31"):
        low_bits(path, bits=bits)


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
