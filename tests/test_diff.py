"""Two model files against each other, measured again by NumPy in float64, and the gate that must not be fooled."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from typing import NamedTuple

import gguf
import numpy as np
import pytest

import gguf_bytes
import truebits as tb
import truebits_native as native
from gguf_bytes import ARRAY, BOOL, F32, F64, I32, STRING, U16, U32, array, key_value, scalar, string, tensor
from models import finish
from truebits.comparing import measure, sides
from truebits.comparing.diff import METRICS, check_limit, figure
from truebits.comparing.measure import Place
from truebits.errors import SelectionError, UsageError
from truebits.files.mapping import FileChanged
from truebits.files.types import BY_NUMBER
from truebits.report import figures
from truebits_native import dispatch
from words import SPECIAL, is_nan, mixed, wide

TYPE_ID = {block.name: number for number, block in BY_NUMBER.items()}
BLOCK = {block.name: (block.values, block.nbytes) for block in BY_NUMBER.values()}
FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
BLOCKS = sorted(type.name for type in gguf.quants._type_traits if type.name not in FLOATS)
"""What gguf-py reads."""

WRITTEN_BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")
"""What it writes, too."""


class Stored(NamedTuple):
    """A tensor as it stands in a file."""

    type: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def size(self):
        return math.prod(self.shape)


def stored(type, values, shape=None):
    """Store float values, rounded to the nearest; BF16 cuts them."""
    values = np.asarray(values, np.float64 if type == "F64" else np.float32)
    if type == "BF16":
        data = (values.view(np.uint32) >> 16).astype("<u2")
    elif type in FLOATS:
        data = values.astype(FLOATS[type])
    else:
        data = gguf.quants.quantize(values.reshape(1, -1), gguf.GGMLQuantizationType[type])
    return Stored(type, shape or (values.size,), data.tobytes())


def words_as(type, words):
    """Store words of a floating-point type."""
    return Stored(type, (len(words),), np.asarray(words, f"<u{BLOCK[type][1]}").tobytes())


def any_blocks(type, count, seed):
    """Store blocks of anything, but with scales that are finite in every type."""
    values, nbytes = BLOCK[type]
    raw = np.random.default_rng(seed).integers(0, 256, count * nbytes, np.uint8) & 0x3F
    return Stored(type, (count * values,), raw.tobytes())


def changed_at(one, at, word):
    """Replace one word of a floating-point tensor."""
    size = BLOCK[one.type][1]
    data = one.data[: at * size] + int(word).to_bytes(size, "little") + one.data[(at + 1) * size :]
    return one._replace(data=data)


def save(path, tensors, keys=(), aligned=32):
    """Write a GGUF file of `Stored` tensors, each at a multiple of `aligned`."""
    infos, data = [], b""
    for name, one in tensors.items():
        data += bytes(-len(data) % aligned)
        type_id = TYPE_ID[one.type] if one.type in TYPE_ID else int(one.type.removeprefix("type_"))
        infos.append(tensor(os.fsencode(name), one.shape, type_id, len(data)))
        data += one.data
    if aligned != 32:
        keys = [*keys, gguf_bytes.alignment(aligned)]
    path.write_bytes(gguf_bytes.gguf(list(keys), infos, data, aligned=aligned))
    return path


@pytest.fixture
def both(tmp_path):
    """Give a function that writes two models and compares them."""

    def compare(a, b, keys_a=(), keys_b=(), aligned=32, **arguments):
        ours = save(tmp_path / "a.gguf", a, keys_a, aligned)
        return tb.diff(ours, save(tmp_path / "b.gguf", b, keys_b, aligned), **arguments)

    return compare


@pytest.fixture
def one(both):
    """Give a function that compares one tensor with its namesake."""

    def compare(a, b, **arguments):
        return both({"t": a}, {"t": b}, **arguments).tensors[0]

    return compare


@pytest.fixture
def small_pieces(monkeypatch):
    """Compare 64 values at a time, and search 16."""
    monkeypatch.setattr(sides, "PIECE_VALUES", 64)
    monkeypatch.setattr(measure, "SEARCH_VALUES", 16)


def refuse_constant(name):
    pytest.fail(f"{name} is not JSON")


def document(text):
    """Parse JSON that has no NaN and no Infinity."""
    return json.loads(text, parse_constant=refuse_constant)


# --- NumPy alone


def decoded(one):
    """Return what a tensor means: float32, or float64."""
    raw = np.frombuffer(one.data, np.uint8)
    if one.type == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if one.type in FLOATS:
        values = raw.view(FLOATS[one.type])
        return values.astype(np.float32) if one.type == "F16" else values
    return gguf.quants.dequantize(raw.reshape(1, -1), gguf.GGMLQuantizationType[one.type]).ravel()


def common_words(a, b):
    """Return the words that two tensors are compared in."""
    if a.type == b.type and a.type in FLOATS:
        return [np.frombuffer(one.data, f"<u{BLOCK[one.type][1]}") for one in (a, b)]
    size = 8 if "F64" in (a.type, b.type) else 4
    return [decoded(one).astype(f"<f{size}").view(f"<u{size}") for one in (a, b)]


def ulps(old, new):
    """Return how many words lie between each two words."""
    top = 1 << (8 * old.itemsize - 1)
    lines = [[(word & (top - 1)) * (-1 if word & top else 1) for word in words.tolist()] for words in (old, new)]
    return [abs(x - y) for x, y in zip(*lines, strict=True)]


class Figures(NamedTuple):
    changed: int
    max_ulp: int
    max_abs: float
    max_rel: float
    mse: float
    snr_db: float
    cosine: float


def plainly(a, b):
    """Measure two tensors of finite values in float64."""
    words = common_words(a, b)
    old, new = (decoded(one).astype(np.float64) for one in (a, b))
    error = np.abs(new - old)
    relative = error / np.where(old == 0, np.inf, np.abs(old))
    power, noise = old @ old, error @ error
    return Figures(
        int(np.count_nonzero(words[0] != words[1])),
        max(ulps(*words), default=0),
        error.max(initial=0),
        relative.max(initial=0),
        noise / max(1, old.size),
        10 * math.log10(power / noise) if noise else math.inf,
        old @ new / math.sqrt(power) / math.sqrt(new @ new) if power and new @ new else math.nan,
    )


def figures_of(found):
    """Return the figures of a `TensorDiff`."""
    of = found.difference
    return Figures(found.changed, of.max_ulp, of.max_abs, of.max_rel, figure(of, "mse"), of.snr_db, of.cosine)


ROUNDED = 2**-23
"""Errors and shares of F32 are rounded to F32."""


def assert_measured(found, a, b, mse=1e-9):
    """Check all figures of a tensor, and its places."""
    expected, got = plainly(a, b), figures_of(found)
    assert found.problem is None
    assert (found.types, found.shapes, found.values) == ((a.type, b.type), (a.shape, b.shape), a.size)
    assert (got.changed, got.max_ulp) == (expected.changed, expected.max_ulp)
    relative = 1e-15 if "F64" in (a.type, b.type) else ROUNDED
    assert got.max_abs == pytest.approx(expected.max_abs, rel=relative, abs=0)
    if not (decoded(a) == 0).any():
        assert got.max_rel == pytest.approx(expected.max_rel, rel=relative, abs=0)
    assert got.mse == pytest.approx(expected.mse, rel=mse, abs=0)
    assert got.snr_db == pytest.approx(expected.snr_db, rel=0, abs=10 * mse)
    assert got.cosine == pytest.approx(expected.cosine, rel=0, abs=1e-9, nan_ok=True)
    assert_places(found, a, b)


def assert_places(found, a, b):
    """Check the first and the worst value, both sides and both words."""
    words, values = common_words(a, b), [decoded(one).astype(np.float64) for one in (a, b)]
    differ = np.flatnonzero(words[0] != words[1])
    if not differ.size:
        assert found.first is found.worst is None
        return
    assert found.first.at == differ[0]
    error = np.abs(values[1] - values[0])
    assert found.worst.at in differ
    assert error[found.worst.at] == pytest.approx(error[differ].max(), rel=ROUNDED, abs=0)
    for place in (found.first, found.worst):
        assert (place.a, place.b) == (values[0][place.at], values[1][place.at])
        assert (place.word_a, place.word_b) == tuple(f"{word[place.at]:0{2 * word.itemsize}x}" for word in words)


def weights(size, seed=0, scale=0.02):
    """Return float32 values like those of a model, none of them zero."""
    values = np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)
    return np.where(np.abs(values) < 1e-4 * scale, np.float32(scale), values)


def nudged(values, seed=1, share=1.0):
    """Change a share of the values by up to 1 %."""
    random = np.random.default_rng(seed)
    changed = random.random(values.size) < share
    return np.where(changed, values * (1 + random.uniform(-0.01, 0.01, values.size)), values).astype(values.dtype)


# --- the same

KEYS = [
    key_value(b"general.architecture", STRING, string(b"llama")),
    key_value(b"llama.block_count", U32, scalar(U32, 2)),
    key_value(b"tokenizer.ggml.tokens", ARRAY, array(STRING, [string(b"<s>"), string(b"word")])),
    key_value(b"tokenizer.ggml.scores", ARRAY, array(F32, [scalar(F32, 0.5), scalar(F32, -1)])),
]
EVERY = {
    **{f"blk.0.{type}": stored(type, weights(513, i)) for i, type in enumerate(FLOATS)},
    **{f"blk.1.{type}": any_blocks(type, 3, i) for i, type in enumerate(BLOCKS)},
    "blk.2.odd": Stored("I8", (7,), bytes(range(7))),
    "blk.2.numbers": Stored("I32", (3, 2), bytes(range(24))),
    "blk.2.Q8_K": Stored("Q8_K", (256,), bytes(range(146)) * 2),
    "blk.2.empty": Stored("F32", (0, 4), b""),
    "blk.2.new": Stored("type_99", (5,), bytes(range(32))),
}


def assert_same(found, tensors):
    assert found.is_same
    assert (found.only_a, found.only_b, found.metadata) == ((), (), ())
    assert [one.name for one in found.tensors] == list(tensors)
    for one in found.tensors:
        assert one.is_same
        assert (one.difference, one.first, one.worst, one.problem) == (None, None, None, None)
        assert (one.types, one.values) == ((tensors[one.name].type,) * 2, tensors[one.name].size)
    assert found.changed == 0
    assert found.values == sum(one.size for one in tensors.values())
    assert all(found.over(metric, 0) == [] for metric in METRICS)


@pytest.mark.parametrize("pieces", [1, 64, 1 << 20])
def test_a_file_and_a_copy_of_it_are_the_same(tmp_path, monkeypatch, pieces):
    """Without measuring anything: equal bytes are proved by comparing them."""
    monkeypatch.setattr(sides, "PIECE_VALUES", pieces)
    monkeypatch.setattr(native, "compare", lambda *_: pytest.fail("equal bytes were measured"))
    a, b = save(tmp_path / "a.gguf", EVERY, KEYS), save(tmp_path / "b.gguf", EVERY, KEYS)
    assert_same(tb.diff(a, a), EVERY)
    found = tb.diff(a, b)
    assert_same(found, EVERY)
    assert (found.a, found.b) == (str(a), str(b))


def test_equal_bytes_are_read_once(both, monkeypatch):
    seen = []
    count = native.differing_count
    monkeypatch.setattr(native, "differing_count", lambda a, *rest, **kw: seen.append(a.size) or count(a, *rest, **kw))
    monkeypatch.setattr(sides, "PIECE_VALUES", 100)
    monkeypatch.setattr(measure, "LARGE_BYTES", 0)
    tensors = {"t": stored("F32", weights(1001))}
    assert both(tensors, tensors).is_same
    assert sum(seen) == 1001


def test_paths_strings_and_models(tmp_path):
    a, b = (save(tmp_path / name, EVERY, KEYS) for name in ("a.gguf", "b.gguf"))
    for ours, theirs in ((a, str(b)), (tb.open(a), b), (str(a), tb.open(b))):
        assert_same(tb.diff(ours, theirs), EVERY)


def test_where_tensors_and_keys_stand_makes_no_difference(both):
    found = both(EVERY, dict(reversed(EVERY.items())), KEYS, KEYS[::-1])
    assert_same(found, EVERY)


def test_models_without_tensors(both, truebits):
    found = both({}, {}, KEYS, KEYS)
    assert found.is_same
    assert (found.values, found.changed, found.total.changed) == (0, 0, 0)
    code, out, _ = truebits("diff", found.a, found.b, "--fail-over", "changed=0")
    assert (code, out) == (0, "The same: 0 tensors with 0 values, byte for byte, and all metadata.\n")


def test_empty_tensors(both):
    """Of every kind, at the end of a file that has no data section at all."""
    kinds = ["F32", "F16", "BF16", "F64", "Q8_0", "I8", "I32", "Q8_K", "type_99"]
    for type in kinds:
        tensors = {"t": Stored(type, (0,), b"")}
        assert_same(both(tensors, tensors), tensors)
    found = both({"t": Stored("F32", (0,), b"")}, {"t": Stored("Q8_0", (0,), b"")}).tensors[0]
    assert (found.changed, found.problem, found.first) == (0, None, None)
    assert figures_of(found)[:5] == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("type", ["F32", "I8", "I32", "type_99"])
def test_an_empty_tensor_in_a_file_that_ends_with_its_header(tmp_path, type):
    """No padding follows: the data section starts past the end."""
    path = tmp_path / "a.gguf"
    number = TYPE_ID.get(type, 99)
    path.write_bytes(gguf_bytes.gguf([], [tensor(b"t", (0,), number)], padding=b""))
    assert tb.open(path).tensors[0].offset > path.stat().st_size
    assert tb.diff(path, path).is_same


# --- one value of many


@pytest.mark.parametrize("at", [0, 1, 63, 64, 100, 127, 128, 198, 199])
@pytest.mark.parametrize("type", FLOATS)
def test_one_changed_value(one, small_pieces, type, at):
    a = stored(type, weights(200))
    before = common_words(a, a)[0][at]
    b = changed_at(a, at, before + 3)
    for ours, theirs in ((a, b), (b, a)):
        found = one(ours, theirs)
        assert not found.is_same
        assert (found.changed, found.difference.max_ulp) == (1, 3)
        assert found.first == found.worst
        assert found.first.at == at
        assert_measured(found, ours, theirs)


@pytest.mark.parametrize("at", [0, 63, 64, 199])
def test_one_changed_bit_of_the_lowest(one, small_pieces, at):
    """In F64, where it is the other half of the word that is compared."""
    a = stored("F64", np.linspace(1, 2, 200))
    for bit in (0, 31, 32, 51):
        b = changed_at(a, at, int(common_words(a, a)[0][at]) ^ 1 << bit)
        found = one(a, b)
        assert (found.changed, found.difference.max_ulp, found.first.at) == (1, 1 << bit, at)
        assert_measured(found, a, b)


def test_one_changed_value_in_pieces_of_full_length(one):
    values = np.zeros(sides.PIECE_VALUES + 5, np.float32)
    a = stored("F32", values)
    for at in (0, sides.PIECE_VALUES - 1, sides.PIECE_VALUES, values.size - 1):
        found = one(a, changed_at(a, at, 0x3F800000))
        assert (found.changed, found.first.at, found.worst.at) == (1, at, at)
        assert (found.first.word_a, found.first.word_b) == ("00000000", "3f800000")


@pytest.mark.parametrize("block", [0, 1, 2, 6])
@pytest.mark.parametrize("type", ["Q4_0", "Q8_0", "Q6_K"])
def test_one_changed_block(one, monkeypatch, type, block):
    monkeypatch.setattr(sides, "PIECE_VALUES", 2 * BLOCK[type][0])
    a = any_blocks(type, 7, 0)
    _, nbytes = BLOCK[type]
    data = bytearray(a.data)
    data[block * nbytes + nbytes // 2] ^= 0x21
    b = a._replace(data=bytes(data))
    found = one(a, b)
    assert found.changed > 0
    assert found.first.at // BLOCK[type][0] == block
    assert_measured(found, a, b)


# --- how much: every type


@pytest.mark.parametrize("size", [1, 255, 257, 8191, 8193])
@pytest.mark.parametrize("type", FLOATS)
def test_figures_of_floating_point(one, type, size):
    values = weights(size)
    a, b = stored(type, values), stored(type, nudged(values, share=0.3))
    if size == 1:
        b = changed_at(b, 0, 0)
    assert_measured(one(a, b), a, b)


@pytest.mark.parametrize("type", FLOATS)
def test_figures_of_tensors_that_have_nothing_in_common(one, type):
    a, b = stored(type, weights(9001)), stored(type, weights(9001, seed=5, scale=3))
    assert_measured(one(a, b), a, b, mse=1e-7)


@pytest.mark.parametrize("type", FLOATS)
@pytest.mark.parametrize("scale", [-1, 1e-3, 1e-5, 1e3, 0])
def test_cosine_of_scaled_values(one, type, scale):
    """It is 1 or -1 however small the other side is; none where that is all zero."""
    values = np.linspace(1, 2, 300)
    a, b = stored(type, values), stored(type, values * scale)
    found, expected = one(a, b), plainly(a, b)
    assert found.difference.cosine == pytest.approx(expected.cosine, rel=0, abs=1e-9, nan_ok=True)
    assert expected.cosine == pytest.approx(math.copysign(1, scale) if scale else math.nan, abs=1e-3, nan_ok=True)
    assert_measured(found, a, b, mse=1e-7)


@pytest.mark.parametrize("type", BLOCKS)
def test_figures_of_blocks(one, type):
    """Of every type that gguf-py reads, against what it makes of them."""
    a, b = any_blocks(type, 9, 0), any_blocks(type, 9, 1)
    found = one(a, b)
    assert found.changed > 0
    assert_measured(found, a, b, mse=1e-7)


@pytest.mark.parametrize("type", WRITTEN_BLOCKS)
def test_figures_of_quantized_weights(one, monkeypatch, type):
    monkeypatch.setattr(sides, "PIECE_VALUES", 1000)
    values = weights(256 * 13)
    a, b = stored(type, values), stored(type, nudged(values, share=0.5))
    assert_measured(one(a, b), a, b, mse=1e-7)
    full = stored("F32", values)
    assert_measured(one(full, a), full, a, mse=1e-7)
    assert_measured(one(a, full), a, full, mse=1e-7)


EXACT = np.arange(-160, 160, dtype=np.float32) / 64
"""Exact in every floating-point type."""


@pytest.mark.parametrize("type", ["F16", "BF16", "F64"])
def test_the_same_values_in_another_type(both, truebits, type):
    a, b = stored("F32", EXACT), stored(type, EXACT)
    for ours, theirs in ((a, b), (b, a)):
        found = both({"t": ours}, {"t": theirs})
        (tensor,) = found.tensors
        assert (tensor.changed, tensor.is_same, found.is_same, tensor.problem) == (0, False, False, None)
        assert tensor.types == (ours.type, theirs.type)
        assert_measured(tensor, ours, theirs)
        assert found.over("changed", 0) == []
        code, out, _ = truebits("diff", found.a, found.b)
        assert code == 0
        assert f"1 tensor {ours.type} here, {theirs.type} there" in out
        assert truebits("diff", found.a, found.b, "--bytes")[0] == 1
        assert truebits("diff", found.a, found.b, "--fail-over", "changed=0")[0] == 0


@pytest.mark.parametrize("type", [*WRITTEN_BLOCKS, "Q4_K", "IQ2_XXS"])
def test_blocks_against_what_they_mean(both, type):
    a = any_blocks(type, 5, 0)
    for other in ("F32", "F64"):
        b = stored(other, decoded(a))
        for ours, theirs in ((a, b), (b, a)):
            found = both({"t": ours}, {"t": theirs})
            assert_measured(found.tensors[0], ours, theirs)
            assert (found.changed, found.is_same, found.over("max_abs", 0)) == (0, False, [])


@pytest.mark.parametrize("type", ["F16", "BF16", "F64", "Q8_0", "Q4_0"])
def test_weights_against_the_same_in_another_type(one, small_pieces, type):
    values = weights(2048)
    if type == "F64":
        values = values.astype(np.float64) * (1 + 1e-9)
    a, b = stored("F32", values), stored(type, values)
    assert_measured(one(a, b), a, b, mse=1e-7)
    assert_measured(one(b, a), b, a, mse=1e-7)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("F16", "BF16"), ("F16", "F64"), ("Q8_0", "F16"), ("Q8_0", "F64"), ("Q4_0", "TQ1_0")]
)
def test_any_type_against_any_other(one, monkeypatch, ours, theirs):
    """Also two of blocks of other sizes, in pieces that are no multiple of either."""
    monkeypatch.setattr(sides, "PIECE_VALUES", 100)
    values = weights(1024)
    a, b = stored(ours, values), stored(theirs, nudged(values))
    assert_measured(one(a, b), a, b, mse=1e-7)
    assert_measured(one(b, a), b, a, mse=1e-7)


def test_the_same_values_from_other_bytes(both, truebits):
    """A block of 2 times 1 means what one of 1 times 2 does, and yet is not the same byte for byte."""
    a = Stored("Q8_0", (32,), np.float16(1).tobytes() + np.full(32, 2, np.int8).tobytes())
    b = Stored("Q8_0", (32,), np.float16(2).tobytes() + np.full(32, 1, np.int8).tobytes())
    found = both({"t": a}, {"t": b})
    assert (found.changed, found.tensors[0].problem) == (0, None)
    assert not found.is_same
    assert not found.tensors[0].is_same
    code, out, _ = truebits("diff", found.a, found.b)
    assert code == 0
    assert out.startswith("The same values, stored otherwise: 1 tensor Q8_0 from other bytes.\n")
    assert truebits("diff", found.a, found.b, "--bytes")[0] == 1


def test_the_same_values_stored_otherwise(both, truebits):
    values = weights(64)
    found = both(
        {"a": stored("BF16", values), "b": stored("F32", values)},
        {"a": as_f32(stored("BF16", values)), "b": stored("F32", values)},
    )
    assert (found.verdict, found.is_same) == ("same values", False)
    code, out, _ = truebits("diff", found.a, found.b)
    assert (code, out.splitlines()[0]) == (0, "The same values, stored otherwise: 1 tensor BF16 here, F32 there.")
    assert truebits("diff", found.a, found.b, "--bytes")[0] == 1


def as_f32(one):
    return Stored("F32", one.shape, (np.frombuffer(one.data, "<u2").astype("<u4") << 16).tobytes())


@pytest.mark.parametrize("changed", [1, 3, 40])
@pytest.mark.parametrize("type", ["Q8_0", "Q4_K", "IQ2_XXS"])
def test_a_few_blocks_that_differ_are_measured_alone(both, monkeypatch, type, changed):
    """What is said of them is what the whole tensor says, but for how strong its signal is."""
    a = any_blocks(type, 2000, 0)
    data = bytearray(a.data)
    nbytes = BLOCK[type][1]
    for block in np.random.default_rng(changed).choice(2000, changed, replace=False):
        data[block * nbytes + nbytes - 1] ^= 0x11
    b = Stored(type, a.shape, bytes(data))
    found = both({"t": a}, {"t": b}).tensors[0]
    monkeypatch.setattr(measure.Both, "few_blocks", lambda self: None)
    expected = both({"t": a}, {"t": b}).tensors[0]
    assert (found.first, found.worst) == (expected.first, expected.worst)
    for metric in METRICS:
        assert figure(found.difference, metric) == pytest.approx(figure(expected.difference, metric), rel=1e-12)
    assert np.isnan(found.difference.snr_db)


def test_other_architectures_are_refused_by_name(tmp_path):
    paths = []
    for architecture in ("llama", "gemma3"):
        writer = gguf.GGUFWriter(tmp_path / f"{architecture}.gguf", architecture)
        writer.add_tensor(f"{architecture}.weight", np.ones(4, np.float32))
        finish(writer)
        paths.append(tmp_path / f"{architecture}.gguf")
    with pytest.raises(UsageError, match=r"is a llama and .* a gemma3: 0 of 1 tensors"):
        tb.diff(*paths)


@pytest.mark.parametrize("type", ["I8", "I16", "I32", "I64", "Q8_1", "Q8_K", "Q2_0", "type_99"])
def test_bytes_that_nothing_can_read(both, truebits, type):
    """They are the same or they are not; a gate does not let them pass if they are not."""
    values, nbytes = BLOCK.get(type, (1, 32))
    data = bytes(np.random.default_rng(0).integers(0, 256, 3 * nbytes, np.uint8))
    a = Stored(type, (3 * values,), data)
    assert both({"t": a}, {"t": a}).is_same
    for at in (0, len(data) - 1):
        b = a._replace(data=data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        found = both({"t": a}, {"t": b})
        (tensor,) = found.tensors
        assert not found.is_same
        assert (tensor.difference, tensor.first, tensor.worst) == (None, None, None)
        assert type in tensor.problem
        assert all(len(found.over(metric, 1e30)) == 1 for metric in METRICS)
        code, out, _ = truebits("diff", found.a, found.b)
        assert code == 1
        assert tensor.problem in out
    found = both({"t": a}, {"t": stored("F32", np.ones(a.size))})
    assert type in found.tensors[0].problem
    assert (found.verdict, found.over("changed", 1e30), found.unknown) == ("not verified", [], found.tensors)
    assert (found.coverage.tensors_read, found.coverage.not_read[0].why) == (0, found.tensors[0].problem)
    for options in ([], ["--fail-over", "changed=0"]):
        code, out, _ = truebits("diff", found.a, found.b, *options)
        assert (code, "Not verified: 1 of 1 tensors" in out) == (7, True)


# --- zeros, NaN and Inf

NAN, OTHER_NAN, SIGNALLING, INF, MINUS_INF = 0x7FC00000, 0x7FC00001, 0x7F800001, 0x7F800000, 0xFF800000
ONE, ZERO, MINUS_ZERO, LARGEST = 0x3F800000, 0x00000000, 0x80000000, 0x7F7FFFFF


def test_the_sign_of_zero_is_a_change_without_an_error(one):
    a, b = words_as("F32", [ONE, ZERO, MINUS_ZERO, ONE]), words_as("F32", [ONE, MINUS_ZERO, ZERO, ONE])
    found = one(a, b)
    assert figures_of(found)[:6] == (2, 0, 0, 0, 0, math.inf)
    assert found.difference.cosine == pytest.approx(1)
    assert found.first == found.worst == Place(1, 0.0, -0.0, "00000000", "80000000")
    assert math.copysign(1, found.first.b) == -1


@pytest.mark.parametrize("type", FLOATS)
def test_nan_of_the_same_bits_is_the_same(one, type):
    """Also where another value of the tensor differs."""
    quiet, two = {
        "F32": (OTHER_NAN, 0x40000000),
        "F16": (0x7E01, 0x4000),
        "BF16": (0x7FC1, 0x4000),
        "F64": (0x7FF8000000000001, 2**62),
    }[type]
    a = words_as(type, [two, quiet, two])
    assert one(a, a).is_same
    found = one(a, changed_at(a, 2, two + 1))
    assert (found.changed, found.first.at, found.difference.max_ulp) == (1, 2, 1)
    assert math.isfinite(found.difference.max_abs)


def test_nan_of_other_bits_is_a_change_without_an_error(one):
    a, b = words_as("F32", [ONE, NAN, NAN, ONE]), words_as("F32", [ONE, NAN, OTHER_NAN, ONE])
    found = one(a, b)
    assert not found.is_same
    assert figures_of(found)[:5] == (1, 0, 0, 0, 0)
    assert found.first.at == found.worst.at == 2
    assert (found.first.word_a, found.first.word_b) == ("7fc00000", "7fc00001")
    assert math.isnan(found.first.a)


SPECIALS = {
    "F32": (INF, MINUS_INF, NAN, SIGNALLING),
    "BF16": (0x7F80, 0xFF80, 0x7FC0, 0x7F81),
    "F16": (0x7C00, 0xFC00, 0x7E00, 0x7C01),
    "F64": (2047 << 52, 4095 << 52, 4095 << 51, (2047 << 52) + 1),
}


@pytest.mark.parametrize(("type", "word"), [(type, word) for type, words in SPECIALS.items() for word in words])
def test_what_becomes_nan_or_inf_is_infinitely_wrong(one, type, word):
    a = stored(type, [1, 2, 3, 4])
    b = changed_at(changed_at(a, 2, word), 0, 0)
    found = one(a, b)
    of = found.difference
    assert (found.changed, found.first.at, found.worst.at) == (2, 0, 2)
    assert of.max_abs == of.max_rel == of.squared_error == of.rms == math.inf
    assert of.snr_db == -math.inf
    assert math.isnan(of.cosine)
    assert found.worst.a == 3
    assert not math.isfinite(found.worst.b)
    assert int(found.worst.word_b, 16) == word


@pytest.mark.parametrize("other", ["F32", "F64", "F16"])
def test_specials_of_every_sort_against_other_types(one, other):
    """No warning of NumPy's gets out, and every place is that of a value that differs."""
    a = words_as("F32", np.append(SPECIAL, ONE))
    b = stored(other, np.append(np.zeros(SPECIAL.size), 1))
    for ours, theirs in ((a, b), (b, a)):
        found = one(ours, theirs)
        assert found.changed == SPECIAL.size - 1
        assert found.first.at == 1
    halves = words_as("F16", [0x7C01, 0x7E00, 0xFC00, 0x3C00])
    assert one(halves, stored("F64", [0, 0, 0, 1])).changed == 3


