"""A hash of what tensors hold, however they are stored."""

from hashlib import sha256
from struct import pack

import numpy as np
import pytest

from quantized_files import folder, fp8, positive, stored
from traced_pair import a_gguf
from truebits.precision import hashing
from truebits.precision.hashing import TensorFingerprint, canonical, fingerprints, hashes, significant, together
from truebits.quantizers.weights import meaning_of
from words import DTYPE, grid, values_of, words_in

VALUES = np.array([0, -0.0, 1, -1.5, 96, np.inf, -np.inf, 2.0**-14])
"""Exact in every type."""


@pytest.mark.parametrize("type", DTYPE)
def test_the_same_values_have_one_form(type):
    got = canonical(words_in(VALUES, type), type)
    assert got.dtype == np.uint16
    assert got.tolist() == words_in(VALUES, "BF16").tolist()


@pytest.mark.parametrize(
    ("value", "type", "expected"),
    [
        (1.001, "F32", np.uint32),
        (1.001, "F64", np.uint64),
        (1 + 2.0**-10, "F16", np.uint32),
        (1 + 2.0**-20, "F64", np.uint32),
    ],
)
def test_no_value_is_rounded(value, type, expected):
    words = words_in(np.append(VALUES, value), type)
    got = canonical(words, type)
    assert got.dtype == expected
    assert (got.view(f"<f{got.itemsize}") == values_of(words, type)).all()


@pytest.mark.parametrize("type", DTYPE)
def test_every_nan_is_one(type):
    words = grid(type)
    nans = words[np.isnan(values_of(words, type))]
    assert set(canonical(nans, type).tolist()) == {0x7FC0}
    mixed = canonical(np.append(words_in(np.array([1 + 2.0**-6]), type), nans[:1]), type)
    assert mixed.tolist()[-1] == {2: 0x7FC0, 4: 0x7FC00000}[mixed.itemsize]


def test_words_are_left_alone():
    words = words_in(np.array([np.nan, 1.0]), "F32")
    before = words.copy()
    canonical(words, "F32")
    assert (words == before).all()


def all_hashes(model, threads=1):
    return hashes(meaning_of(model), model.tensors, threads, None)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_a_hash_is_that_of_its_pieces(tmp_path, monkeypatch, threads, piece):
    monkeypatch.setattr(hashing, "PIECE_VALUES", piece)
    monkeypatch.setattr(hashing, "PIECE_BYTES", piece)
    values, raw = np.random.default_rng(0).normal(0, 1, 50), np.arange(68, dtype=np.uint8)
    model = a_gguf(tmp_path / "m.gguf", a=("F32", words_in(values, "F32")), b=("Q8_0", raw))
    words = words_in(values, "F32")
    pieces = {"a": (4, words, piece), "b": (1, raw, piece)}
    for name, (width, of, step) in pieces.items():
        digests = [bytes([width]) + sha256(of[at : at + step].tobytes()).digest() for at in range(0, of.size, step)]
        assert all_hashes(model, threads)[name] == sha256(b"".join(digests)).hexdigest()


def test_progress_ends_with_all(tmp_path):
    model = a_gguf(tmp_path / "m.gguf", a=("F32", np.zeros(9, np.uint32)), b=("F16", np.zeros(3, np.uint16)))
    steps = []
    hashes(meaning_of(model), model.tensors, 1, lambda *step: steps.append(step))
    assert steps[-1] == (42, 42)


def test_codes_and_scales_count_as_what_they_mean(tmp_path):
    codes, scale = fp8(8, 16), positive(1)
    tensors = {"a.weight": stored("F8_E4M3", codes), "a.weight_scale": stored("F32", scale)}
    (tmp_path / "fp8").mkdir()
    of = meaning_of(folder(tmp_path / "fp8", tensors, {"quant_method": "fp8"}))
    (quantized,) = fingerprints(of, of.model.tensors, 1)
    plain = folder(tmp_path, {"a.weight": stored("F32", codes.astype(np.float32) * scale)})
    (unquantized,) = fingerprints(meaning_of(plain), plain.tensors, 1)
    assert (quantized.kind, quantized.hash) == ("values", unquantized.hash)


@pytest.mark.parametrize(
    ("shape", "expected"), [((), ()), ((1, 1), ()), ((3, 1, 1), (3,)), ((1, 3), (1, 3)), ((0, 1), (0,))]
)
def test_ones_at_the_end_of_a_shape_say_nothing(shape, expected):
    assert significant(shape) == expected


def test_a_record_and_a_model():
    one = TensorFingerprint("a\udcff", "Q4_K", (3, 1), 3, "bytes", "ab" * 32)
    expected = pack("<I", 2) + b"a\xff" + pack("<I", 4) + b"Q4_K" + pack("<IQ", 1, 3) + b"\xab" * 32
    assert one.record() == expected
    other = one._replace(name="B", kind="values")
    assert together([one, other]) == together([other, one]) == sha256(other.record() + one.record()).hexdigest()
    assert together([]) == sha256().hexdigest()
