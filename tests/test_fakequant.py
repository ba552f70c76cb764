"""Fake quantization of files: the plan, what is written and what is not, in place and back, sweeps, the command."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import truebits as tb
from gguf_bytes import U16, key_value, scalar
from models import TYPE_ID, assert_same_file, model_bytes, names, words_for, write
from running import run
from stopping import sabotage, stopped
from truebits import data
from truebits.cli import app as cli
from truebits.errors import ModelFileError, Refused, SelectionError, Unfinished, UsageError, VerificationFailed
from truebits.files.model import open_model
from truebits.numbers.formats import CATALOGUE, Format
from truebits.numbers.rounding import Rounding
from truebits.numbers.spelling import find, target
from truebits.report.table import STYLES
from truebits.rewriting.beside import marker_path
from truebits.rewriting.rules import bits_per_weight
from words import CUSTOM, DTYPE, SPECIAL, TYPES, assert_same_bits, finite_words, mixed, words_in

SCALED = ("int8", "int4:row:affine", "int6:tensor:mse", "mxfp4", "nvfp4", "q8_0", "q4_0")
"""One or two of each kind of format whose values share scales."""


def special_words(type):
    """Return zeros, ends of formats, infinities and NaNs, quiet and signalling, with payloads, all of both signs."""
    if type == "F32":
        return SPECIAL
    values = np.array([0, 1, 448, 480, 464, 65504, 65536, 2.0**-14, 2.0**-24, 2.0**-126, 2.0**-133, 1e-45, np.inf])
    infinity, word = words_in(np.array([np.inf]), type)[0], DTYPE[type]
    quiet = word(int(infinity) & -int(infinity)) >> word(1)
    nans = np.array([infinity | word(1), infinity | quiet, infinity | quiet | word(1), infinity | quiet >> word(1)])
    words = np.concatenate([words_in(values, type), [word(1), word(2)], nans]).astype(word)
    return np.concatenate([words, words | word(1 << (8 * words.itemsize - 1))])


def assorted(type, size, seed=0):
    return np.concatenate([special_words(type), words_for(type, size, seed)])


def read(path, name):
    """Return the words of one tensor."""
    tensor = next(tensor for tensor in open_model(path).tensors if tensor.name == name)
    return np.frombuffer(path.read_bytes(), DTYPE[tensor.type], tensor.values, tensor.offset)


def without_differences(rewrite):
    return replace(rewrite, written=False, tensors=tuple(one._replace(difference=None) for one in rewrite.tensors))


# --- the plan is made of counts, and it is what changes


def roundings(name):
    """List every rounding, with and without subnormals, and everything a value beyond the format can become."""
    format = find(name)
    modes = ("nearest", False), ("nearest", True), ("truncate", True), ("stochastic", False)
    found = [Rounding(mode, flush_subnormals=flush) for mode, flush in modes]
    to_inf = [Rounding(overflow="inf")] * (format.has_inf or format.has_nan)
    return [*found, Rounding(overflow="saturate"), *to_inf]


@pytest.mark.parametrize("name", [*CATALOGUE, *CUSTOM])
def test_the_plan_of_counts_is_what_changes(tmp_path, name):
    tensors = {type: (type, assorted(type, 300)) for type in TYPES}
    path, out = write(tmp_path / "model.gguf", tensors), tmp_path / "out.gguf"
    for rounding in roundings(name):
        out.unlink(missing_ok=True)
        planned = tb.plan(path, to=name, rounding=rounding)
        got = tb.fakequant(path, out, to=name, rounding=rounding)
        assert without_differences(got) == planned
        for change in got.tensors:
            before = tensors[change.name][1]
            after = read(out, change.name) if got.written else before
            assert change.changed == np.count_nonzero(before != after), (rounding, change.name)
            assert (change.values, change.to) == (before.size, name)
        if rounding.flush_subnormals:
            dry = tb.fakequant(path, to=name, dry_run=True, rounding=rounding)
            assert without_differences(dry) == planned
            assert not got.written or dry == replace(got, written=False)


NAMES = st.one_of(
    st.sampled_from(list(CATALOGUE)),
    st.builds("e{}m{}".format, st.integers(2, 8), st.integers(0, 23)),
)
TENSORS = st.dictionaries(
    st.sampled_from([f"blk.{i}.{type}" for i in range(2) for type in TYPES]),
    st.tuples(st.integers(0, 40), st.integers(0, 2**32 - 1)),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(
    sizes=TENSORS,
    name=NAMES,
    rounding=st.sampled_from(["nearest", "truncate", "stochastic"]),
    flush=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    in_place=st.booleans(),
)
@example({"blk.0.F32": (40, 0)}, "f64", "nearest", True, 0, False)
@example({"blk.0.BF16": (40, 0)}, "f64", "truncate", True, 0, True)
@example({"blk.0.F64": (40, 0)}, "fp8_e4m3fnuz", "stochastic", False, 2**64 - 1, True)
def test_plan_and_rewrite_of_any_words(tmp_path_factory, sizes, name, rounding, flush, seed, in_place):
    folder = tmp_path_factory.getbasetemp() / "property"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tensors = {key: (key.split(".")[-1], assorted(key.split(".")[-1], size, at)) for key, (size, at) in sizes.items()}
    path, out = write(folder / "model.gguf", tensors), folder / "out.gguf"
    arguments = {"to": name, "rounding": Rounding(rounding, seed, flush_subnormals=flush)}
    planned = tb.plan(path, **arguments)
    original = path.read_bytes()
    got = tb.fakequant(path, in_place=True, **arguments) if in_place else tb.fakequant(path, out, **arguments)
    assert without_differences(got) == planned
    assert got.written == bool(planned.changed)
    written = path if in_place or not got.written else out
    for change in got.tensors:
        assert change.changed == np.count_nonzero(read(written, change.name) != tensors[change.name][1])
    assert in_place or path.read_bytes() == original
    assert names(folder) == (["model.gguf", "out.gguf"] if got.written and not in_place else ["model.gguf"])
    assert tb.plan(written, **arguments).changed == 0


@pytest.mark.parametrize("to", SCALED)
def test_the_plan_of_formats_with_scales_is_found_by_trying(tmp_path, to):
    path = write(tmp_path / "model.gguf", {type: (type, finite_words(type, (3, 256))) for type in TYPES})
    planned = tb.plan(path, to=to)
    assert names(tmp_path) == ["model.gguf"]
    got = tb.fakequant(path, tmp_path / "out.gguf", to=to)
    assert planned == replace(got, written=False)
    for change in got.tensors:
        assert change.changed == np.count_nonzero(read(tmp_path / "out.gguf", change.name) != read(path, change.name))
    assert got.difference.changed == got.changed > 0


# --- what is written

QUANTIZED = np.random.default_rng(3).bytes(4 * 34)
F32_WORDS = np.concatenate([SPECIAL, mixed(3_000, 1)])
ARRAYS = {
    "blk.0.attn_norm.weight": ("F32", F32_WORDS),
    "blk.0.ffn_up.weight": ("F32", finite_words("F32", 2_048)),
    "blk.1.attn_norm.weight": ("F32", mixed(333, 2)),
    "half.weight": ("F16", finite_words("F16", 65)),
    "brain.weight": ("BF16", finite_words("BF16", 2_992)),
    "wide.weight": ("F64", finite_words("F64", 77)),
}


def file_bytes(arrays, keys=()):
    """Return a file of the tensors, among others that cannot be rounded."""
    listed = [("token_embd.weight", TYPE_ID["Q8_0"], 128, QUANTIZED), ("positions", TYPE_ID["I32"], 9, bytes(36))]
    for name, (type, words) in arrays.items():
        listed.append((name, TYPE_ID[type], words.size, words.tobytes()))
    return model_bytes([*listed, ("last", TYPE_ID["Q8_0"], 32, QUANTIZED[:34])], keys)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(file_bytes(ARRAYS))
    return path


def cast(words, type, dtype):
    """Return finite words after a cast to a type of NumPy or ml_dtypes and back."""
    values = words.view({"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}[type])
    return words_in(values.astype(dtype), type)


def test_rules_give_each_tensor_its_format_and_all_other_bytes_stay(path):
    out = path.with_name("out.gguf")
    rules = ["norm=keep", "half=fp8_e5m2", "wide=f32", "brain=fp8_e4m3fn"]
    got = tb.fakequant(path, out, to="bf16", rules=rules)
    dtypes = {
        "blk.0.ffn_up.weight": ml_dtypes.bfloat16,
        "half.weight": ml_dtypes.float8_e5m2,
        "brain.weight": ml_dtypes.float8_e4m3fn,
        "wide.weight": np.float32,
    }
    expected = dict(ARRAYS)
    for name, dtype in dtypes.items():
        type, words = ARRAYS[name]
        expected[name] = type, cast(words, type, dtype)
    assert_same_file(out.read_bytes(), file_bytes(expected))
    assert_same_file(path.read_bytes(), file_bytes(ARRAYS))
    assert {change.name: change.to for change in got.tensors} == {
        "blk.0.ffn_up.weight": "bf16",
        "half.weight": "fp8_e5m2",
        "brain.weight": "fp8_e4m3fn",
        "wide.weight": "f32",
    }
    assert [change.name for change in got.tensors] == [name for name in ARRAYS if name in dtypes]
    assert got.reason == f"{got.changed:,} of {got.values:,} values change: they are not exact in their formats"


@pytest.mark.parametrize("to", ["bf16", *SCALED])
def test_only_selected_tensors_change(path, to):
    out, name = path.with_name("out.gguf"), "blk.0.ffn_up.weight"
    got = tb.fakequant(path, out, rules=[f"ffn={to}"], select="ffn")
    assert [change.name for change in got.tensors] == [name]
    expected = {**ARRAYS, name: ("F32", read(out, name))}
    assert_same_file(out.read_bytes(), file_bytes(expected))
    assert got.changed == np.count_nonzero(read(out, name) != ARRAYS[name][1]) > 0


def test_progress_reaches_the_end(path):
    for to, select in (("bf16", None), ("int8", "ffn")):
        steps = []
        arguments = {"to": to, "select": select, "progress": lambda *step: steps.append(step)}  # noqa: B023
        tb.fakequant(path, path.with_name(f"{to}.gguf"), **arguments)
        assert steps[-1] == (path.stat().st_size, path.stat().st_size)


def test_force_replaces_the_output(path):
    out = path.with_name("out.gguf")
    out.write_bytes(b"old")
    with pytest.raises(Refused, match="--force"):
        tb.fakequant(path, out, to="bf16")
    assert out.read_bytes() == b"old"
    tb.fakequant(path, out, to="bf16", force=True)
    assert tb.plan(out, to="bf16").changed == 0


def test_a_model_that_is_open_and_one_by_its_name(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    tb.fakequant(tb.open(path), "a.gguf", to="bf16")
    tb.fakequant("model.gguf", "b.gguf", to="bf16")
    assert path.with_name("a.gguf").read_bytes() == path.with_name("b.gguf").read_bytes()


# --- the errors it reports


@pytest.mark.parametrize("to", ["bf16", "fp8_e4m3fn", *SCALED])
def test_difference_is_that_of_the_values(tmp_path, to):
    tensors = {"a": ("F32", finite_words("F32", (3, 256), 1)), "b": ("F32", finite_words("F32", (2, 512), 2))}
    path, out = write(tmp_path / "model.gguf", tensors), tmp_path / "out.gguf"
    got = tb.fakequant(path, out, to=to)
    olds, news = ([read(file, name).view(np.float32).astype(np.float64) for name in "ab"] for file in (path, out))
    for of, old, new in zip(
        [*(one.difference for one in got.tensors), got.difference],
        [*olds, np.concatenate(olds)],
        [*news, np.concatenate(news)],
        strict=True,
    ):
        error = np.abs(new - old)
        assert (of.values, of.changed) == (old.size, np.count_nonzero(old != new))
        assert of.flushed == np.count_nonzero((old != 0) & (new == 0))
        assert of.max_abs == pytest.approx(error.max(), rel=1e-6)
        assert of.max_rel == pytest.approx((error[old != 0] / np.abs(old[old != 0])).max(), rel=1e-6)
        assert of.squared_error == pytest.approx((error**2).sum(), rel=1e-6)
        assert of.squares == pytest.approx((old**2).sum(), rel=1e-12)
        assert of.rms == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
        assert of.snr_db == pytest.approx(10 * np.log10((old**2).sum() / (error**2).sum()), rel=1e-6)


def test_values_beyond_a_format_are_counted(tmp_path):
    values = np.array([1, 500, -1e9, np.inf, np.nan, 448, 0.0009, 1e-9], np.float32)
    path = write(tmp_path / "model.gguf", {"t": ("F32", values.view(np.uint32))})
    of = tb.fakequant(path, to="fp8_e4m3fn", dry_run=True).difference
    assert (of.saturated, of.flushed, of.max_abs) == (3, 2, 1e9 - 448)


# --- nothing to do


@pytest.fixture(params=["bf16", "int8"])
def exact(tmp_path, request):
    """A model that is rounded already, last written long ago; and the format."""
    path, out = tmp_path / "model.gguf", tmp_path / "exact.gguf"
    write(path, {"a": ("F32", finite_words("F32", (4, 64))), "b": ("F32", np.zeros(32, np.uint32))})
    tb.fakequant(path, out, to=request.param)
    path.unlink()
    os.utime(out, ns=(10**18, 10**18))
    return out, request.param


@pytest.fixture
def no_writes(monkeypatch):
    for name in ("pwrite", "fsync", "replace", "rename", "posix_fallocate"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("something was written"))


@pytest.mark.parametrize("arguments", [{"out": "out.gguf"}, {"in_place": True, "undo_file": "undo"}, {"dry_run": True}])
def test_where_nothing_changes_nothing_is_written(exact, monkeypatch, no_writes, arguments):
    path, to = exact
    monkeypatch.chdir(path.parent)
    before = path.read_bytes()
    got = tb.fakequant(path, to=to, **arguments)
    assert (got.changed, got.written) == (0, False)
    assert got.reason == f"nothing changes: all 288 values are exact in {target(to).name} already"
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == 10**18
    assert names(path.parent) == ["exact.gguf"]


@pytest.mark.parametrize("to", ["bf16", "int8:row", "int8:tensor:affine", "mxfp4", "nvfp4", "q8_0", "q4_0"])
def test_a_tensor_without_values(tmp_path, to):
    empty = ("F32", np.zeros(0, np.uint32))
    path = write(tmp_path / "model.gguf", {"empty": empty, "t": ("F32", finite_words("F32", (2, 32)))})
    got = tb.fakequant(path, tmp_path / "out.gguf", rules=[f".={to}"])
    assert [change.values for change in got.tensors] == [0, 64]
    assert read(tmp_path / "out.gguf", "t").size == 64
    (trial,) = tb.sweep(path, [to])
    assert trial.difference == got.difference
    assert trial.bits > 0
    alone = write(tmp_path / "alone.gguf", {"empty": empty})
    got = tb.fakequant(alone, tmp_path / "new.gguf", rules=[f".={to}"])
    assert (got.written, got.reason) == (False, "nothing changes: there are no values")
    model = open_model(alone)
    assert bits_per_weight(model, [(model.tensors[0], target(to))]) is None


@pytest.mark.parametrize("to", ["bf16", *SCALED])
def test_dry_run_measures_and_writes_nothing(path, no_writes, to):
    before = path.read_bytes()
    for arguments in ({}, {"out": path.with_name("out.gguf")}, {"in_place": True}):
        got = tb.fakequant(path, rules=[f"ffn={to}"], select="ffn", dry_run=True, **arguments)
        assert (got.written, got.difference.values) == (False, 2_048)
        assert got.difference.changed == got.changed > 0
        assert got.difference.rms > 0
    assert path.read_bytes() == before
    assert names(path.parent) == ["model.gguf"]


# --- verification


@pytest.mark.parametrize("to", ["bf16", "int8:tensor"])
@pytest.mark.parametrize("place", ["header", "quantized", "unselected", "rounded"])
def test_a_sabotaged_copy_is_found_and_removed(path, monkeypatch, to, place):
    tensors = {tensor.name: tensor.offset for tensor in open_model(path).tensors}
    at = {
        "header": 4,
        "quantized": tensors["token_embd.weight"] + 7,
        "unselected": tensors["wide.weight"] + 5,
        "rounded": tensors["blk.0.ffn_up.weight"] + 4_003,
    }[place]
    before = path.read_bytes()
    sabotage(monkeypatch, path.stat().st_size, at, 0x40)
    with pytest.raises(VerificationFailed, match=r"not the input|not as planned") as caught:
        tb.fakequant(path, path.with_name("out.gguf"), to=to, select="ffn")
    assert caught.value.exit_code == 4
    assert names(path.parent) == ["model.gguf"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("to", ["bf16", "int8"])
def test_a_sabotaged_rewrite_in_place_is_found(path, monkeypatch, to):
    write_at, before = os.pwrite, path.read_bytes()

    def pwrite(descriptor, data, offset):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            data = bytearray(data)
            data[100] ^= 0x40
        return write_at(descriptor, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        with pytest.raises(VerificationFailed, match="not what was written") as caught:
            tb.fakequant(path, to=to, select="ffn", in_place=True, undo_file=path.with_name("undo"))
    assert "truebits undo" in str(caught.value)
    assert marker_path(path).exists()
    tb.undo(path, path.with_name("undo"), force=True)
    assert path.read_bytes() == before


# --- in place


def in_place(path, to, **arguments):
    return tb.fakequant(path, to=to, select="ffn|brain", in_place=True, **arguments)


@pytest.fixture
def rounded(path):
    """Return what a new file of the same rounding holds."""

    def bytes_of(to, **arguments):
        out = path.with_name("expected.gguf")
        tb.fakequant(path, out, to=to, select="ffn|brain", **arguments)
        expected = out.read_bytes()
        out.unlink()
        return expected

    return bytes_of


@pytest.mark.parametrize("undo_file", [False, True])
@pytest.mark.parametrize("to", ["fp8_e5m2", "e4m2", "int8:row", "int5:tensor", "nvfp4"])
def test_in_place_is_as_in_a_new_file_and_back(path, small_blocks, rounded, to, undo_file):
    expected, before, inode = rounded(to), path.read_bytes(), path.stat().st_ino
    log = path.with_name("undo") if undo_file else None
    if not undo_file and not isinstance(target(to), Format):
        with pytest.raises(UsageError, match="--undo-file"):
            in_place(path, to)
        assert path.read_bytes() == before
        assert names(path.parent) == ["model.gguf"]
        return
    got = in_place(path, to, undo_file=log)
    assert got.written
    assert got.difference.changed == got.changed
    assert_same_file(path.read_bytes(), expected)
    assert path.stat().st_ino == inode
    assert names(path.parent) == ["model.gguf", *["undo"] * undo_file]
    if undo_file:
        assert tb.undo(path, log).operation["verb"] == "fakequant"
        assert_same_file(path.read_bytes(), before)


def test_one_format_with_scales_is_enough_to_need_an_undo_file(path):
    before = path.read_bytes()
    with pytest.raises(UsageError, match="--undo-file"):
        tb.fakequant(path, to="bf16", rules=["brain=keep", "ffn=int8:row", "norm=keep"], in_place=True)
    assert path.read_bytes() == before
    assert names(path.parent) == ["model.gguf"]
    assert tb.fakequant(path, to="bf16", rules=["ffn=keep"], in_place=True).written


@pytest.mark.parametrize("writes", [0, 1, 3])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("log", [None, "undo"])
def test_an_interrupted_rewrite_to_a_float_format_is_finished(
    path, small_blocks, rounded, monkeypatch, writes, rounding, log
):
    arguments = {"rounding": rounding, "undo_file": log and path.with_name(log)}
    expected, before = rounded("fp8_e4m3fn", rounding=rounding), path.read_bytes()
    with stopped(monkeypatch, path, writes), pytest.raises(Unfinished, match="run the same again") as caught:
        in_place(path, "fp8_e4m3fn", **arguments)
    assert caught.value.exit_code == 6
    half = path.read_bytes()
    assert half not in (before, expected)
    flushing = {"to": "fp8_e4m3fn", "rounding": Rounding(rounding, flush_subnormals=True)}
    for other in ({"to": "fp8_e5m2"}, flushing):
        with pytest.raises(Unfinished, match="another rewrite in place was left unfinished"):
            in_place(path, **arguments | other)
    assert path.read_bytes() == half
    assert in_place(path, "fp8_e4m3fn", **arguments).written
    assert_same_file(path.read_bytes(), expected)
    assert not marker_path(path).exists()
    if log:
        tb.undo(path, path.with_name(log))
        assert_same_file(path.read_bytes(), before)


@pytest.mark.parametrize("writes", [0, 1])
@pytest.mark.parametrize("to", ["int4", "int8:tensor:affine", "mxfp4", "nvfp4"])
def test_an_interrupted_rewrite_with_scales_is_taken_back_not_finished(
    path, small_blocks, rounded, monkeypatch, writes, to
):
    expected, before, log = rounded(to, exclude="brain"), path.read_bytes(), path.with_name("undo")
    arguments = {"undo_file": log, "exclude": "brain"}
    with stopped(monkeypatch, path, writes), pytest.raises(Unfinished, match="truebits undo") as caught:
        in_place(path, to, **arguments)
    assert "run the same again" not in str(caught.value)
    half = path.read_bytes()
    assert half not in (before, expected)
    with pytest.raises(Refused, match=f"truebits undo .*{path.name} --undo-file") as caught:
        in_place(path, to, **arguments)
    assert caught.value.exit_code == 5
    assert path.read_bytes() == half
    assert marker_path(path).exists()
    tb.undo(path, log)
    assert_same_file(path.read_bytes(), before)
    log.unlink()
    in_place(path, to, **arguments)
    assert_same_file(path.read_bytes(), expected)
    assert names(path.parent) == ["model.gguf", "undo"]


def test_an_interrupted_new_file_leaves_nothing(path, small_blocks, monkeypatch):
    write_at, done = os.pwrite, []

    def pwrite(*arguments):
        done.append(arguments)
        if len(done) == 3:
            raise KeyboardInterrupt
        return write_at(*arguments)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(KeyboardInterrupt):
        tb.fakequant(path, path.with_name("out.gguf"), to="int8", select="ffn")
    assert names(path.parent) == ["model.gguf"]


# --- shard sets

SHARDS = [
    {"a": ("F32", finite_words("F32", 2_048, 1)), "b": ("BF16", finite_words("BF16", 64, 2))},
    {},
    {"c": ("F16", finite_words("F16", 4_096, 3))},
]


@pytest.fixture
def shards(tmp_path):
    paths = [tmp_path / f"set-0000{number + 1}-of-00003.gguf" for number in range(3)]
    for number, path in enumerate(paths):
        keys = [key_value(b"split.no", U16, scalar(U16, number)), key_value(b"split.count", U16, scalar(U16, 3))]
        own = [(f"q.{number}", TYPE_ID["Q8_0"], 128, QUANTIZED)]
        own += [(name, TYPE_ID[type], words.size, words.tobytes()) for name, (type, words) in SHARDS[number].items()]
        path.write_bytes(model_bytes(own, keys))
    return paths


@pytest.mark.parametrize("to", ["fp8_e4m3fn", "int8:tensor", "nvfp4", "q8_0"])
def test_shard_set_to_a_new_one_and_in_place(shards, tmp_path, small_blocks, to):
    """Each tensor becomes what it does in a file of its own."""
    folder, before = tmp_path / "new", [shard.read_bytes() for shard in shards]
    folder.mkdir()
    got = tb.fakequant(shards[1], folder / "out-00001-of-00003.gguf", rules=[f"^[abc]$={to}"])
    assert [change.name for change in got.tensors] == ["a", "b", "c"]
    assert names(folder) == [f"out-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert [shard.read_bytes() for shard in shards] == before
    for part, arrays in zip(sorted(folder.iterdir()), SHARDS, strict=True):
        for name, (type, words) in arrays.items():
            alone = tb.fakequant(
                write(tmp_path / "alone.gguf", {name: (type, words)}),
                tmp_path / "one.gguf",
                rules=[f"^[abc]$={to}"],
                force=True,
            )
            (change,) = alone.tensors
            together = next(one for one in got.tensors if one.name == name)
            assert change[:4] == together[:4]
            assert change.difference[:7] == together.difference[:7]  # sums depend on where the file is cut
            tensor = next(tensor for tensor in open_model(part).tensors if tensor.name == name)
            found = np.frombuffer(part.read_bytes(), DTYPE[type], words.size, tensor.offset)
            assert_same_bits(found, read(tmp_path / "one.gguf", name))
    with pytest.raises(UsageError, match="NAME-00001-of-00003"):
        tb.fakequant(shards[0], tmp_path / "one-file.gguf", rules=[f"^[abc]$={to}"])
    tb.fakequant(shards[0], rules=[f"^[abc]$={to}"], in_place=True, undo_file=tmp_path / "undo")
    assert [shard.read_bytes() for shard in shards] == [part.read_bytes() for part in sorted(folder.iterdir())]
    tb.undo(shards[2], tmp_path / "undo")
    assert [shard.read_bytes() for shard in shards] == before


def test_a_refusal_in_the_last_shard_leaves_none(shards, tmp_path):
    words = SHARDS[2]["c"][1]
    with_nan = np.append(words[:-1], np.uint16(0x7E00))
    shards[2].write_bytes(shards[2].read_bytes().replace(words.tobytes(), with_nan.tobytes()))
    folder = tmp_path / "new"
    folder.mkdir()
    with pytest.raises(Refused, match="c has NaN or Inf"):
        tb.fakequant(shards[0], folder / "out-00001-of-00003.gguf", to="int8")
    assert names(folder) == []


# --- sweeps

SWEPT = ["bf16", "F16", "fp8_e4m3fn", "e5m7", "int8", "int4:row:affine", "int4:tensor:mse", "mxfp4", "nvfp4", "q8_0"]
BITS = [16, 16, 8, 13, 9, 4 + 36 / 64, 4 + 32 / 256, 4.25, 4.5 + 32 / 256, 8.5]


def test_a_sweep_finds_what_each_rounding_does(tmp_path, no_writes):
    path = write(tmp_path / "model.gguf", {type: (type, finite_words(type, (4, 64), 7)) for type in TYPES})
    steps = []
    found = tb.sweep(path, iter(SWEPT), progress=lambda *step: steps.append(step))
    assert [trial.to for trial in found] == [target(name).name for name in SWEPT]
    for name, bits, trial in zip(SWEPT, BITS, found, strict=True):
        assert trial.difference == tb.fakequant(path, to=name, dry_run=True).difference
        assert trial.bits == pytest.approx(bits, rel=1e-12)
        assert trial.problem is None
    assert steps[-1][0] == steps[-1][1] > 0
    assert names(tmp_path) == ["model.gguf"]


def test_a_sweep_takes_a_selection_and_a_manner(path):
    options = {"rounding": Rounding("stochastic", 5, "saturate", True)}
    (trial,) = tb.sweep(path, ["fp8_e5m2"], select="norm", exclude="blk.1", **options)
    expected = tb.fakequant(path, to="fp8_e5m2", select="norm", exclude="blk.1", dry_run=True, **options)
    assert trial.difference == expected.difference
    assert trial.difference.values == F32_WORDS.size


def test_a_format_that_cannot_take_a_tensor_gets_its_problem(path):
    """`path` has NaN in one tensor, rows of 65 in another."""
    found = {trial.to: trial for trial in tb.sweep(path, ["int8:row", "bf16", "int8:block64", "mxfp4", "q4_0"])}
    assert "blk.0.attn_norm.weight has NaN or Inf" in found["int8:row"].problem
    assert "rows of" in found["int8:block64"].problem
    assert "rows of" in found["mxfp4"].problem
    for to in ("int8:row", "int8:block64", "mxfp4", "q4_0"):
        assert found[to][:3] == (to, None, None)
    assert found["bf16"].problem is None
    assert found["bf16"].difference.changed == tb.plan(path, to="bf16").changed
    assert names(path.parent) == ["model.gguf"]


@pytest.mark.parametrize(
    ("formats", "arguments", "said"),
    [
        ([], {}, "give formats to compare"),
        (["bf16", "bf17"], {}, "no format is called 'bf17'"),
        (["bf16", "int8:rows"], {}, "int8 has no option 'rows'"),
        (["bf16", "int8"], {"rounding": Rounding(overflow="saturate")}, "int8:block32 chooses its scales"),
        (["bf16"], {"rounding": "up"}, "rounding is 'up'"),
        (["bf16"], {"select": "token"}, "only Q8_0"),
        (["bf16"], {"select": "nothing"}, "--include 'nothing'"),
    ],
)
def test_a_sweep_refuses(path, formats, arguments, said):
    with pytest.raises(UsageError, match=said):
        tb.sweep(path, formats, **arguments)


# --- refused before anything is written

NAN, INF, TINY = (
    np.array(values, np.float32).view(np.uint32) for values in ([1, np.nan] * 16, [-np.inf, 1] * 16, [1e-44] * 32)
)


def refused_requests(path):
    """(arguments, error, what the message says)."""
    old = path.with_name("old.gguf")
    old.write_bytes(b"old")
    rows = "half.weight has rows of 65 values, which are not whole blocks of 32"
    return [
        ({}, UsageError, "give a format"),
        ({"to": "bf17"}, UsageError, "did you mean bf16"),
        ({"to": "int8:rows"}, UsageError, "blockN (N from 2 to"),
        ({"to": "bf16", "rules": ["nothing=int8"]}, SelectionError, "--rule nothing=int8 matches none of the"),
        ({"to": "bf16", "rules": ["norm=keep", "attn=int8"]}, SelectionError, "--rule attn=int8 is never reached"),
        ({"to": "bf16", "rules": ["norm bf16"]}, UsageError, "REGEX=FORMAT"),
        ({"to": "bf16", "rules": ["token=bf16"]}, SelectionError, "token_embd.weight is block-quantized (Q8_0)"),
        ({"to": "bf16", "select": "token|ffn"}, SelectionError, "token_embd.weight is block-quantized (Q8_0)"),
        ({"to": "bf16", "select": "positions"}, SelectionError, "positions holds whole numbers (I32)"),
        ({"to": "bf16", "select": "nothing"}, SelectionError, "--include 'nothing'"),
        ({"to": "bf16", "select": "("}, SelectionError, "not a regular expression"),
        ({"rules": [".=keep"]}, SelectionError, "only I32, Q8_0"),
        ({"to": "int8", "select": "half"}, UsageError, rows),
        ({"to": "mxfp4", "select": "half"}, UsageError, f"{rows}, as mxfp4 needs; leave it alone with --rule"),
        ({"to": "nvfp4", "select": "half"}, UsageError, "not whole blocks of 16"),
        ({"rules": ["half=q4_0"]}, UsageError, "not whole blocks of 32"),
        ({"rules": ["half=q4_k"]}, UsageError, "not whole blocks of 256"),
        ({"to": "bf16", "rounding": "up"}, UsageError, "allowed are nearest, truncate, stochastic"),
        ({"to": "bf16", "rounding": Rounding(overflow="wrap")}, UsageError, "allowed are saturate, inf"),
        ({"to": "bf16", "rounding": Rounding("stochastic", -1)}, UsageError, "allowed are 0 to 2^64 - 1"),
        ({"to": "bf16", "rounding": Rounding("stochastic", 1 << 64)}, UsageError, "allowed are 0 to 2^64 - 1"),
        ({"to": "fp4_e2m1fn", "rounding": Rounding(overflow="inf")}, UsageError, "fp4_e2m1fn has no Inf or NaN"),
        ({"to": "fp6_e3m2fn", "rounding": Rounding(overflow="inf")}, UsageError, "fp6_e3m2fn has no Inf or NaN"),
        ({"to": "int8:row", "rounding": Rounding(overflow="inf")}, UsageError, "int8:row has no Inf or NaN"),
        ({"to": "nvfp4", "rounding": Rounding(overflow="saturate")}, UsageError, "nvfp4 chooses its scales"),
        ({"rules": ["ffn=q8_0"], "rounding": Rounding(overflow="saturate")}, UsageError, "q8_0 chooses its scales"),
        ({"to": "int8", "rounding": Rounding(flush_subnormals=True)}, UsageError, "without scales, not for int8"),
        ({"to": "mxfp4", "rounding": Rounding(flush_subnormals=True)}, UsageError, "without scales, not for mxfp4"),
        ({"to": "bf16", "rules": ["ffn=q4_0"], "rounding": Rounding(flush_subnormals=True)}, UsageError, "for q4_0"),
        ({"rules": ["ffn=q4_0"], "rounding": "truncate"}, UsageError, "q4_0 is rounded by ggml's own rules"),
        ({"rules": ["ffn=q8_0"], "rounding": "stochastic"}, UsageError, "q8_0 is rounded by ggml's own rules"),
        ({"rules": ["ffn=q4_k"], "rounding": "truncate"}, UsageError, "q4_k is rounded by ggml's own rules"),
        ({"to": "bf16", "out": None}, UsageError, "--in-place"),
        ({"to": "bf16", "in_place": True}, UsageError, "either an output file or --in-place"),
        ({"to": "bf16", "undo_file": path.with_name("undo")}, UsageError, "--undo-file goes with --in-place"),
        ({"to": "bf16", "in_place": True, "out": None, "allow": ["all"]}, UsageError, "allowed are symlink"),
        ({"to": "int8", "in_place": True, "out": None, "select": "ffn"}, UsageError, "need --undo-file"),
        ({"to": "bf16", "out": path}, UsageError, "is the input"),
        ({"to": "bf16", "out": path, "force": True}, UsageError, "is the input"),
        ({"to": "bf16", "out": old}, Refused, "--force"),
        ({"to": "bf16", "out": path.parent, "force": True}, Refused, "not a regular file"),
    ]  # fmt: skip


def test_refused_requests(path):
    """None reads the tensors, none writes."""
    before = path.read_bytes()
    for arguments, error, said in refused_requests(path):
        arguments = {"out": path.with_name("out.gguf"), **arguments}
        progress = lambda *_: pytest.fail("tensors were read")  # noqa: E731
        with pytest.raises(error, match=re.escape(said)) as caught:
            tb.fakequant(path, progress=progress, **arguments)
        assert caught.value.exit_code == (5 if error is Refused else 2), arguments
        assert names(path.parent) == ["model.gguf", "old.gguf"], arguments
        assert path.read_bytes() == before


@pytest.mark.parametrize("arguments", [{"out": "out.gguf"}, {"in_place": True, "undo_file": "undo"}, {"dry_run": True}])
@pytest.mark.parametrize(
    ("words", "to", "said"),
    [
        (NAN, "int8", "t has NaN or Inf values"),
        (NAN, "int8:tensor:mse", "t has NaN or Inf values"),
        (NAN, "mxfp4", "t has NaN or Inf values"),
        (INF, "nvfp4", "t has NaN or Inf values"),
        (INF, "q8_0", "t has NaN or Inf values"),
        (INF, "q4_0", "t has NaN or Inf values"),
        (TINY, "int8", "t has values so small that their scale would be zero"),
        (TINY, "int4:row:affine", "t has values so small that their scale would be zero"),
        (TINY, "int4:tensor:mse", "t has values so small that their scale would be zero"),
        (TINY, "nvfp4", "t has values so small that their scale would be zero"),
    ],
)
def test_values_that_can_have_no_scale(tmp_path, monkeypatch, words, to, said, arguments):
    """Behind others that can: nothing of them is written either."""
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "model.gguf", {"first": ("F32", finite_words("F32", 320)), "t": ("F32", words)})
    before = path.read_bytes()
    with pytest.raises(Refused, match=said) as caught:
        tb.fakequant(path, rules=[f".={to}"], **arguments)
    assert caught.value.exit_code == 5
    assert path.read_bytes() == before
    assert names(tmp_path) == ["model.gguf"]
    assert tb.fakequant(path, tmp_path / "out.gguf", rules=["^t$=keep", f".={to}"]).written


@pytest.mark.parametrize("rounding", ["nearest", "truncate"])
@pytest.mark.parametrize("to", ["int8:row", "mxfp4", "q8_0"])
def test_nan_in_the_other_storage_types(tmp_path, to, rounding):
    for type in ("F16", "BF16", "F64"):
        words = finite_words(type, 64)
        words[40] = special_words(type)[-1]
        path = write(tmp_path / f"{type}.gguf", {"t": (type, words)})
        options = {"rounding": rounding} if to != "q8_0" else {}
        with pytest.raises(Refused, match="t has NaN or Inf"):
            tb.fakequant(path, tmp_path / "out.gguf", rules=[f".={to}"], **options)
        assert not (tmp_path / "out.gguf").exists()


def test_malformed_file(path):
    path.write_bytes(path.read_bytes()[:-200])
    before = path.read_bytes()
    for arguments in ({"out": path.with_name("out.gguf")}, {"in_place": True}):
        with pytest.raises(ModelFileError) as caught:
            tb.fakequant(path, to="bf16", **arguments)
        assert caught.value.exit_code == 3
    assert path.read_bytes() == before
    assert names(path.parent) == ["model.gguf"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "plan either a cut of low bits"),
        ({"bits": 16, "to": "bf16"}, "plan either a cut of low bits"),
        ({"bits": 16, "rules": ["norm=bf16"]}, "plan either a cut of low bits"),
        ({"to": "bf17"}, "no format is called"),
        ({"to": "int8", "rounding": Rounding(overflow="inf")}, "no Inf or NaN"),
        ({"rules": ["token=bf16"]}, "block-quantized"),
    ],
)
def test_a_plan_refuses(path, arguments, said):
    with pytest.raises(UsageError, match=said):
        tb.plan(path, **arguments)


def test_a_plan_by_rules_alone(path):
    planned = tb.plan(path, rules=iter(["ffn=bf16"]))
    assert [(change.name, change.to) for change in planned.tensors] == [("blk.0.ffn_up.weight", "bf16")]
    assert planned == tb.plan(path, to="bf16", select="ffn")


# --- the command

FIGURES = {
    "flushed",
    "saturated",
    "max_ulp",
    "max_abs",
    "max_rel",
    "squared_error",
    "mse",
    "rms",
    "squares",
    "snr_db",
    "cosine",
}


def strict(text):
    """Read JSON that has no Inf and no NaN, and is ASCII."""
    assert text.isascii()
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `truebits fakequant` in this process."""

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["truebits", "fakequant", *map(str, arguments)])
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return called


