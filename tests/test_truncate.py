import errno
import os
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import truebits as tb
import truebits_native as native
from gguf_bytes import U16, key_value, scalar, tensor
from gguf_bytes import gguf as gguf_bytes
from models import assert_same_file, model_bytes, names
from stopping import sabotage
from truebits.errors import ModelFileError, Refused, SelectionError, Unfinished, UsageError, VerificationFailed
from truebits.files.model import open_model
from truebits.rewriting.beside import marker_path
from words import SPECIAL, mixed

F32, F16, Q8_0, BF16 = 0, 1, 8, 30
NOT_CUT = np.random.default_rng(3).bytes(4 * 34)


def cut(words, bits):
    """Return F32 words with the low bits zero; Inf stays, and a NaN that would lose its payload gets the quiet bit."""
    cleared = words >> np.uint32(bits) << np.uint32(bits)
    values = words.view(np.float32)
    nan = words & np.uint32(0xFF800000) | cleared & np.uint32(0x007FFFFF)
    nan |= np.where(nan & np.uint32(0x007FFFFF), np.uint32(0), np.uint32(0x00400000))
    return np.where(np.isnan(values), nan, np.where(np.isinf(values), words, cleared))


def contents(arrays, bits=None, chosen=()):
    """List F32 tensors (cut where `chosen`) among others that no cut touches."""
    listed = [("token_embd.weight", Q8_0, 128, NOT_CUT)]
    for name, words in arrays.items():
        cut_words = cut(words, bits) if name in chosen else words
        listed.append((name, F32, words.size, cut_words.tobytes()))
    listed.append(("half.weight", F16, 33, NOT_CUT[:66]))
    listed.append(("brain.weight", BF16, 31, NOT_CUT[:62]))
    return listed