def test_scales_that_are_not_finite(one):
    """A block scaled by NaN or Inf is not finite either."""
    block = np.full(32, 1, np.int8).tobytes()
    good = Stored("Q8_0", (32,), np.float16(1).tobytes() + block)
    for scale in (0x7C00, 0xFC00, 0x7E00, 0x7C01):
        bad = Stored("Q8_0", (32,), scale.to_bytes(2, "little") + bytes(1) + block[1:])
        found = one(good, bad)
        assert (found.changed, found.difference.max_abs) == (32, math.inf)
        assert one(bad, bad).is_same


def test_words_of_any_sort(one):
    """With payloads of NaN: what differs is what differs in bits, and distances are those of the words."""
    a, b = mixed(4000, 1), mixed(4000, 2)
    b[::3] = a[::3]
    found = one(words_as("F32", a), words_as("F32", b))
    differ = np.flatnonzero(a != b)
    assert (found.changed, found.first.at) == (differ.size, differ[0])
    random = np.random.default_rng(0)
    for type in ("F16", "BF16"):
        old, new = random.integers(0, 1 << 16, (2, 4000), np.uint16)
        new[::3] = old[::3]
        found = one(words_as(type, old), words_as(type, new))
        assert (found.changed, found.first.at) == (np.count_nonzero(old != new), np.flatnonzero(old != new)[0])
        finite = (wide(old, type) & 0x7F800000) != 0x7F800000
        new[is_nan(new, type) | ((wide(new, type) & 0x7FFFFFFF) == INF)] = 0
        found = one(words_as(type, old[finite]), words_as(type, new[finite]))
        assert found.difference.max_ulp == max(ulps(old[finite], new[finite]))