def test_the_command_by_running_it(path):
    out = path.with_name("out.gguf")
    planned = run("fakequant", path, out, "--to", "bf16", "--dry-run", "--json")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert not out.exists()
    done = run("fakequant", path, out, "--to", "bf16")
    assert (done.returncode, done.stderr) == (0, "")
    assert out.exists()
    total = strict(planned.stdout)["total"]
    assert f"{total['changed']:,} of {total['values']:,} values change: they are not exact in bf16." in done.stdout
    assert f"Written to {out}; verified; all other bytes are equal." in " ".join(done.stdout.split())
    again = run("fakequant", out, path.with_name("again.gguf"), "--to", "bf16")
    assert again.returncode == 0
    assert "Nothing changes: all" in again.stdout
    assert not path.with_name("again.gguf").exists()


def test_json_has_the_same_keys_whatever_happens(path, command):
    out = path.with_name("out.gguf")
    documents = [
        strict(text)
        for code, text, _ in (
            command(path, "--to", "bf16", "--dry-run", "--json"),
            command(path, out, "--to", "bf16", "--json"),
            command(out, path.with_name("again.gguf"), "--to", "bf16", "--json"),
            command(path, "--to", "int8:row", "-l", "ffn", "--dry-run", "--json"),
        )
        if code == 0
    ]
    assert len(documents) == 4
    planned, written, nothing, scaled = documents
    for document in documents:
        assert document["schema"] == "truebits.fakequant/1"
        assert set(document) == {"schema", "file", "output", "written", "reason", "tensors", "total"}
        assert set(document["total"]) == {"values", "changed", "bits_per_weight"} | FIGURES
        for one in document["tensors"]:
            assert set(one) == {"name", "to", "values", "changed"} | FIGURES
    assert (planned["written"], planned["output"]) == (False, None)
    assert (written["written"], written["output"], written["file"]) == (True, str(out), str(path))
    assert (nothing["written"], nothing["output"], nothing["total"]["changed"]) == (False, None, 0)
    assert planned["tensors"] == written["tensors"]
    assert planned["total"] == written["total"]
    assert written["total"]["bits_per_weight"] == whole_bits(path, dict.fromkeys(ARRAYS, 16))
    assert scaled["total"]["bits_per_weight"] == whole_bits(path, {"blk.0.ffn_up.weight": 8 + 32 / 2048})
    assert [one["name"] for one in written["tensors"]] == list(ARRAYS)
    for one, change in zip(written["tensors"], tb.fakequant(path, to="bf16", dry_run=True).tensors, strict=True):
        assert (one["to"], one["values"], one["changed"]) == (change.to, change.values, change.changed)
        assert (one["max_ulp"], one["flushed"]) == (change.difference.max_ulp, change.difference.flushed)


