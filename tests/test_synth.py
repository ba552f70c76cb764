import sys
from collections import Counter

import gguf
import ml_dtypes
import numpy as np
import pytest

import truebits as tb
from truebits.errors import Refused, UsageError
from truebits.experiments.synth import LARGEST_TENSOR, plain, round_to, tinyllama
from truebits.files.model import open_model
from truebits.numbers.spelling import find
from words import assert_same_bits, mixed

SMALL = 1 << 18
ITEM = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


def values_in(path):
    """Read every tensor of an F32 model with gguf-py, whose memory map must not outlive the test."""
    return np.concatenate([np.array(tensor.data).ravel() for tensor in gguf.GGUFReader(path).tensors])


# --- plain models


def test_same_seed_same_bytes(path):
    first = tb.synth(path, size=SMALL, seed=7).read_bytes()
    assert tb.synth(path, size=SMALL, seed=7, force=True).read_bytes() == first
    other = tb.synth(path, size=SMALL, seed=8, force=True).read_bytes()
    assert len(other) == len(first)
    differ = np.count_nonzero(np.frombuffer(other, np.uint8) != np.frombuffer(first, np.uint8))
    assert differ > len(first) / 2


@pytest.mark.parametrize("type", ITEM)
@pytest.mark.parametrize("size", [1000, SMALL, 5 << 20])
def test_type_and_size(path, type, size):
    assert tb.synth(str(path), type=type, size=size) == path
    model = open_model(path)
    assert model.types == {type: len(model.tensors)}
    assert model.parts[0].findings == ()
    assert model.value("general.architecture") == "llama"
    row = max(tensor.shape[0] for tensor in model.tensors) * ITEM[type]
    assert abs(sum(tensor.nbytes for tensor in model.tensors) - size) <= row
    assert list(path.parent.iterdir()) == [path]


def test_gguf_reads_the_same_tensors(path):
    tb.synth(path, size=SMALL)
    reader = gguf.GGUFReader(path)
    expected = [(t.name, t.tensor_type.name, tuple(t.shape.tolist()), t.data_offset) for t in reader.tensors]
    got = [(t.name, t.type, t.shape, t.offset) for t in open_model(path).tensors]
    assert got == expected


def test_values_are_those_of_norms_and_weights(path):
    tb.synth(path, size=1 << 22)
    model, words = open_model(path), values_in(path)
    norm = model.tensors[0]
    assert norm.name == "blk.0.attn_norm.weight"
    for values, mean, spread in ((words[: norm.values], 0.5, 0.1), (words[norm.values :], 0, 0.02)):
        assert np.isfinite(values).all()
        assert np.mean(values) == pytest.approx(mean, abs=0.01)
        assert np.std(values) == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("count", [1, 3, 100])