def test_a_difference_that_f32_does_not_hold(one):
    a, b = words_as("F32", [LARGEST, ONE]), words_as("F32", [LARGEST | MINUS_ZERO, ONE])
    found = one(a, b)
    assert found.difference.max_abs == math.inf
    assert found.worst.at == 0
    assert found.difference.max_ulp == 2 * LARGEST


# --- where


def test_first_and_worst(one, small_pieces):
    """The worst is the first of the largest, in whatever piece that is."""
    a = stored("F32", np.ones(300))
    values = np.ones(300, np.float32)
    values[[70, 130, 200, 201, 299]] = [1.5, 0, 3, -1, 3]
    found = one(a, stored("F32", values))
    assert found.first == Place(70, 1.0, 1.5, "3f800000", "3fc00000")
    assert found.worst == Place(200, 1.0, 3.0, "3f800000", "40400000")
    values[70] = 7
    found = one(a, stored("F32", values))
    assert found.first == found.worst == Place(70, 1.0, 7.0, "3f800000", "40e00000")
    values[70], values[10] = -0.0, 1 + 2**-23
    found = one(a, stored("F32", values))
    assert (found.first.at, found.first.word_b, found.worst.at) == (10, "3f800001", 200)


def test_the_worst_among_changes_without_an_error(one, small_pieces):
    a, b = np.zeros(300, np.float32), np.zeros(300, np.float32)
    b[[64, 128, 250]] = -0.0
    found = one(stored("F32", a), stored("F32", b))
    assert (found.changed, found.first.at, found.worst.at) == (3, 64, 64)
    b[250] = 1
    found = one(stored("F32", a), stored("F32", b))
    assert (found.first.at, found.worst.at) == (64, 250)