ARRAYS = {
    "blk.0.attn_norm.weight": mixed(500, 0),
    "blk.0.ffn_up.weight": mixed(3001, 1),
    "blk.1.attn_norm.weight": SPECIAL.copy(),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(model_bytes(contents(ARRAYS)))
    return path


# --- plan and rewrite

NAMES = ("blk.0.attn_norm.weight", "blk.0.ffn_up.weight", "blk.1.attn_norm.weight", "output_norm.weight")
TENSORS = st.dictionaries(st.sampled_from(NAMES), st.tuples(st.integers(0, 60), st.integers(0, 2**32 - 1)), min_size=1)
REGEXES = st.one_of(st.none(), st.sampled_from(["norm", r"blk\.0\.", "ffn", "weight", "output"]))


@settings(max_examples=150, deadline=None)
@given(sizes=TENSORS, bits=st.integers(1, 31), select=REGEXES, exclude=REGEXES, in_place=st.booleans())
@example(sizes={"blk.0.ffn_up.weight": (60, 0)}, bits=16, select=None, exclude=None, in_place=False)
@example(sizes={"blk.0.ffn_up.weight": (60, 0)}, bits=31, select=None, exclude=None, in_place=True)
def test_rewrite_is_the_plan_and_what_numpy_says(tmp_path_factory, sizes, bits, select, exclude, in_place):
    folder = tmp_path_factory.getbasetemp() / "property"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source, out = folder / "model.gguf", folder / "out.gguf"
    arrays = {name: np.append(mixed(size, seed), SPECIAL) for name, (size, seed) in sizes.items()}
    source.write_bytes(model_bytes(contents(arrays)))
    chosen = [name for name in arrays if re.search(select or "", name) and not (exclude and re.search(exclude, name))]
    arguments = {"bits": bits, "select": select, "exclude": exclude}
    if not chosen:
        with pytest.raises(SelectionError):
            tb.plan(source, **arguments)
        with pytest.raises(SelectionError):
            tb.truncate(source, out, **arguments)
        assert names(folder) == ["model.gguf"]
        return
    expected = model_bytes(contents(arrays, bits, chosen))
    changes = {name: int(np.count_nonzero(cut(arrays[name], bits) != arrays[name])) for name in chosen}

    planned = tb.plan(source, **arguments)
    assert [(t.name, t.values, t.changed) for t in planned.tensors] == [
        (name, arrays[name].size, changes[name]) for name in chosen
    ]
    assert planned.changed == sum(changes.values())
    assert not planned.written

    original = source.read_bytes()
    got = tb.truncate(source, in_place=True, **arguments) if in_place else tb.truncate(source, out, **arguments)
    assert replace(got, written=False) == planned
    assert got.written == (planned.changed > 0)
    if in_place:
        assert_same_file(source.read_bytes(), expected)
        assert names(folder) == ["model.gguf"]
    else:
        assert_same_file(source.read_bytes(), original)
        assert out.exists() == got.written
        assert not got.written or out.read_bytes() == expected


@pytest.mark.parametrize("bits", range(1, 32))
def test_every_number_of_bits(path, bits):
    out = path.with_name("out.gguf")
    assert tb.truncate(path, out, bits=bits).written
    assert_same_file(out.read_bytes(), model_bytes(contents(ARRAYS, bits, ARRAYS)))


def test_nan_stays_nan_and_inf_stays_inf(path):
    out = path.with_name("out.gguf")
    for bits in (16, 22, 23, 24, 31):
        tb.truncate(path, out, bits=bits, force=True)
        last = open_model(out).tensors[3]
        got = np.frombuffer(out.read_bytes()[last.offset : last.offset + last.nbytes], np.float32)
        expected = SPECIAL.view(np.float32)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        np.testing.assert_array_equal(got[np.isinf(expected)], expected[np.isinf(expected)])
        assert not np.isinf(got[~np.isinf(expected)]).any()


def test_bits_outside_the_selected_f32_tensors_stay(path):
    out = path.with_name("out.gguf")
    tb.truncate(path, out, bits=16, select="ffn_up")
    selected = open_model(path).tensors[2]
    before, after = np.frombuffer(path.read_bytes(), np.uint8), np.frombuffer(out.read_bytes(), np.uint8)
    differ = np.flatnonzero(before != after)
    assert selected.name == "blk.0.ffn_up.weight"
    assert differ.size > 0
    assert selected.offset <= differ[0]
    assert differ[-1] < selected.offset + selected.nbytes


@pytest.mark.parametrize("bits", [1, 16, 31])
def test_cutting_twice_is_cutting_once(path, bits):
    once, twice = path.with_name("once.gguf"), path.with_name("twice.gguf")
    tb.truncate(path, once, bits=bits)
    got = tb.truncate(once, twice, bits=bits)
    assert (got.changed, got.written) == (0, False)
    assert not twice.exists()


def test_iterables_of_regexes(path):
    got = tb.truncate(path, path.with_name("out.gguf"), bits=8, select=iter(["attn", "ffn"]), exclude=["blk.1"])
    assert [change.name for change in got.tensors] == ["blk.0.attn_norm.weight", "blk.0.ffn_up.weight"]


def test_progress_reaches_the_end(path):
    steps = []
    tb.truncate(path, path.with_name("out.gguf"), bits=8, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (path.stat().st_size, path.stat().st_size)


def test_reason(path):
    cut_16 = path.with_name("out.gguf")
    got = tb.truncate(path, cut_16, bits=16)
    assert f"{got.changed:,} of {got.values:,} values change" in got.reason
    assert "low 16 bits" in got.reason
    assert "already are BF16" in tb.plan(cut_16, bits=16).reason
    assert tb.plan(cut_16, bits=12).reason.startswith("nothing changes")


# --- nothing to do


@pytest.fixture
def exact(tmp_path):
    """A model that already is BF16, last written long ago."""
    path = tmp_path / "exact.gguf"
    path.write_bytes(model_bytes(contents(ARRAYS, 16, ARRAYS)))
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.mark.parametrize("arguments", [{}, {"in_place": True}, {"in_place": True, "undo_file": "undo"}])
def test_where_nothing_changes_nothing_is_written(exact, monkeypatch, arguments):
    monkeypatch.chdir(exact.parent)
    for name in ("pwrite", "fsync", "replace"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("something was written"))
    before = exact.read_bytes()
    out = None if arguments else exact.with_name("out.gguf")
    got = tb.truncate(exact, out, bits=16, **arguments)
    assert (got.changed, got.written) == (0, False)
    assert exact.read_bytes() == before
    assert exact.stat().st_mtime_ns == 10**18
    assert names(exact.parent) == ["exact.gguf"]


# --- refused before any work


def test_refused_requests(path):
    """(arguments, error, what the message says); none reads the tensors, none writes."""
    out, before = path.with_name("out.gguf"), path.read_bytes()
    old = path.with_name("old.gguf")
    old.write_bytes(b"old")
    path.with_name("link.gguf").symlink_to(path)
    for arguments, error, word in [
        ({"bits": 0, "out": out}, UsageError, "1 to 31"),
        ({"bits": 32, "out": out}, UsageError, "1 to 31"),
        ({"bits": -1, "in_place": True}, UsageError, "1 to 31"),
        ({"bits": 16, "out": out, "select": "nothing"}, SelectionError, "--include 'nothing'"),
        ({"bits": 16, "out": out, "exclude": "weight"}, SelectionError, "--exclude 'weight'"),
        ({"bits": 16, "out": out, "select": "half"}, SelectionError, "no F32 tensor is selected, only F16"),
        ({"bits": 16, "in_place": True, "select": "token"}, SelectionError, "only Q8_0"),
        ({"bits": 16, "out": out, "select": "("}, SelectionError, "not a regular expression"),
        ({"bits": 16, "out": path}, UsageError, "is the input"),
        ({"bits": 16, "out": path, "force": True}, UsageError, "is the input"),
        ({"bits": 16, "out": path.with_name("link.gguf"), "force": True}, UsageError, "is the input"),
        ({"bits": 16, "out": old}, Refused, "--force"),
        ({"bits": 16}, UsageError, "--in-place"),
        ({"bits": 16, "out": out, "in_place": True}, UsageError, "--in-place"),
        ({"bits": 16, "out": out, "undo_file": path.with_name("undo")}, UsageError, "--undo-file"),
        ({"bits": 16, "in_place": True, "allow": ["everything"]}, UsageError, "everything"),
        ({"bits": 16, "in_place": True, "allow": "open"}, UsageError, "allowed are"),
    ]:
        progress = lambda *_: pytest.fail("tensors were read")  # noqa: E731
        with pytest.raises(error, match=re.escape(word)) as caught:
            tb.truncate(path, progress=progress, **arguments)
        assert caught.value.exit_code == (5 if error is Refused else 2), arguments
        assert names(path.parent) == ["link.gguf", "model.gguf", "old.gguf"]
        assert (path.read_bytes(), old.read_bytes()) == (before, b"old")


@pytest.mark.parametrize("bits", [0, 32])
def test_plan_refuses_bits(path, bits):
    with pytest.raises(UsageError, match="1 to 31"):
        tb.plan(path, bits=bits)


def test_force_replaces_the_output(path):
    out = path.with_name("out.gguf")
    out.write_bytes(b"old")
    tb.truncate(path, out, bits=16, force=True)
    assert out.read_bytes() == model_bytes(contents(ARRAYS, 16, ARRAYS))


def test_malformed_file(path):
    path.write_bytes(path.read_bytes()[:-200])
    before = path.read_bytes()
    for arguments in ({"out": path.with_name("out.gguf")}, {"in_place": True}):
        with pytest.raises(ModelFileError) as caught:
            tb.truncate(path, bits=16, **arguments)
        assert caught.value.exit_code == 3
    assert path.read_bytes() == before
    assert names(path.parent) == ["model.gguf"]


# --- layouts that do not add up

WORDS = np.full(8, 0x3F812345, np.uint32).tobytes()
ODD = {
    "E_TYPE": gguf_bytes([], [tensor(b"w"), tensor(b"new", (8,), 43, 32)], WORDS * 2),
    "E_LAYOUT": gguf_bytes([], [tensor(b"w", offset=32)], bytes(32) + WORDS),
    "E_UNEXPLAINED": gguf_bytes([], [tensor(b"w")], WORDS + b"more"),
}


@pytest.mark.parametrize("code", ODD)
def test_odd_layout_is_not_written(tmp_path, code):
    path = tmp_path / "odd.gguf"
    path.write_bytes(ODD[code])
    assert tb.plan(path, bits=16).changed == 8
    for arguments in ({"out": tmp_path / "out.gguf"}, {"in_place": True}):
        with pytest.raises(Refused, match=f"{code} at byte .*--allow layout") as caught:
            tb.truncate(path, bits=16, **arguments)
        assert caught.value.exit_code == 5
        assert path.read_bytes() == ODD[code]
        assert names(tmp_path) == ["odd.gguf"]


@pytest.mark.parametrize("code", ODD)
def test_odd_layout_is_written_if_allowed(tmp_path, code):
    path, out = tmp_path / "odd.gguf", tmp_path / "out.gguf"
    path.write_bytes(ODD[code])
    assert tb.truncate(path, out, bits=16, allow=["layout"]).written
    assert path.read_bytes() == ODD[code]
    assert tb.truncate(path, bits=16, in_place=True, allow=["layout"]).written
    w = open_model(path).tensors[0]
    expected = bytearray(ODD[code])
    expected[w.offset : w.offset + 32] = np.full(8, 0x3F810000, np.uint32).tobytes()
    assert path.read_bytes() == out.read_bytes() == expected


# --- shard sets


def shard_bytes(number, arrays, bits=None):
    keys = [key_value(b"split.no", U16, scalar(U16, number)), key_value(b"split.count", U16, scalar(U16, 3))]
    listed = contents(arrays, bits, arrays if bits else ())
    return model_bytes([(f"{number}.{name}", *rest) for name, *rest in listed], keys)


SHARDS = [{"a": mixed(100, 1), "b": mixed(50, 2)}, {}, {"c": mixed(2000, 3)}]


@pytest.fixture
def shards(tmp_path):
    paths = [tmp_path / f"set-0000{number + 1}-of-00003.gguf" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(shard_bytes(number, SHARDS[number]))
    return paths


@pytest.mark.parametrize("opened", [0, 1])
def test_new_shard_set(shards, tmp_path, opened):
    folder = tmp_path / "new"
    folder.mkdir()
    got = tb.truncate(shards[opened], folder / "cut-00001-of-00003.gguf", bits=16)
    assert [change.name for change in got.tensors] == ["0.a", "0.b", "2.c"]
    assert replace(got, written=False) == tb.plan(shards[0], bits=16)
    assert names(folder) == [f"cut-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for number, arrays in enumerate(SHARDS):
        assert_same_file((folder / f"cut-0000{number + 1}-of-00003.gguf").read_bytes(), shard_bytes(number, arrays, 16))
        assert shards[number].read_bytes() == shard_bytes(number, arrays)
    assert open_model(folder / "cut-00002-of-00003.gguf").types == open_model(shards[0]).types


def test_shard_set_in_place(shards, tmp_path):
    assert tb.truncate(shards[1], bits=16, in_place=True, undo_file=tmp_path / "undo").written
    for number, arrays in enumerate(SHARDS):
        assert_same_file(shards[number].read_bytes(), shard_bytes(number, arrays, 16))
    assert len(names(tmp_path)) == 4
    tb.undo(shards[0], tmp_path / "undo")
    for number, arrays in enumerate(SHARDS):
        assert_same_file(shards[number].read_bytes(), shard_bytes(number, arrays))


@pytest.mark.parametrize("in_place", [False, True])
def test_one_odd_shard_stops_all(shards, tmp_path, in_place):
    folder = tmp_path / "new"
    folder.mkdir()
    with shards[2].open("ab") as file:
        file.write(b"more")
    before = [shard.read_bytes() for shard in shards]
    out = None if in_place else folder / "cut-00001-of-00003.gguf"
    with pytest.raises(Refused, match="E_UNEXPLAINED"):
        tb.truncate(shards[0], out, bits=16, in_place=in_place)
    assert [shard.read_bytes() for shard in shards] == before
    assert len(names(tmp_path)) == 4
    assert names(folder) == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_existing_shard_is_refused(shards, tmp_path, number):
    old = tmp_path / f"cut-0000{number}-of-00003.gguf"
    old.write_bytes(b"old")
    with pytest.raises(Refused, match=old.name):
        tb.truncate(shards[0], tmp_path / "cut-00001-of-00003.gguf", bits=16)
    assert old.read_bytes() == b"old"
    assert len(names(tmp_path)) == 4


def test_error_in_the_last_shard_leaves_none(shards, tmp_path, monkeypatch):
    folder = tmp_path / "new"
    folder.mkdir()
    fallocate, calls = os.posix_fallocate, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "full")
        fallocate(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="full"):
        tb.truncate(shards[0], folder / "cut-00001-of-00003.gguf", bits=16)
    assert names(folder) == []


# --- threads


def test_result_does_not_depend_on_threads(tmp_path):
    """With the kernels: they take over, once Numba is imported, from 16,384 words on."""
    pytest.importorskip("numba")
    assert "numba" in sys.modules
    arrays = {"a": mixed(300_000, 1), "b": mixed(100, 2), "c": mixed(70_000, 3)}
    path = tmp_path / "model.gguf"
    path.write_bytes(model_bytes(contents(arrays)))
    expected = model_bytes(contents(arrays, 13, arrays))
    rewrites = []
    for threads in (1, 2, None):
        rewrites.append(tb.truncate(path, tmp_path / "out.gguf", bits=13, threads=threads, force=True))
        assert_same_file((tmp_path / "out.gguf").read_bytes(), expected)
    assert rewrites[0] == rewrites[1] == rewrites[2]


# --- verification


def weak_spots(path):
    """Name bytes a sabotaged writer may hit, once each: (offset, mask, what the error says)."""
    model = open_model(path)
    embedding, _, up, norm, *_ = model.tensors
    return {
        "version": (4, 1, "bytes outside|not the input|not as planned"),
        "quantized": (embedding.offset + 7, 0x80, "bytes outside|not the input|not as planned"),
        "unselected": (norm.offset + 5, 1, "bytes outside|not the input|not as planned"),
        "low bits": (up.offset + 4000, 1, "not as planned|not what was written"),
        "exponent": (up.offset + 4003, 0x40, "not the input|not as planned|not what was written"),
    }


SPOTS = ("version", "quantized", "unselected", "low bits", "exponent")


@pytest.mark.parametrize("spot", SPOTS)
def test_sabotaged_copy_is_found_and_removed(path, monkeypatch, spot):
    at, mask, message = weak_spots(path)[spot]
    before = path.read_bytes()
    sabotage(monkeypatch, path.stat().st_size, at, mask)
    with pytest.raises(VerificationFailed, match=message) as caught:
        tb.truncate(path, path.with_name("out.gguf"), bits=16, select="ffn_up")
    assert caught.value.exit_code == 4
    assert names(path.parent) == ["model.gguf"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("spot", SPOTS)
def test_sabotaged_rewrite_in_place_is_found(path, monkeypatch, spot):
    at, mask, message = weak_spots(path)[spot]
    sabotage(monkeypatch, path.stat().st_size, at, mask)
    with pytest.raises(VerificationFailed, match=message):
        tb.truncate(path, bits=16, select="ffn_up", in_place=True)
    assert marker_path(path).exists()


@pytest.mark.parametrize("in_place", [False, True])
def test_more_changes_than_planned_are_found_before_the_end(path, monkeypatch, in_place):
    """The output must not have got its name, and the marker must still be there."""
    truncate = native.truncate
    monkeypatch.setattr(native, "truncate", lambda words, bits, threads: truncate(words, bits, threads) + 1)
    out = None if in_place else path.with_name("out.gguf")
    with pytest.raises((VerificationFailed, Unfinished), match="the plan said"):
        tb.truncate(path, out, bits=16, in_place=in_place)
    assert names(path.parent) == (["model.gguf", marker_path(path).name] if in_place else ["model.gguf"])


def test_the_work_is_announced(tmp_path, monkeypatch):
    """In pieces of a megaword none is worth loading a kernel; all together may be."""
    announced = []
    monkeypatch.setattr(native, "expect_work", lambda name, words: announced.append((name, words)))
    path = tb.synth(tmp_path / "m.gguf", size=1 << 16, precision="f32")
    tb.plan(path, bits=16)
    assert ("truncate", tb.open(path).values) in announced