def test_json_of_infinite_errors_is_json(tmp_path, command):
    path = write(tmp_path / "model.gguf", {"t": ("F32", np.array([1e38, 1, 0, -1e38], np.float32).view(np.uint32))})
    for arguments in (["--to", "fp16"], ["--to", "fp8_e4m3fn", "--overflow", "inf"], ["--to", "bf16"]):
        code, text, _ = command(path, tmp_path / f"{arguments[1]}.gguf", *arguments, "--json")
        assert code == 0
        total = strict(text)["total"]
        is_infinite = arguments[1] != "bf16"
        assert (total["max_abs"] is None) == (total["squared_error"] is None) == is_infinite
        assert total["saturated"] == 2 * is_infinite
    code, text, _ = command(path, "--sweep", "fp16,f32", "--json")
    infinite, exact = strict(text)["formats"]
    assert (infinite["max_abs"], infinite["snr_db"], exact["snr_db"]) == (None, None, None)
    assert (infinite["changed"], exact["changed"], exact["max_abs"]) == (2, 0, 0)


def whole_bits(path, bits):
    """Return the bits per weight of a model of which some tensors take other `bits` per value."""
    tensors = tb.open(path).tensors
    stored = (bits.get(one.name, 8 * one.nbytes / one.values) * one.values for one in tensors)
    return sum(stored) / sum(one.values for one in tensors)