def test_the_worst_is_what_became_nan(one, small_pieces):
    a = stored("F32", np.ones(200))
    b = changed_at(changed_at(stored("F32", np.full(200, 2)), 150, NAN), 190, INF)
    found = one(a, b)
    assert (found.first.at, found.worst.at, found.worst.word_b) == (0, 150, "7fc00000")


def test_words_of_a_place(one):
    """Each type's own; F32 where a side is quantized or types differ; F64 where a side is that."""
    values = np.arange(1, 33, dtype=np.float32)
    for a, b, word in [
        ("F32", "F32", "41980000"),
        ("F16", "F16", "4cc0"),
        ("BF16", "BF16", "4198"),
        ("F64", "F64", "4033000000000000"),
        ("F16", "BF16", "41980000"),
        ("F32", "F64", "4033000000000000"),
        ("BF16", "F64", "4033000000000000"),
    ]:
        changed = values.copy()
        changed[18] = 0
        found = one(stored(a, values), stored(b, changed))
        assert found.first == Place(18, 19.0, 0.0, word, "0" * len(word)), (a, b)
    blocks = stored("Q8_0", values)
    found = one(blocks, stored("Q8_0", -values))
    assert len(found.first.word_a) == 8
    assert found.first.a == float(decoded(blocks)[0])


