"""What speaks against a model's weights, and what does not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGMLQuantizationType, GGUFWriter, quants

import truebits as tb
from models import finish
from truebits.cli.app import app
from truebits.files.tensor import Tensor
from truebits.numbers.spelling import title_of
from truebits.precision.symptoms import is_matrix

RANDOM = np.random.default_rng(1)


PLAIN = RANDOM.normal(0, 0.02, (64, 256)).astype(np.float32)


def write(path, tensors, keys=()):
    """Write a GGUF of F32 arrays, and of packed blocks where a type is given."""
    writer = GGUFWriter(path, "llama")
    for name, value in tensors.items():
        array, type = value if isinstance(value, tuple) else (value, None)
        writer.add_tensor(name, array, raw_dtype=type)
    finish(writer)
    return path


def kinds(report):
    return {(finding.kind, finding.level, finding.tensors) for finding in report.findings}


def with_values(*places):
    values = PLAIN.copy()
    for at, value in places:
        values.flat[at] = value
    return values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (PLAIN, []),
        (with_values((768, np.nan), (800, np.nan)), ["error nan: a.weight: 2 NaN, the first at 768 (row 3)"]),
        (with_values((5, np.inf)), ["error inf: a.weight: 1 Inf, the first at 5 (row 0)"]),
        (np.zeros((64, 256), np.float32), ["error all_zero: a.weight: every value is zero"]),
        (np.full((64, 256), -3.0, np.float32), ["warning constant: a.weight: every value has the same magnitude"]),
        (np.full((64, 256), 0.3, np.float32), ["warning constant: a.weight: every value has the same magnitude"]),
        (with_values(*((at, 0.3) for at in range(PLAIN.size - 1))), []),
        (np.float32(1) + np.arange(1, 2 * PLAIN.size, 2, dtype=np.float32).reshape(64, 256) * np.float32(2**-23), []),
        (np.zeros(256, np.float32), []),
        (np.full(256, 3.0, np.float32), []),
        (np.full(256, np.nan, np.float32), ["error nan: a.weight: 256 NaN, the first at 0"]),
    ],
)
def test_what_is_wrong_with_a_tensor(tmp_path, values, expected):
    report = tb.scan(write(tmp_path / "model.gguf", {"a.weight": values}))
    got = [f"{one.level} {one.kind}: {one.message}" for one in report.findings if one.kind != "upcast"]
    assert got == expected


def test_places_are_found_in_every_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("truebits.precision.batches.BATCH_BYTES", 4096)
    values = with_values((9000, np.nan), (12_000, np.nan), (3, -np.inf), (11_000, np.inf))
    report = tb.scan(write(tmp_path / "model.gguf", {"b.weight": PLAIN, "a.weight": values}))
    assert report["a.weight"].first == {"nan": 9000, "inf": 3}
    assert report["b.weight"].first == {}


def test_values_stored_too_wide_are_counted_by_type(tmp_path):
    bfloats = (PLAIN.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    tensors = {f"blk.{i}.a.weight": bfloats for i in range(10)} | {"other.weight": PLAIN[:8]}
    (finding,) = tb.scan(write(tmp_path / "model.gguf", tensors)).findings
    assert (finding.kind, finding.level) == ("upcast", "warning")
    assert finding.tensors == tuple(f"blk.{i}.a.weight" for i in range(10))
    assert finding.message == "10 of 11 F32 tensors, 98.8 % of the values, hold BF16 values only"


def test_vectors_that_converters_widen_are_a_note(tmp_path):
    halves = PLAIN.astype(np.float16).repeat(10, axis=0)
    tensors = {"matrix.weight": halves, "norm.weight": np.full(256, 1.25, np.float32)}
    (finding,) = tb.scan(write(tmp_path / "model.gguf", tensors)).findings
    assert (finding.kind, finding.level) == ("upcast", "note")


def test_quantized_tensors_are_not_read_or_judged(tmp_path):
    type = GGMLQuantizationType.Q8_0
    lost = quants.quantize(PLAIN, type).reshape(-1, 34)
    lost[7, :2] = 0xFF
    again = quants.quantize(
        quants.dequantize(quants.quantize(PLAIN, GGMLQuantizationType.Q4_0), GGMLQuantizationType.Q4_0), type
    )
    zero = quants.quantize(np.zeros_like(PLAIN), type)
    tensors = {"lost.weight": lost.reshape(64, -1), "again.weight": again, "zero.weight": zero}
    path = write(tmp_path / "model.gguf", {name: (array, type) for name, array in tensors.items()})
    (unread,) = tb.scan(path, blocks=False).findings
    assert (unread.kind, unread.level, unread.tensors) == ("not_read", "note", ())
    assert "3 Q8_0 tensors not" in unread.message
    assert kinds(tb.scan(path, blocks=True)) == {
        ("nan", "error", ("lost.weight",)),
        ("all_zero", "error", ("zero.weight",)),
        ("requantized", "warning", ("again.weight",)),
    }


def codes(type, most):
    """Return codes of a weight matrix, from 0, in a storage type, and no scale."""
    return np.clip(np.rint(PLAIN / PLAIN.std() * most / 6 + most / 2), 0, most).astype(type)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (codes(np.float32, 255), True),
        (codes(np.float32, 15), True),
        (codes(np.float16, 255), True),
        (np.rint(PLAIN * 10), False),  # ternary weights
        (codes(np.float32, 255)[0], False),  # a table
        (codes(np.float32, 255) / 2, False),
        (codes(np.float32, 70_000), False),
        (np.rint(PLAIN * 20_000) * np.float32(2.0**-7), False),
    ],
)
def test_codes_that_pass_for_values(tmp_path, values, expected):
    report = tb.scan(write(tmp_path / "model.gguf", {"a.weight": values}))
    assert ("codes_as_values" in {finding.kind for finding in report.findings}) == expected


@pytest.mark.parametrize("type", ["F32", "BF16 as F32", "F16"])
@pytest.mark.parametrize("size", [256, 16_384])
def test_swapped_bytes(tmp_path, type, size):
    values = {"F32": PLAIN, "BF16 as F32": (PLAIN.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)}
    right = values.get(type, PLAIN.astype(np.float16)).ravel()[:size]
    tensors = {"right.weight": right, "swapped.weight": right.byteswap()}
    report = tb.scan(write(tmp_path / "model.gguf", tensors))
    found = [finding for finding in report.findings if finding.kind == "swapped_bytes"]
    assert [(one.level, one.tensors) for one in found] == [("error", ("swapped.weight",))]


def test_subnormals_are_odd_and_no_constant(tmp_path):
    """Different values, none of them a weight, in whichever order their bytes stand."""
    odd = (RANDOM.integers(0, 1 << 21, 4096, dtype=np.uint32) * 2 + 1).view(np.float32)
    report = tb.scan(write(tmp_path / "model.gguf", {"a.weight": odd}))
    assert report["a.weight"].origin.format == "f32"
    assert kinds(report) == {("swapped_bytes", "warning", ("a.weight",))}


def test_what_lacks_its_scales_is_told_of(tmp_path):
    names = [f"blk.{i}.a.weight" for i in range(5)]
    fp8 = (PLAIN * np.float32(448 / np.abs(PLAIN).max())).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    path = write(tmp_path / "model.gguf", dict.fromkeys(names, fp8) | {"b.weight": PLAIN[:16]})
    (finding,) = tb.scan(path).findings
    assert (finding.kind, finding.tensors) == ("upcast", tuple(names))
    assert finding.message.startswith("5 of 6 F32 tensors, 95.2 % of the values, hold FP8 E4M3FN values only")
    done = CliRunner().invoke(app, ["scan", str(path), "--wide"]).stdout
    assert "5 of 6 F32 tensors, 95.2 % of the values: fp8_e4m3fn; all 81,920 values are exact in FP8 E4M3FN" in done
    assert "1 of 6 F32 tensors, 4.8 % of the values: f32 (b.weight)" in done


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), False),
        ((5,), False),
        ((5, 1), False),
        ((1, 5, 1), False),
        ((5, 2), True),
        ((1, 2, 3), True),
        ((0, 5), False),
    ],
)
def test_what_is_a_matrix(shape, expected):
    assert is_matrix(Tensor("a", "F32", shape, 0, 0, 0)) == expected


@pytest.mark.parametrize(
    ("format", "expected"), [("bf16", "BF16"), ("fp8_e4m3fn", "FP8 E4M3FN"), ("fp16", "FP16"), ("f32", "F32")]
)
def test_title_of(format, expected):
    assert title_of(format) == expected


def test_many_tensors_are_told_of_by_the_first_three(tmp_path):
    tensors = {f"t{i}.weight": with_values((0, np.nan)) for i in range(5)}
    report = tb.scan(write(tmp_path / "model.gguf", tensors))
    (finding,) = [one for one in report.findings if one.kind == "nan"]
    assert finding.tensors == tuple(tensors)
    assert finding.message.count("the first at 0 (row 0)") == 3
    assert finding.message.endswith("; and 2 tensors more")


def test_rows_of_another_format_are_suspected_and_told(tmp_path):
    mixed = PLAIN.copy()
    mixed[16:24] = mixed[16:24].astype(np.float16)
    path = write(tmp_path / "model.gguf", {"a.weight": mixed})
    for rows, words in ((False, "--rows tells which rows"), (True, "8 of 64 rows are exact in FP16, first")):
        (finding,) = [one for one in tb.scan(path, rows=rows).findings if one.kind == "mixed_rows"]
        assert (finding.level, finding.tensors) == ("note", ("a.weight",))
        assert words in finding.message