def test_number_of_tensors(path, count):
    tb.synth(path, size=SMALL, tensors=count)
    tensors = open_model(path).tensors
    assert len(tensors) == count
    assert {tensor.values for tensor in tensors} == {SMALL // 4 // count}


def test_one_value(path):
    tb.synth(path, size=4, tensors=1)
    assert [tensor.values for tensor in open_model(path).tensors] == [1]
    tb.synth(path, size=4, force=True)
    assert [tensor.values for tensor in open_model(path).tensors] == [64, 64]


@pytest.mark.parametrize("type", ITEM)
@pytest.mark.parametrize("size", [1 << 30, 10**9, 3 << 30])
def test_large_models_have_more_blocks(type, size):
    specs = plain(size, type, None)
    assert max(spec.values for spec in specs) <= LARGEST_TENSOR
    assert sum(spec.nbytes for spec in specs) == pytest.approx(size, rel=1e-3)
    assert len({spec.name for spec in specs}) == len(specs)


def test_blocks_are_written_one_after_the_other(path, monkeypatch):
    """Draws end at multiples of the block, so a tensor across several must be drawn whole."""
    monkeypatch.setattr(sys.modules["truebits.experiments.synth"], "BLOCK_BYTES", 4096)
    tb.synth(path, size=SMALL)
    values = values_in(path)
    assert np.count_nonzero(values) == values.size
    assert np.unique(values).size > 0.9 * values.size


# --- precision

NARROWER = {
    "f32": ("tf32", "bf16", "fp16"),
    "tf32": ("bf16", "fp16", "e8m9"),
    "fp16": ("bf16", "fp8_e5m2", "e5m9"),
    "bf16": ("fp16", "fp8_e4m3fn", "e8m6"),
    "e5m7": ("fp8_e5m2", "e5m6", "e4m7"),
    "fp8_e5m2": ("fp8_e4m3fn", "e5m1"),
    "fp8_e4m3fn": ("e4m2",),
}


@pytest.mark.parametrize("precision", NARROWER)
def test_scan_finds_the_precision(path, precision):
    tb.synth(path, precision=precision, size=1 << 20)
    (got,) = tb.scan(path).totals().values()
    assert got.fits(precision) == got.values
    for narrower in NARROWER[precision]:
        assert got.fits(narrower) < got.values, narrower
    assert (got.nan, got.inf) == (0, 0)
    assert got.zero < got.values / 10


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("bf16", ml_dtypes.bfloat16),
        ("fp16", np.float16),
        ("fp8_e4m3fn", ml_dtypes.float8_e4m3fn),
        ("fp8_e5m2", ml_dtypes.float8_e5m2),
    ],
)
def test_numpy_agrees_that_values_are_exact(path, precision, dtype):
    values = values_in(tb.synth(path, precision=precision, size=SMALL))
    assert_same_bits(values.astype(dtype).astype(np.float32).view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("type", ["F16", "BF16", "F64"])
@pytest.mark.parametrize("precision", ["f32", "bf16", "fp16", "fp8_e4m3fn", "e5m7"])
def test_precision_of_other_types(path, type, precision):
    tb.synth(path, type=type, precision=precision, size=SMALL)
    (got,) = tb.scan(path).totals().values()
    assert (got.type, got.fits(precision)) == (type, got.values)
    if precision == "f32":
        assert got.fits({"F16": "e5m9", "BF16": "e8m6", "F64": "e8m22"}[type]) < got.values


def test_f64_values_need_all_their_bits(path):
    tb.synth(path, type="F64", precision="f64", size=SMALL)
    (got,) = tb.scan(path).totals().values()
    assert got.fits("f32") < got.values / 100


# --- rounding

REFERENCES = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "e8m7": ml_dtypes.bfloat16,
    "e5m10": np.float16,
    "e5m2": ml_dtypes.float8_e5m2,
}


def finite(words):
    """Return the finite F32 values among words."""
    values = words.view(np.float32)
    return values[np.isfinite(values)]


def expected_of(values, name):
    """Let the format's own dtype round; what is beyond its largest value is that value."""
    largest = np.float32(find(name).largest)
    with np.errstate(over="ignore"):
        rounded = values.astype(REFERENCES[name]).astype(np.float32)
    return np.where(np.abs(values) > largest, np.copysign(largest, values), rounded)


@pytest.mark.parametrize("name", REFERENCES)
def test_round_to_against_the_dtype(name):
    random, format = np.random.default_rng(0), find(name)
    beyond = min(1.2 * format.largest, 3.4e38)
    values = np.concatenate(
        [
            finite(mixed(200_000, 1)),
            random.normal(0, 0.02, 50_000).astype(np.float32),
            (random.uniform(-1, 1, 5_000) * beyond).astype(np.float32),
            (random.uniform(-2, 2, 50_000) * 2.0**format.smallest_normal_exponent).astype(np.float32),
        ]
    )
    got = round_to(values, find(name))
    assert_same_bits(got.view(np.uint32), expected_of(values, name).view(np.uint32))


@pytest.mark.parametrize("name", REFERENCES)
def test_round_to_of_ties_and_their_neighbours(name):
    """Between every two values of the format: the middle, and the F32 just below and above it."""
    dtype = np.dtype(REFERENCES[name])
    words = np.arange(1 << 8 * dtype.itemsize, dtype=np.uint16).astype(f"u{dtype.itemsize}")
    with np.errstate(invalid="ignore"):
        exact = words.view(dtype).astype(np.float64)
    exact = np.unique(exact[np.isfinite(exact)])
    assert_same_bits(round_to(exact, find(name)).view(np.uint64), exact.view(np.uint64))
    middle = ((exact[:-1] + exact[1:]) / 2).astype(np.float32)
    below, above = (np.nextafter(middle, np.float32(end)) for end in (-np.inf, np.inf))
    values = np.concatenate([middle, below, above])
    got = round_to(values, find(name))
    assert_same_bits(got.view(np.uint32), expected_of(values, name).view(np.uint32))


@pytest.mark.parametrize(("name", "bits"), [("tf32", 13), ("e8m15", 8), ("e8m22", 1), ("e8m1", 22)])
def test_round_to_fewer_mantissa_bits(name, bits):
    """To nearest, ties to even, in integers: half an ulp less one, plus the last bit that stays."""
    values = finite(mixed(200_000, 2))
    words = values.view(np.uint32)
    magnitude = words & np.uint32(0x7FFFFFFF)
    rounded = magnitude + np.uint32((1 << (bits - 1)) - 1) + (magnitude >> np.uint32(bits) & np.uint32(1))
    largest = np.float32(find(name).largest).view(np.uint32)
    expected = np.minimum(rounded >> np.uint32(bits) << np.uint32(bits), largest) | words & np.uint32(0x80000000)
    assert_same_bits(round_to(values, find(name)).view(np.uint32), expected)