# --- layouts


@pytest.mark.parametrize("type", [*FLOATS, "Q8_0", "Q4_K"])
def test_unaligned_tensors(tmp_path, small_pieces, type):
    """One side at odd offsets, the other at multiples of 32; and both."""
    if type in FLOATS:
        a, b = stored(type, weights(300)), stored(type, nudged(weights(300)))
    else:
        a, b = any_blocks(type, 3, 0), any_blocks(type, 3, 1)
    first = Stored("I8", (1,), b"\1")
    ours = save(tmp_path / "a.gguf", {"odd": first, "t": a}, aligned=1)
    same = save(tmp_path / "same.gguf", {"odd": first, "t": a})
    for theirs in (save(tmp_path / "b.gguf", {"odd": first, "t": b}, aligned=al) for al in (1, 32)):
        found = tb.diff(ours, theirs)
        assert_measured(found.tensors[1], a, b, mse=1e-7)
    found = tb.diff(ours, same)
    assert [one.is_same for one in found.tensors] == [True, True]
    assert [key.key for key in found.metadata] == ["general.alignment"]
    assert any(tb.open(ours).tensors[1].offset % size for size in (2, 4))


def split(number, count):
    return [
        key_value(b"split.no", U16, scalar(U16, number)),
        key_value(b"split.count", U16, scalar(U16, count)),
        key_value(b"split.tensors.count", I32, scalar(I32, len(EVERY))),
    ]


def test_a_shard_set_against_a_single_file(tmp_path):
    """Their tensors are the same; what the metadata says of the set is not."""
    names = list(EVERY)
    for number, part in enumerate((names[:3], names[3:9], names[9:])):
        path = tmp_path / f"set-0000{number + 1}-of-00003.gguf"
        save(path, {name: EVERY[name] for name in part}, [*(KEYS if not number else []), *split(number, 3)])
    whole = save(tmp_path / "whole.gguf", EVERY, KEYS)
    second = tmp_path / "set-00002-of-00003.gguf"
    for found in (tb.diff(second, whole), tb.diff(whole, second)):
        assert all(one.is_same for one in found.tensors)
        assert [one.name for one in found.tensors] == names
        assert (found.only_a, found.only_b) == ((), ())
        assert {key.key for key in found.metadata} == {"split.no", "split.count", "split.tensors.count"}
    assert tb.diff(second, tmp_path / "set-00001-of-00003.gguf").is_same
    changed = {**EVERY, names[-4]: EVERY[names[-4]]._replace(data=bytes(24))}
    found = tb.diff(second, save(whole, changed, KEYS))
    assert [one.name for one in found.tensors if not one.is_same] == [names[-4]]


# --- tensors of one side only, and shapes

SMALL = {name: stored("F32", weights(40, seed)) for seed, name in enumerate(("a.weight", "b.weight", "c.weight"))}


def without(tensors, *names):
    return {name: one for name, one in tensors.items() if name not in names}


def test_tensors_of_one_side_only(both, truebits):
    found = both(without(SMALL, "b.weight"), without(SMALL, "a.weight", "c.weight"))
    assert (found.only_a, found.only_b, found.tensors) == (("a.weight", "c.weight"), ("b.weight",), ())
    assert not found.is_same
    code, out, _ = truebits("diff", found.a, found.b)
    assert code == 1
    for line in (f"a.weight is only in {found.a}", f"b.weight is only in {found.b}"):
        assert line in " ".join(out.split())
    for a, b in ((SMALL, without(SMALL, "c.weight")), (without(SMALL, "c.weight"), SMALL)):
        found = both(a, b)
        assert not found.is_same
        assert all(one.is_same for one in found.tensors)
        assert sorted(found.only_a + found.only_b) == ["c.weight"]


def test_a_renamed_tensor(both):
    renamed = {name.replace("b.", "d."): one for name, one in SMALL.items()}
    found = both(SMALL, renamed)
    assert (found.only_a, found.only_b) == (("b.weight",), ("d.weight",))
    assert [one.name for one in found.tensors] == ["a.weight", "c.weight"]
    assert not found.is_same
    assert len(found.over("changed", 1e30)) == 2


def test_swapped_tensors(both):
    """Equal bytes under another name are no equality."""
    swapped = {**SMALL, "a.weight": SMALL["b.weight"], "b.weight": SMALL["a.weight"]}
    found = both(SMALL, swapped)
    assert [one.is_same for one in found.tensors] == [False, False, True]
    for one in found.tensors[:2]:
        assert_measured(one, SMALL[one.name], swapped[one.name], mse=1e-7)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (40, 1), (2, 4, 5), (39,), (80,)])
@pytest.mark.parametrize("type", ["F32", "I32"])
def test_another_shape(both, truebits, type, shape):
    """Whether the bytes are the same or not: it is said, and no gate lets it pass."""
    size = math.prod(shape)
    a = Stored(type, (40,), weights(40).tobytes())
    for seed in (0, 1):
        b = Stored(type, shape, np.resize(weights(40, seed), size).tobytes())
        found = both({"t": a}, {"t": b})
        (tensor,) = found.tensors
        assert tensor.shapes == ((40,), shape)
        assert (found.is_same, tensor.is_same, tensor.changed) == (False, False, 0)
        assert "shapes differ" in (tensor.problem or "")
        code, out, _ = truebits("diff", found.a, found.b)
        assert code == 1
        assert f"40 and {' x '.join(map(str, shape))}" in out
        assert all(len(found.over(metric, 1e30)) == 1 for metric in METRICS)


def test_another_shape_of_another_type(both):
    found = both({"t": stored("F32", weights(64))}, {"t": stored("Q8_0", weights(64), (32, 2))})
    assert "shapes differ" in found.tensors[0].problem
    assert found.over("changed", 1e30)


# --- metadata


def metadata(both, ours, theirs):
    """Compare keys alone: (key, kind, value) records."""
    found = both(SMALL, SMALL, [*KEYS, *(key_value(*key) for key in ours)], [key_value(*key) for key in theirs] + KEYS)
    assert all(one.is_same for one in found.tensors)
    assert found.is_same == (not found.metadata)
    return [tuple(key) for key in found.metadata]


NUMBERS = [scalar(I32, number) for number in (1, 2, 3)]
TOKENS = [string(token) for token in (b"<s>", b"a", b"bc")]


@pytest.mark.parametrize(
    ("kind", "ours", "theirs", "shown"),
    [
        (U32, scalar(U32, 4), scalar(U32, 5), ("4", "5")),
        (I32, scalar(I32, -1), scalar(I32, 1), ("-1", "1")),
        (F32, scalar(F32, 1e-5), scalar(F32, 0.5), (None, "0.5")),
        (F64, scalar(F64, 0.1), scalar(F64, 0.2), ("0.1", "0.2")),
        (BOOL, scalar(BOOL, True), scalar(BOOL, False), ("True", "False")),
        (STRING, string(b"llama"), string(b"llama2"), ("llama", "llama2")),
        (STRING, string(b""), string(b"\x1b[31m"), ("", r"\x1b[31m")),
        (STRING, string(b"\xff"), string("ü".encode()), (r"\xff", "ü")),
        (ARRAY, array(I32, NUMBERS), array(I32, NUMBERS[:2]), (None, None)),
        (ARRAY, array(I32, NUMBERS), array(I32, NUMBERS[::-1]), (None, None)),
        (ARRAY, array(I32, NUMBERS), array(U32, NUMBERS), (None, None)),
        (ARRAY, array(STRING, TOKENS), array(STRING, [*TOKENS[:2], string(b"bd")]), (None, None)),
        (ARRAY, array(STRING, TOKENS), array(STRING, [*TOKENS[:2], string(b"bcd")]), (None, None)),
        (ARRAY, array(STRING, []), array(STRING, TOKENS), (None, None)),
    ],
)
def test_another_value(both, kind, ours, theirs, shown):
    ((key, a, b),) = metadata(both, [(b"some.key", kind, ours)], [(b"some.key", kind, theirs)])
    assert key == "some.key"
    for text, expected in ((a, shown[0]), (b, shown[1])):
        assert isinstance(text, str)
        assert expected is None or text == expected
    assert metadata(both, [(b"some.key", kind, ours)], [(b"some.key", kind, ours)]) == []