@pytest.mark.parametrize("options", [{}, {"dry_run": True}])
def test_quantized_tensors_become_values_first(tmp_path, options):
    """The same as of the model that `dequantize` writes; beside the new file nothing is left."""
    tb.dequantize(data.MODEL_Q8_0, tmp_path / "f32.gguf")
    out, expected = tmp_path / "out.gguf", tmp_path / "expected.gguf"
    got = tb.fakequant(data.MODEL_Q8_0, out, "ffn", to="int4", dequantize=True, **options)
    assert got == tb.fakequant(tmp_path / "f32.gguf", expected, "ffn", to="int4", **options)
    assert [one.name for one in got.tensors if one.changed == 0] == []
    left = {"f32.gguf", *([] if options else ["out.gguf", "expected.gguf"])}
    assert set(names(tmp_path)) == left
    if not options:
        assert out.read_bytes() == expected.read_bytes()
    (trial,) = tb.sweep(data.MODEL_Q8_0, ["int4"], "ffn", dequantize=True)
    assert (trial.difference, trial.bits) == (got.difference, got.bits_per_weight)


def test_a_model_that_is_not_quantized_has_its_values_already():
    expected = tb.fakequant(data.MODEL, to="bf16", dry_run=True)
    assert tb.fakequant(data.MODEL, to="bf16", dequantize=True, dry_run=True) == expected