def test_round_to_of_doubles():
    random = np.random.default_rng(3)
    values = np.concatenate([random.normal(0, 1, 50_000), random.normal(0, 2.0**-24, 50_000), [0.0, -0.0, 5e-324]])
    for name, dtype in (("fp16", np.float16), ("f32", np.float32)):
        expected = values.astype(dtype).astype(np.float64)
        assert_same_bits(round_to(values, find(name)).view(np.uint64), expected.view(np.uint64))
    assert_same_bits(round_to(values, find("f64")).view(np.uint64), values.view(np.uint64))


@pytest.mark.parametrize("name", [*REFERENCES, "tf32", "e2m1", "e3m0", "e8m23", "f32"])
def test_rounding_twice_is_rounding_once(name):
    once = round_to(finite(mixed(50_000, 4)), find(name))
    assert once.dtype == np.float32
    assert_same_bits(round_to(once, find(name)).view(np.uint32), once.view(np.uint32))


# --- like TinyLlama


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tinyllama.gguf"
    yield tb.synth(path, like="tinyllama")
    path.unlink()


def test_tinyllama_as_gguf_reads_it(llama):
    reader = gguf.GGUFReader(llama)
    assert Counter(tensor.tensor_type.name for tensor in reader.tensors) == {"F32": 45, "Q4_K": 135, "Q6_K": 21}
    expected = [(spec.name, spec.type, spec.shape) for spec in tinyllama()]
    assert [(t.name, t.tensor_type.name, tuple(t.shape.tolist())) for t in reader.tensors] == expected
    assert sum(tensor.n_elements for tensor in reader.tensors) == 1_100_048_384
    lengths = {name: len(reader.fields[f"tokenizer.ggml.{name}"].data) for name in ("tokens", "merges", "scores")}
    assert lengths == {"tokens": 32_000, "merges": 61_249, "scores": 32_000}
    tokens = reader.fields["tokenizer.ggml.tokens"]
    assert len({bytes(tokens.parts[index]) for index in tokens.data}) == 32_000
    quantized = [tensor for tensor in reader.tensors if tensor.name in ("blk.0.attn_v.weight", "output.weight")]
    assert [np.any(tensor.data) for tensor in quantized] == [False, False]


def test_tinyllama_is_long_and_takes_little_room(llama):
    status, model = llama.stat(), open_model(llama)
    assert status.st_size > 600_000_000
    assert status.st_blocks * 512 < 16_000_000
    assert len(model.tensors) == 201
    assert model.parts[0].findings == ()
    last = model.tensors[-1]
    assert last.name == "output_norm.weight"
    assert last.offset + last.nbytes == status.st_size


def test_tinyllama_norms_are_exact(llama):
    report = tb.scan(llama)
    (got,) = report.totals().values()
    assert (len(report), got.values) == (45, 45 * 2048)
    assert got.fits("bf16") == got.values
    assert got.fits("fp8_e4m3fn") < got.values
    assert tb.low_bits(llama, bits=16) == dict.fromkeys(report, 2048)
    assert not tb.plan(llama, bits=16).changed


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"like": "bert"}, "tinyllama"),
        ({"precision": "bf61"}, "bf16"),
        ({"precision": "e9m2"}, "no format"),
        ({"type": "Q4_K"}, "allowed are F32, F16, F64, BF16"),
        ({"type": "f32"}, "allowed are"),
        ({"size": 0}, "too few"),
        ({"size": 3}, "too few"),
        ({"size": -4}, "too few"),
        ({"size": 7, "type": "F64"}, "too few"),
        ({"tensors": 0}, "too few"),
        ({"tensors": -1}, "too few"),
        ({"size": 400, "tensors": 101}, "too few"),
    ],
)
def test_refused(path, arguments, words):
    with pytest.raises(UsageError, match=words) as caught:
        tb.synth(path, **arguments)
    assert caught.value.exit_code == 2
    assert list(path.parent.iterdir()) == []


def test_existing_file_is_refused(path):
    path.write_bytes(b"old")
    with pytest.raises(Refused, match="--force"):
        tb.synth(path, size=1000)
    assert path.read_bytes() == b"old"
    tb.synth(path, size=1000, force=True)
    assert open_model(path).types == {"F32": 2}