def test_a_long_array_that_differs_at_its_end(both):
    """Of strings and of numbers, longer than any that would be decoded."""
    tokens = [string(b"token %d" % number) for number in range(20_000)]
    numbers = [scalar(I32, number) for number in range(20_000)]
    last = (b"tokens", ARRAY, array(STRING, [*tokens[:-1], string(b"token")]))
    ours = [(b"tokens", ARRAY, array(STRING, tokens)), (b"types", ARRAY, array(I32, numbers))]
    assert metadata(both, ours, ours) == []
    assert [key for key, *_ in metadata(both, ours, [last, ours[1]])] == ["tokens"]
    assert [key for key, *_ in metadata(both, ours, [ours[0], (b"types", ARRAY, array(I32, numbers[1:]))])] == ["types"]


def test_another_type_of_a_value_is_a_difference(both):
    found = metadata(both, [(b"count", U32, scalar(U32, 4))], [(b"count", I32, scalar(I32, 4))])
    assert [key for key, *_ in found] == ["count"]


def test_a_nan_in_the_metadata_is_itself(both):
    nan = (b"nan", F32, b"\1\0\xc0\x7f")
    assert metadata(both, [nan], [nan]) == []
    assert [key for key, *_ in metadata(both, [nan], [(b"nan", F32, b"\2\0\xc0\x7f")])] == ["nan"]


def test_keys_of_one_side_only(both, truebits):
    ours, theirs = (b"ours", U32, scalar(U32, 1)), (b"theirs", ARRAY, array(I32, NUMBERS))
    found = metadata(both, [ours], [theirs])
    assert [(key, a is None, b is None) for key, a, b in found] == [("ours", False, True), ("theirs", True, False)]
    found = both(SMALL, SMALL, [*KEYS, key_value(*ours)], KEYS)
    code, out, _ = truebits("diff", found.a, found.b)
    assert code == 1
    assert "ours: 1 and not there" in out
    code, out, _ = truebits("diff", found.b, found.a)
    assert (code, "ours: not there and 1" in out) == (1, True)
    assert truebits("diff", found.a, found.b, "--fail-over", "changed=0")[0] == 0


def test_long_strings_are_shortened_but_compared_whole(both):
    text = b"x" * 10_000
    ((_, a, b),) = metadata(both, [(b"text", STRING, string(text + b"1"))], [(b"text", STRING, string(text + b"2"))])
    assert max(len(a), len(b)) <= 60


# --- which tensors


def test_selection(both):
    """It holds for both sides, for what is compared and for what is missing."""
    b = {**without(SMALL, "a.weight"), "c.weight": stored("F32", weights(40, 9)), "d.weight": SMALL["a.weight"]}
    found = both(SMALL, b)
    assert [one.name for one in found.tensors] == ["b.weight", "c.weight"]
    found = both(SMALL, b, select="b")
    assert (len(found.tensors), found.only_a, found.only_b, found.is_same) == (1, (), (), True)
    found = both(SMALL, b, exclude=["^c", "^d"])
    assert (len(found.tensors), found.only_a, found.only_b, found.is_same) == (1, ("a.weight",), (), False)
    found = both(SMALL, b, select=iter(["b", "c"]), exclude="b")
    assert [(one.name, one.is_same) for one in found.tensors] == [("c.weight", False)]
    assert found.values == 40
    with pytest.raises(SelectionError):
        both(SMALL, b, select="nothing")
    with pytest.raises(SelectionError, match="regular expression"):
        both(SMALL, b, exclude="(")


def test_selection_on_the_command_line(both, truebits):
    found = both(SMALL, {**SMALL, "c.weight": stored("F32", weights(40, 9))})
    for arguments, code in [
        ([], 1),
        (["-l", "c"], 1),
        (["-L", "c"], 0),
        (["--include", "a", "--include", "b.weight"], 0),
        (["-l", "weight", "--exclude", "^c"], 0),
        (["-l", "none"], 2),
        (["-l", "("], 2),
        (["-L", "."], 2),
    ]:
        assert truebits("diff", found.a, found.b, *arguments)[0] == code, arguments