def test_what_becomes_larger_does_not_stay_in_place():
    with pytest.raises(UsageError, match=r"--dequantize .* not with --in-place"):
        tb.fakequant(data.MODEL_Q8_0, to="int4", in_place=True, dequantize=True)


def test_sweep_json(path, command):
    code, text, _ = command(path, "--sweep", "bf16, INT8:row,int8:block64", "-l", "ffn|half", "--json")
    document = strict(text)
    assert (code, document["schema"]) == (0, "truebits.fakequant-sweep/1")
    assert set(document) == {"schema", "file", "formats"}
    bf16, int8, blocks = document["formats"]
    for row in document["formats"]:
        assert set(row) == {"to", "bits_per_weight", "problem", "tensors", "values", "changed"} | FIGURES
    assert (bf16["to"], bf16["tensors"], bf16["problem"]) == ("bf16", 2, None)
    assert bf16["bits_per_weight"] == whole_bits(path, {"blk.0.ffn_up.weight": 16, "half.weight": 16})
    assert bf16["changed"] == tb.plan(path, to="bf16", select="ffn|half").changed
    assert int8["bits_per_weight"] == whole_bits(
        path, {"blk.0.ffn_up.weight": 8 + 32 / 2048, "half.weight": 8 + 32 / 65}
    )
    assert "rows of 65" in blocks["problem"]
    assert (blocks["bits_per_weight"], blocks["values"], blocks["rms"]) == (None, None, None)
    assert names(path.parent) == ["model.gguf"]


