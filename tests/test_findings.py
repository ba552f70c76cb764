"""Findings: what is wrong with a model's weights, where, and how bad."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants

import truebits as tb
from truebits.precision.findings import KINDS, LEVELS, Finding, worst_first

RANDOM = np.random.default_rng(1)
PLAIN = RANDOM.normal(0, 0.02, (64, 256)).astype(np.float32)


def write(path, tensors, keys=()):
    """Write a GGUF of F32 arrays, and of packed blocks where a type is given."""
    writer = GGUFWriter(path, "llama")
    for name, value in tensors.items():
        array, type = value if isinstance(value, tuple) else (value, None)
        writer.add_tensor(name, array, raw_dtype=type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
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
    monkeypatch.setattr("truebits.precision.scan.BATCH_BYTES", 4096)
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
    (finding,) = tb.scan(write(tmp_path / "model.gguf", {"norm.weight": np.ones(256, np.float32) * 1.25})).findings
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
    (unread,) = tb.scan(path).findings
    assert (unread.kind, unread.level, unread.tensors) == ("not_read", "note", ())
    assert "3 Q8_0 tensors not" in unread.message
    assert kinds(tb.scan(path, blocks=True)) == {
        ("nan", "error", ("lost.weight",)),
        ("all_zero", "error", ("zero.weight",)),
        ("requantized", "warning", ("again.weight",)),
    }


def test_worst_first():
    shuffled = [Finding(kind, level, (), "") for level in LEVELS[::-1] for kind in KINDS[::-1]]
    got = worst_first(shuffled)
    assert got == tuple(Finding(kind, level, (), "") for level in LEVELS for kind in KINDS)
