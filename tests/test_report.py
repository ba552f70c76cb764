"""What a scan found, tensor by tensor and by groups."""

import json

import numpy as np
import pytest

from models import TENSORS, words_for, write
from truebits.precision.scan import scan
from words import TYPES, profile_of


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "model.gguf", TENSORS)


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


def test_a_report_is_a_mapping(path):
    report = scan(path)
    assert (list(report), len(report)) == (list(TENSORS), len(TENSORS))
    assert report["blk.0.rope"] is report.tensors["blk.0.rope"]
    assert "absent" not in report
    assert report.summary == "model.gguf: 7 unquantized, 0 quantized tensors, 3 findings"


def test_its_document_adds_up(path):
    report = scan(path)
    content = report.content()
    assert [one["name"] for one in content["tensors"]] == list(TENSORS)
    assert content["total"]["tensors"] == len(TENSORS)
    for key in ("values", "bytes_saved"):
        assert content["total"][key] == sum(one[key] for one in content["tensors"])
    for name, count in content["total"]["fits"].items():
        assert count == sum(one["fits"].get(name, 0) for one in content["tensors"])
    assert {type: one["values"] for type, one in content["totals"].items()} == {
        type: sum(one["values"] for one in content["tensors"] if one["type"] == type) for type in TYPES
    }
    assert json.loads(json.dumps(content, allow_nan=False))["groups"][1]["name"] == "blk.*.attn_norm.weight"


def test_a_report_of_nothing(tmp_path):
    content = scan(write(tmp_path / "empty.gguf", {})).content()
    assert (content["tensors"], content["groups"], content["total"]["values"]) == ([], [], 0)