def test_sweep_table(path, command):
    code, text, _ = command(path, "--sweep", "bf16,int8:block64", "-l", "half")
    lines = text.splitlines()
    assert code == 0
    assert lines[0].startswith("model.gguf: ")
    of, bits = len(tb.open(path).tensors), whole_bits(path, {"half.weight": 16})
    assert lines[1].startswith(f"1 of {of} tensors are rounded, ")
    assert lines[3].startswith(f"Nearest: bf16, {bits:.2f} bits per weight")
    assert lines[4].startswith("int8:block64: n/a: half.weight has rows of 65 values")
    assert lines[-3].split()[:4] == ["format", "bits", "share", "flushed"]
    assert lines[-2].split()[:2] == ["bf16", f"{bits:.2f}"]
    assert set(lines[-1].split()[1:]) == {"-"}
    assert max(map(len, lines)) <= 100
    code, text, _ = command(path, "--sweep", "bf16,fp16", "-l", "half", "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["format"], float(row["bits"])) for row in rows] == [("bf16", bits), ("fp16", bits)]


def test_table_by_group_and_by_tensor(path, command):
    changes = {change.name: change for change in tb.plan(path, to="bf16").tensors}
    norms = [change for name, change in changes.items() if "norm" in name]
    for flags, expected in (([], 6), (["--by-tensor"], 7)):
        code, text, _ = command(path, "--to", "bf16", "--dry-run", *flags)
        brief = text.split("\n\n")[0].splitlines()
        assert brief[0].split()[:4] == ["tensors", "n", "values", "share"]
        assert (len(brief), max(map(len, brief)) <= 100) == (1 + expected, True)
        assert text.endswith("Nothing was written: this is the plan.\n")
        code, text, _ = command(path, "--to", "bf16", "--dry-run", *flags, "-o", "md")
        table = [line.strip("| ").replace("|", "") for line in text.splitlines() if not line.startswith("| ---")]
        assert code == 0
        assert len(table) == 1 + expected
        assert table[0].split()[:6] == ["tensors", "n", "to", "values", "change", "share"]
        assert table[-1].split()[:3] == ["all", str(len(changes)), "-"]
        rows = {row.split()[0]: row.split()[1:5] for row in table[1:]}
        if flags:
            for name, change in changes.items():
                assert rows[name] == ["1", "bf16", f"{change.values:,}", f"{change.changed:,}"]
        else:
            values, changed = (sum(of) for of in zip(*(change[1:3] for change in norms), strict=True))
            assert rows["blk.*.attn_norm.weight"] == ["2", "bf16", f"{values:,}", f"{changed:,}"]


@pytest.mark.parametrize("style", STYLES)
def test_styles(path, command, style):
    code, text, _ = command(path, path.with_name("out.gguf"), "--to", "fp8_e5m2", "-l", "ffn", "-o", style)
    of = tb.fakequant(path, to="fp8_e5m2", select="ffn", dry_run=True).difference
    assert code == 0
    if style == "text":
        assert "Written to" in text
        return
    assert "Written" not in text
    if style == "csv":
        (row,) = csv.DictReader(io.StringIO(text))
        assert (row["tensors"], row["to"], int(row["values"])) == ("blk.*.ffn_up.weight", "fp8_e5m2", 2_048)
        assert (int(row["change"]), int(row["max ulp"])) == (of.changed, of.max_ulp)
        assert (float(row["max abs"]), float(row["SNR dB"])) == (of.max_abs, of.snr_db)
    else:
        head, rule, row = text.splitlines()
        assert head.startswith("| tensors")
        assert set(rule) <= set("|-: ")
        assert row.count("|") == head.count("|") == rule.count("|")


def test_rules_of_options_come_before_those_of_the_file(path, command):
    file = path.with_name("rules")
    file.write_text("# mine\nffn=int8:row\n\nhalf=keep\n")
    code, text, _ = command(
        path, "--to", "bf16", "--rule", "ffn=fp16", "--rule", "norm=keep", "--rules", file, "--dry-run", "--json"
    )
    assert (code, text) == (2, "")
    file.write_text("# mine\nbrain=int8:row\n\nhalf=keep\nffn|wide=fp8_e5m2\n")
    code, text, _ = command(
        path, "--to", "bf16", "--rule", "ffn=fp16", "--rule", "norm=keep", "--rules", file, "--dry-run", "--json"
    )
    assert code == 0
    assert {one["name"]: one["to"] for one in strict(text)["tensors"]} == {
        "blk.0.ffn_up.weight": "fp16",
        "brain.weight": "int8:row",
        "wide.weight": "fp8_e5m2",
    }


def test_options_reach_the_rounding(path, command):
    options = {"rounding": Rounding("stochastic", 9, "saturate", True)}
    expected, got = path.with_name("expected.gguf"), path.with_name("got.gguf")
    tb.fakequant(path, expected, to="fp8_e4m3fn", exclude="wide", **options)
    flags = ["--rounding", "stochastic", "--seed", 9, "--overflow", "saturate", "--flush-subnormals", "--threads", 1]
    code, _, _ = command(path, got, "--to", "fp8_e4m3fn", "-L", "wide", *flags)
    assert code == 0
    assert_same_file(got.read_bytes(), expected.read_bytes())


def test_in_place_by_the_command(path, command, rounded):
    expected, before = rounded("mxfp4", exclude="brain"), path.read_bytes()
    arguments = [path, "--to", "mxfp4", "-l", "ffn", "--in-place"]
    code, _, message = command(*arguments)
    assert (code, path.read_bytes()) == (2, before)
    assert "--undo-file" in message
    code, text, _ = command(*arguments, "--undo-file", path.with_name("undo"))
    assert code == 0
    assert "Written in place; verified; all other bytes are equal." in text
    assert_same_file(path.read_bytes(), expected)
    tb.undo(path, path.with_name("undo"))
    assert path.read_bytes() == before


def command_refusals(folder):
    """Arguments after the model, exit code, and what stderr names."""
    (folder / "bad-rules").write_text("norm=keep\n\nffn=bf17\n")
    (folder / "no-rules").write_bytes(b"\xff\xfe=\x1b[31m\n")
    (folder / "there.gguf").write_bytes(b"old")
    return [
        (["out.gguf"], 2, "give a format"),
        (["out.gguf", "--to", "fp8e4m3"], 2, "fp8_e4m3fn"),
        (["out.gguf", "--to", "int17"], 2, "int8"),
        (["out.gguf", "--to", "bf16", "--rule", "norm"], 2, "REGEX=FORMAT"),
        (["out.gguf", "--to", "bf16", "--rule", "nothing=keep"], 2, "matches none"),
        (["out.gguf", "--to", "bf16", "--rule", "\x1b[31m=keep"], 2, r"\x1b[31m"),
        (["out.gguf", "--to", "bf16", "--rules", "missing"], 4, "missing: No such file"),
        (["out.gguf", "--to", "bf16", "--rules", "."], 4, "Is a directory"),
        (["out.gguf", "--to", "bf16", "--rules", "bad-rules"], 2, "bad-rules, line 3: no format is called 'bf17'"),
        (["out.gguf", "--to", "bf16", "--rules", "no-rules"], 2, "no-rules, line 1"),
        (["out.gguf", "--to", "bf16", "--seed", "1"], 2, "--seed is for --rounding stochastic"),
        (["out.gguf", "--to", "bf16", "--seed", "0"], 2, "--seed is for --rounding stochastic"),
        (["out.gguf", "--to", "bf16", "--rounding", "stochastic", "--seed", "-1"], 2, "--seed"),
        (["out.gguf", "--to", "bf16", "--rounding", "up"], 2, "--rounding"),
        (["out.gguf", "--to", "bf16", "--overflow", "wrap"], 2, "--overflow"),
        (["out.gguf", "--to", "fp4", "--overflow", "inf"], 2, "fp4_e2m1fn has no Inf or NaN"),
        (["out.gguf", "--rule", "ffn=q4_0", "--rounding", "truncate"], 2, "ggml's own rules"),
        (["out.gguf", "--to", "int8:row"], 5, "has NaN or Inf"),
        (["out.gguf", "--to", "bf16", "-l", "token"], 2, "block-quantized"),
        (["there.gguf", "--to", "bf16"], 5, "--force"),
        (["no/such.gguf", "--to", "bf16"], 4, "no/such.gguf"),
        (["--to", "bf16"], 2, "--in-place"),
        (["out.gguf", "--sweep", "bf16"], 2, "--sweep writes nothing"),
        (["--sweep", "bf16", "--to", "bf16"], 2, "--sweep writes nothing"),
        (["--sweep", "bf16", "--rule", "a=bf16"], 2, "--sweep writes nothing"),
        (["--sweep", "bf16", "--in-place"], 2, "--sweep writes nothing"),
        (["--sweep", "bf16", "--dry-run"], 2, "--sweep writes nothing"),
        (["--sweep", ""], 2, "no format"),
        (["--sweep", "bf16,,fp16"], 2, "no format"),
        (["--sweep", "bf16,q4k"], 2, "q4_k"),
    ]


def test_a_refusal_is_one_line_its_exit_code_and_no_file(path, command, monkeypatch):
    monkeypatch.chdir(path.parent)
    before = path.read_bytes()
    for arguments, expected, named in command_refusals(path.parent):
        files = names(path.parent)
        code, text, message = command("model.gguf", *arguments)
        assert (code, text) == (expected, ""), (arguments, message)
        assert named in message, (arguments, message)
        assert len(message.strip().splitlines()) == 1 or "Usage:" in message, message
        assert all(character.isprintable() or character == "\n" for character in message), message
        assert names(path.parent) == files, arguments
        assert path.read_bytes() == before


def test_names_from_the_file_are_printed_escaped(tmp_path, command):
    evil = "\x1b[31mred\u202e"
    path = write(tmp_path / "model.gguf", {evil: ("F32", finite_words("F32", 33))})
    for arguments in (
        ["--to", "bf16", "--dry-run"],
        ["--to", "bf16", "--dry-run", "--by-tensor", "-o", "csv"],
        ["--to", "bf16", "--dry-run", "--json"],
        ["--sweep", "int8"],
        ["--sweep", "int8", "--json"],
        ["--to", "int8", "--dry-run"],
    ):
        _, text, message = command(path, *arguments)
        assert not {"\x1b", "\u202e"} & set(text + message), arguments
        assert "x1b[31mred" in text + message, arguments
