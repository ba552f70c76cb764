"""What is counted in a model's floating-point tensors."""

import numpy as np
import pytest

import truebits_native as native
from models import TENSORS, assert_found, write, write_raw
from truebits.errors import SelectionError
from truebits.files.model import open_model
from truebits.files.tensor import Tensor
from truebits.precision.batches import Batch
from truebits.precision.counting import TensorPrecision, count_batch, floating, joined, low_bits, negative_zeros
from truebits.precision.scan import scan
from words import TYPES, mixed, words_in


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "model.gguf", TENSORS)


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


def test_low_bits_of_nothing(tmp_path):
    path = write_raw(tmp_path / "model.gguf", {"empty": ("F32", np.empty(0, np.uint32))}, 32)
    assert low_bits(path) == {"empty": 0}


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


def words_of(*values):
    return np.array(values, np.float32).view(np.uint32)


@pytest.mark.parametrize("type", TYPES)
def test_negative_zeros(tmp_path, type):
    values = np.array([0.0, -0.0, 1.0, -1.0, -0.0, np.nan, -np.inf])
    tensors = {
        "a": (type, words_in(values, type)),
        "b": (type, words_in(np.zeros(3), type)),
        "c": ("F32", words_of(-0.0)),
    }
    model = open_model(write(tmp_path / "model.gguf", tensors))
    assert negative_zeros(model, model.tensors) == {"a": 2, "b": 0, "c": 1}


@pytest.mark.parametrize(
    ("values", "before", "expected"),
    [
        ([1, 2], 0, {}),
        ([1, np.nan, np.nan], 0, {"nan": 1}),
        ([1, np.inf, np.nan, -np.inf], 100, {"nan": 102, "inf": 101}),
    ],
)
def test_where_special_values_stand(values, before, expected):
    words = np.concatenate([words_of(0.5, np.nan), words_of(*values)])
    ends = np.array([2]), np.array([words.size])
    got = count_batch(Batch((tensor(),), words, *ends, np.array([before]), None, []))
    assert got.first.get("a", {}) == expected


def tensor(name="a", type="F32", values=4):
    return Tensor(name, type, (values,), 0, values * 4, values)


def test_pieces_are_joined():
    words = mixed(2_000, 5)
    halves = [np.unique(native.bins_of(half, "F32"), return_counts=True) for half in (words[:700], words[700:])]
    got = joined(tensor(), "F32", halves)
    bins, counts = np.unique(native.bins_of(words, "F32"), return_counts=True)
    assert (got.bins.tolist(), got.counts.tolist()) == (bins.tolist(), counts.tolist())
    assert joined(tensor(), "F32", []).values == 0
    assert joined(tensor(), "F32", halves[:1]).values == 700


def test_tensors_of_the_types_that_are_wanted():
    some = [tensor("a"), tensor("b", "Q8_0"), tensor("c", "F16")]
    assert floating(some, ("F32", "F16"), asked=True) == [some[0], some[2]]
    assert floating(some, ("BF16",), asked=False) == []
    with pytest.raises(SelectionError, match="no BF16 tensor is selected, only F16, F32, Q8_0"):
        floating(some, ("BF16",), asked=True)
    with pytest.raises(SelectionError, match="only no tensor at all"):
        floating([], ("F32",), asked=True)


def test_what_is_quantized_has_no_narrower_type():
    plain = joined(tensor(), "F32", [np.unique(native.bins_of(words_of(1, 2), "F32"), return_counts=True)])
    meant = TensorPrecision("F32", plain.bins, plain.counts, tensor(type="GPTQ 4-bit"))
    assert (plain.stored, plain.is_plain, plain.narrowest) == ("F32", True, "bf16")
    assert (meant.stored, meant.is_plain, meant.narrowest) == ("GPTQ 4-bit", False, None)
    assert joined(tensor("rope_freqs.weight"), "F32", []).is_made
    assert not plain.is_made