# --- threads, kernels, pieces


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two models large enough for several chunks, with values of all sorts."""
    folder = tmp_path_factory.mktemp("large")
    usual = {f"blk.{i}.{type}": stored(type, weights(40_000, i)) for i, type in enumerate(FLOATS)}
    ours = {**usual, "mixed": words_as("F32", mixed(30_000, 1)), "Q8_0": stored("Q8_0", weights(32_000))}
    other = {name: stored(one.type, nudged(decoded(one), share=0.4)) for name, one in usual.items()}
    theirs = {**other, "mixed": words_as("F32", mixed(30_000, 2)), "Q8_0": stored("F32", weights(32_000))}
    theirs["blk.1.F16"] = words_as("F16", np.random.default_rng(0).integers(0, 1 << 16, 40_000))
    return save(folder / "a.gguf", ours), save(folder / "b.gguf", theirs)


def test_threads_and_kernels_change_nothing(large, monkeypatch):
    """The same to the last bit; `repr`, as NaN is not equal to itself."""
    monkeypatch.setattr(dispatch, "uses_kernel", lambda *_: False)
    expected = repr(tb.diff(*large).tensors)
    assert "changed=0" not in expected
    monkeypatch.setattr(dispatch, "uses_kernel", lambda *_: True)
    for threads in (None, 1, 2, 3):
        assert repr(tb.diff(*large, threads=threads).tensors) == expected
    assert tb.diff(large[0], large[0], threads=2).is_same


def test_pieces_change_no_counts_and_no_places(large, monkeypatch):
    def counts(found):
        return repr([(one.changed, one.first, one.worst, one.difference[:7]) for one in found.tensors])

    expected = counts(tb.diff(*large))
    for pieces in (1000, 8192, 16_384):
        monkeypatch.setattr(sides, "PIECE_VALUES", pieces)
        assert counts(tb.diff(*large)) == expected
    monkeypatch.setattr(sides, "PIECE_VALUES", 8192)
    assert repr(tb.diff(*large).tensors) == repr(tb.diff(*large).tensors)


def test_progress_reaches_the_end(both):
    steps = []
    nbytes = sum(len(one.data) for one in SMALL.values())
    both(SMALL, {**SMALL, "more": SMALL["a.weight"]}, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (nbytes, nbytes)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_a_file_that_changed_since_its_header_was_read(tmp_path):
    a, b = (save(tmp_path / name, SMALL) for name in ("a.gguf", "b.gguf"))
    opened = tb.open(b)
    b.write_bytes(b.read_bytes() + b"\0")
    with pytest.raises(FileChanged):
        tb.diff(a, opened)


def test_a_file_that_changes_while_it_is_compared(tmp_path, small_pieces, monkeypatch):
    values = weights(400)
    a = save(tmp_path / "a.gguf", {"t": stored("F32", values)})
    b = save(tmp_path / "b.gguf", {"t": stored("F32", nudged(values))})
    compare = measure.native.compare

    def touching(*arguments):
        os.utime(b, ns=(0, 0))
        return compare(*arguments)

    monkeypatch.setattr(measure.native, "compare", touching)
    with pytest.raises(FileChanged):
        tb.diff(a, b)


# --- all tensors together


def test_total_is_over_the_tensors_that_differ(both):
    a = {name: stored("F32", weights(400, seed)) for seed, name in enumerate("abcd")}
    b = {**a, "a": stored("F32", nudged(weights(400, 0))), "c": changed_at(a["c"], 399, ONE)}
    a["other"], b["other"] = Stored("I8", (2,), b"ab"), Stored("I8", (2,), b"ac")
    found = both(a, b)
    joined = [Stored("F32", (800,), one["a"].data + one["c"].data) for one in (a, b)]
    expected, of = plainly(*joined), found.total
    assert (of.values, of.changed, of.max_ulp) == (800, expected.changed, expected.max_ulp)
    assert (found.values, found.changed) == (1602, expected.changed)
    assert of.max_abs == pytest.approx(expected.max_abs, rel=ROUNDED)
    assert of.max_rel == pytest.approx(expected.max_rel, rel=ROUNDED)
    assert of.rms**2 == pytest.approx(expected.mse, rel=1e-7)
    assert of.snr_db == pytest.approx(expected.snr_db, abs=1e-6)
    assert of.cosine == pytest.approx(expected.cosine, rel=1e-9)


# --- the gate


def gated(both):
    """Compare (1, 2, 4, 4) with (1, 2.5, 4.0625, 4)."""
    return both({"t": stored("F32", [1, 2, 4, 4])}, {"t": stored("F32", [1, 2.5, 4.0625, 4])})


LIMITS = {
    "changed": 2,
    "max_abs": 0.5,
    "max_rel": 0.25,
    "max_ulp": 1 << 21,
    "mse": (0.25 + 0.00390625) / 4,
    "rms": math.sqrt((0.25 + 0.00390625) / 4),
}


@pytest.mark.parametrize("metric", METRICS)
def test_a_gate_closes_above_its_limit(both, truebits, metric):
    found = gated(both)
    limit = LIMITS[metric]
    for limits, passes in (
        ([limit], True),
        ([limit * 2], True),
        ([math.nextafter(limit, 0)], False),
        ([0], False),
        ([limit, 0], False),
    ):
        assert (not any(found.over(metric, one) for one in limits)) == passes
        gates = [text for one in limits for text in ("--fail-over", f"{metric}={one!r}")]
        code, out, err = truebits("diff", found.a, found.b, *gates)
        assert (code, err) == (0 if passes else 1, "")
        assert ("gate failed: t: " in out) == (not passes)
        assert (f"{metric} is " in out) == (not passes)
        data = document(truebits("diff", found.a, found.b, *gates, "--json")[1])
        assert bool(data["failed"]) == (not passes)
        assert data["same"] is False


def test_the_limits_are_those_of_numpy():
    assert set(LIMITS) == set(METRICS)
    expected = plainly(stored("F32", [1, 2, 4, 4]), stored("F32", [1, 2.5, 4.0625, 4]))
    assert tuple(LIMITS.values())[:5] == tuple(expected._asdict()[metric] for metric in list(LIMITS)[:5])


def test_any_of_several_gates_closes(both, truebits):
    found = gated(both)
    gates = ["--fail-over", "max_abs=1", "--fail-over", "changed=1", "--fail-over", "max_rel = 1"]
    code, out, _ = truebits("diff", found.a, found.b, *gates)
    assert code == 1
    assert out.count("gate failed") == 1
    assert "changed is 2, more than 1" in out
    assert truebits("diff", found.a, found.b, *gates[:2], *gates[4:])[0] == 0


def test_a_gate_is_of_each_tensor(both):
    """A bad one does not hide among good ones."""
    good = {f"good.{i}": stored("F32", np.ones(1000)) for i in range(20)}
    found = both({**good, "bad": stored("F32", [1.0])}, {**good, "bad": stored("F32", [2.0])})
    assert found.over("mse", 0.5) == ["bad: mse is 1, more than 0.5"]


@pytest.mark.parametrize(
    "limit",
    [
        *[
            "max_abs=nan",
            "max_abs=NaN",
            "max_abs=-nan",
            "max_abs=-1",
            "max_abs=-1e-300",
            "max_abs=inf",
            "max_abs=-inf",
            "max_abs=1e400",
        ],
        *[
            "changed=-1",
            "maxabs=1",
            "MAX_ABS=1",
            "snr_db=1",
            "cosine=0.9",
            "values=1",
            "count=1",
            "index=1",
            "=1",
            "max_abs=",
            "max_abs",
            "1",
        ],
        *["max_abs=x", "max_abs>1", "max_abs=1,max_rel=1", "max_abs=1=2"],
        "",
    ],
)
def test_a_gate_that_means_nothing_is_refused(truebits, tmp_path, limit):
    """Before any file is opened, also beside a good one."""
    for gates in ([limit], ["changed=1", limit], [limit, "changed=1"]):
        options = [text for gate in gates for text in ("--fail-over", gate)]
        code, out, err = truebits("diff", tmp_path / "missing", tmp_path / "missing", *options)
        assert (code, out) == (2, ""), err
        assert err


@pytest.mark.parametrize(
    ("metric", "limit"), [("max_abs", math.nan), ("max_abs", -1), ("rms", math.inf), ("snr_db", 1), ("at", 1), ("", 1)]
)
def test_a_limit_that_means_nothing_is_refused(both, metric, limit):
    for check in (check_limit, both(SMALL, SMALL).over):
        with pytest.raises(UsageError) as caught:
            check(metric, limit)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("metric", METRICS)
def test_a_missing_tensor_does_not_pass(both, truebits, metric):
    for a, b in ((SMALL, without(SMALL, "b.weight")), (without(SMALL, "b.weight"), SMALL)):
        found = both(a, b)
        assert len(found.over(metric, 1e30)) == 1
        code, out, _ = truebits("diff", found.a, found.b, "--fail-over", f"{metric}=1e30")
        assert code == 1
        assert "gate failed: b.weight is only in" in out


@pytest.mark.parametrize("metric", ["max_abs", "max_rel", "mse", "rms"])
@pytest.mark.parametrize("became", [NAN, INF, MINUS_INF])
def test_what_became_nan_does_not_pass(both, truebits, metric, became):
    """Whatever the limit; counts and distances in words stay finite."""
    a = stored("F32", np.ones(100))
    found = both({"t": a}, {"t": changed_at(a, 7, became)})
    assert found.over(metric, 1e300)
    assert truebits("diff", found.a, found.b, "--fail-over", f"{metric}=1e300")[0] == 1
    assert found.over("changed", 0)
    assert found.over("max_ulp", 1 << 23)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("was", "became"), [(NAN, ONE), (INF, ONE), (MINUS_INF, ONE), (INF, MINUS_INF), (INF, NAN), (NAN, INF)]
)
def test_what_was_nan_does_not_pass(both, truebits, metric, was, became):
    """A reference that is broken itself says nothing good of the other side."""
    found = both({"t": words_as("F32", [was] * 8)}, {"t": words_as("F32", [became] * 8)})
    assert found.over(metric, 0)
    assert truebits("diff", found.a, found.b, "--fail-over", f"{metric}=0")[0] == 1


def test_what_was_zero_does_not_pass_a_relative_gate(both):
    """Anything is infinitely more than nothing."""
    found = both({"t": stored("F32", [0, 1])}, {"t": stored("F32", [1e30, 1])})
    assert found.over("max_rel", 0.5)


@pytest.mark.parametrize("metric", METRICS)
def test_quantized_against_unquantized_at_a_gate(both, metric):
    """It is measured by what it means, whichever side it is."""
    values = weights(1024)
    full, blocks = stored("F32", values), stored("Q4_0", values)
    for a, b in ((full, blocks), (blocks, full)):
        found = both({"t": a}, {"t": b})
        at = plainly(a, b)._asdict().get(metric, math.sqrt(plainly(a, b).mse))
        assert found.over(metric, 0)
        if metric != "max_rel" or a is full:
            assert found.over(metric, at * 0.999)
            assert not found.over(metric, at * 1.001)


def test_an_unfit_difference_does_not_pass(both):
    """A difference larger than F32 holds is infinite."""
    found = both({"t": words_as("F32", [LARGEST])}, {"t": words_as("F32", [LARGEST | MINUS_ZERO])})
    assert all(found.over(metric, 1e38) for metric in ("max_abs", "mse", "rms"))


# --- exit codes and output


@pytest.fixture
def different(both):
    """A diff of everything there is to tell, with its files."""
    a = {
        **SMALL,
        "changed": stored("F32", weights(50)),
        "nan": stored("F32", [1, 2]),
        "type": stored("F32", EXACT),
        "blocks": stored("F32", weights(64)),
        "shape": stored("F32", weights(4)),
        "bytes": Stored("I8", (2,), b"ab"),
        "ours": stored("F32", [1]),
    }
    b = {
        **SMALL,
        "changed": stored("F32", nudged(weights(50))),
        "nan": words_as("F32", [INF, NAN]),
        "type": stored("F16", EXACT),
        "blocks": stored("Q8_0", weights(64)),
        "shape": stored("F32", weights(5)),
        "bytes": Stored("I8", (2,), b"ac"),
        "theirs": stored("F32", [1]),
    }
    return both(a, b, KEYS, KEYS[1:])


def test_exit_codes(different, both, truebits, tmp_path):
    a, b = different.a, different.b
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(10))
    for arguments, expected in [
        ([a, a], 0),
        ([a, b], 1),
        ([b, a], 1),
        ([a, a, "--fail-over", "changed=0"], 0),
        ([a, b, "--fail-over", "max_abs=1e30"], 1),
        ([a, b, "-l", "^changed", "--fail-over", "max_abs=1"], 0),
        ([a, b, "-l", "^changed", "--fail-over", "max_abs=0"], 1),
        ([a], 2),
        ([a, b, b], 2),
        ([a, b, "--fail-over"], 2),
        ([a, b, "--threads", "0"], 2),
        ([a, a, "--threads", "1"], 0),
        ([a, broken], 3),
        ([broken, a], 3),
        ([a, tmp_path / "missing.gguf"], 4),
        ([tmp_path, a], 4),
    ]:
        code, out, err = truebits("diff", *arguments)
        assert code == expected, (arguments, out, err)
        assert bool(err) == (expected > 1)
        assert "Traceback" not in err
        if expected < 2:
            assert truebits("diff", *arguments, "--json")[0] == expected
            assert truebits("diff", *arguments, "-o", "csv")[0] == expected


def test_exit_code_of_a_process(different):
    """The command as it is run."""
    command = [sys.executable, "-m", "truebits", "diff", different.a]
    done = subprocess.run([*command, different.b], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "Different: 5 of 9 tensors" in done.stdout
    assert subprocess.run([*command, different.a], capture_output=True).returncode == 0


@pytest.mark.parametrize("options", [[], ["--json"], ["--fail-over", "changed=0"]])
def test_a_reader_that_stops_reading_does_not_make_models_the_same(different, options):
    """The exit code is what a script asks: `truebits diff A B | head` under pipefail."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "truebits", "diff", different.a, different.b, *options]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_text(different, truebits):
    code, out, err = truebits("diff", different.a, different.b)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    for said in (
        f"ours is only in {different.a}",
        f"theirs is only in {different.b}",
        "shape: its shapes differ: 4 and 5",
        "general.architecture: llama and not there",
    ):
        assert said in lines
    told = f"Different: 5 of 9 tensors, {different.changed:,} of {different.values:,} values. 1 more: the same values, "
    assert " ".join(out.split()).startswith(told)
    assert any(line.startswith("bytes: ") and "I8" in line for line in lines)
    assert any(line.startswith("1 tensor F32 here, F16 there") for line in lines)
    for place in (one for one in different.tensors if one.first):
        for word in (place.first.word_a, place.first.word_b, place.worst.word_a, place.worst.word_b):
            assert word in out
    code, out, _ = truebits("diff", different.a, different.a)
    assert out == "The same: 10 tensors with 563 values, byte for byte, and all metadata.\n"


ALWAYS = {"name", "types", "shapes", "values", "changed", "same", "problem", "first", "worst"}
MEASURED = {"flushed", "saturated", "max_ulp", "max_abs", "max_rel", "squared_error", "rms", "squares", "snr_db"}
TOP = {"schema", "a", "b", "same", "verdict", "coverage", "failed", "only_a", "only_b", "metadata", "tensors", "total"}


def test_json(different, truebits):
    code, out, _ = truebits("diff", different.a, different.b, "--json", "--fail-over", "max_abs=1")
    data = document(out)
    assert code == 1
    assert out.isascii()
    assert set(data) == TOP
    assert (data["schema"], data["same"], data["a"], data["b"]) == (
        "truebits.diff/1",
        False,
        different.a,
        different.b,
    )
    assert (data["only_a"], data["only_b"]) == (["ours"], ["theirs"])
    assert data["metadata"] == [{"key": "general.architecture", "a": "llama", "b": None}]
    assert data["failed"] == different.over("max_abs", 1)
    assert {*MEASURED, "cosine", "values", "changed"} <= set(data["total"])
    assert (data["total"]["values"], data["total"]["changed"]) == (different.values, different.changed)
    assert [one["name"] for one in data["tensors"]] == [one.name for one in different.tensors]
    for got, found in zip(data["tensors"], different.tensors, strict=True):
        assert set(got) >= ALWAYS
        assert (tuple(got["types"]), tuple(map(tuple, got["shapes"]))) == (found.types, found.shapes)
        assert (got["same"], got["problem"], got["changed"]) == (found.is_same, found.problem, found.changed)
        if found.difference is None:
            assert got["first"] is got["worst"] is None
            continue
        assert {*MEASURED, "cosine"} <= set(got)
        for name in (*MEASURED, "cosine"):
            figure = getattr(found.difference, name)
            assert got[name] == (figure if math.isfinite(figure) else None)
        for got_place, place in ((got["first"], found.first), (got["worst"], found.worst)):
            if place is None:
                assert got_place is None
                continue
            assert set(got_place) == {"at", "a", "b", "word_a", "word_b"}
            assert (got_place["at"], got_place["word_a"], got_place["word_b"]) == (
                place.at,
                place.word_a,
                place.word_b,
            )
            assert got_place["b"] == (place.b if math.isfinite(place.b) else None)


def test_json_of_the_same_has_the_same_keys(different, truebits):
    code, out, _ = truebits("diff", different.a, different.a, "--json")
    data = document(out)
    assert (code, data["same"], data["failed"], data["metadata"]) == (0, True, [], [])
    assert set(data) == TOP
    assert set(data["total"]) == set(document(truebits("diff", different.a, different.b, "--json")[1])["total"])
    assert all(set(one) >= ALWAYS and one["same"] for one in data["tensors"])


def test_json_has_what_a_gate_can_limit(different, truebits):
    data = document(truebits("diff", different.a, different.b, "--json")[1])
    changed = next(one for one in data["tensors"] if one["name"] == "changed")
    for metric in METRICS:
        assert metric in changed, metric
        assert metric in data["total"], metric


def test_csv(different, truebits):
    code, out, _ = truebits("diff", different.a, different.b, "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 1
    assert [row["tensor"] for row in rows] == ["changed", "nan", "type", "blocks", "shape", "bytes", "all"]
    assert all(None not in row and None not in row.values() for row in rows)
    row, found = rows[0], next(one for one in different.tensors if one.name == "changed")
    assert (int(row["values"]), int(row["differ"])) == (50, found.changed)
    assert float(row["max abs"]) == found.difference.max_abs
    assert float(row["MSE"]) == pytest.approx(figure(found.difference, "mse"))
    assert int(row["max ulp"]) == found.difference.max_ulp
    assert (int(rows[-1]["values"]), int(rows[-1]["differ"])) == (different.values, different.changed)
    assert truebits("diff", different.a, different.a, "-o", "csv")[:2] == (0, "")


def test_markdown(different, truebits):
    code, out, _ = truebits("diff", different.a, different.b, "-o", "md")
    lines = out.splitlines()
    assert code == 1
    assert len(lines) == 2 + 7
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines)
    assert len({line.count("|") for line in lines}) == 1


def test_table_says_what_the_figures_are(both):
    a, b = stored("F32", weights(400)), stored("F32", nudged(weights(400), share=0.2))
    found = both({"t": a, "same": a}, {"t": b, "same": a})
    table, expected = figures.diff(found, by_tensor=True), plainly(a, b)
    assert len(table.rows) == 1
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["tensor"], row["types"], row["values"], row["differ"]) == ("t", "F32", 400, expected.changed)
    assert row["MSE"] == pytest.approx(expected.mse, rel=1e-9)
    assert row["SNR dB"] == pytest.approx(expected.snr_db, rel=1e-9)
    assert float(row["cosine"]) == pytest.approx(expected.cosine, abs=1e-9)


def test_places_are_listed_for_so_many_tensors(both):
    a = {f"t{i}": stored("F32", [1]) for i in range(30)}
    b = {f"t{i}": stored("F32", [2]) for i in range(30)}
    found = both(a, b)
    assert len(figures.places(found, most=4).rows) == 8
    assert len(figures.diff(found, by_tensor=True).rows) == 31
    assert len(figures.diff(found, by_tensor=False).rows) == 31


# --- names that a terminal could act on

EVIL = "\x1b[31mred\u202e"


@pytest.mark.parametrize("options", [[], ["--json"], ["-o", "csv"], ["-o", "md"], ["--fail-over", "changed=0"]])
def test_names_are_printed_escaped(tmp_path, truebits, options):
    """Tensors that differ, that are missing and that cannot be compared; keys, values, and the file's own name."""
    bad = os.fsdecode(b"\xff")
    a = {EVIL: stored("F32", [1]), f"{EVIL}2": Stored("I8", (1,), b"a"), f"{EVIL}3": stored("F32", [1])}
    b = {EVIL: stored("F32", [2]), f"{EVIL}2": Stored("I8", (1,), b"b"), f"{bad}\r": stored("F32", [1])}
    a[f"{EVIL}4"], b[f"{EVIL}4"] = stored("F32", [1, 2]), stored("F32", [1, 2], (2, 1))
    evil = key_value(EVIL.encode(), STRING, string(b"\x1b]0;title\x07"))
    folder = tmp_path / f"{EVIL}{bad}"
    folder.mkdir()
    ours, theirs = save(folder / "a.gguf", a, [evil]), save(folder / "b.gguf", b)
    code, out, err = truebits("diff", ours, theirs, *options)
    assert code == 1
    for character in ("\x1b", "\u202e", "\x07", "\r", bad):
        assert character not in out + err
    assert "x1b[31mred" in out or "u001b[31mred" in out
    if "--json" in options:
        document(out)


def test_control_bytes_in_a_path_that_is_not_there(truebits, tmp_path):
    code, _, err = truebits("diff", tmp_path / EVIL, tmp_path / EVIL)
    assert code == 4
    assert "\x1b" not in err
