"""check: pass, fail or not verified, for pipelines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGMLQuantizationType, GGUFWriter, quants

import truebits as tb
from models import finish
from truebits.cli.app import app
from truebits.errors import UsageError

RANDOM = np.random.default_rng(1)
PLAIN = RANDOM.normal(0, 0.02, (64, 256)).astype(np.float32)
BFLOATS = (PLAIN.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
Q8_0, Q4_1 = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_1


def write(path, values, type=None):
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("a.weight", values, raw_dtype=type)
    finish(writer)
    return path


@pytest.fixture
def models(tmp_path):
    """One model of each kind, by what is wrong with it."""
    spoiled = PLAIN.copy()
    spoiled[3] = np.nan
    paths = {
        "plain": write(tmp_path / "plain.gguf", PLAIN),
        "bfloats": write(tmp_path / "bfloats.gguf", BFLOATS),
        "nan": write(tmp_path / "nan.gguf", spoiled),
        "zero": write(tmp_path / "zero.gguf", np.zeros_like(PLAIN)),
        "zero_bias": write(tmp_path / "zero_bias.gguf", np.zeros(256, np.float32)),
        "quantized": write(tmp_path / "quantized.gguf", quants.quantize(np.tile(PLAIN, (8, 1)), Q8_0), Q8_0),
        "untold": write(tmp_path / "untold.gguf", quants.quantize(PLAIN, Q4_1), Q4_1),
        "numbers": write(tmp_path / "numbers.gguf", np.arange(64)),
        "unread": write(tmp_path / "unread.gguf", np.zeros((64, 66), np.uint8), GGMLQuantizationType.IQ2_XXS),
    }
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(paths["plain"].read_bytes()[:-9])
    return paths | {"cut": cut}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("plain", {}, "passed"),
        ("bfloats", {}, "passed"),
        ("nan", {}, "failed"),
        ("nan", {"fail_on": ["inf"]}, "passed"),
        ("zero", {}, "failed"),
        ("zero_bias", {}, "passed"),
        ("quantized", {}, "passed"),
        ("unread", {}, "not verified"),
        ("unread", {"fail_on": ["not_read"]}, "failed"),
        ("cut", {}, "failed"),
        ("bfloats", {"fail_on": ["upcast"]}, "failed"),
        ("bfloats", {"require": "bf16"}, "passed"),
        ("plain", {"require": "bf16"}, "failed"),
        ("plain", {"require": "bf16", "fail_on": ()}, "failed"),
        ("plain", {"require": "e8m23"}, "passed"),
        ("quantized", {"require": "bf16"}, "not verified"),
        ("quantized", {"fail_on": ["requantized"]}, "passed"),
        ("untold", {}, "passed"),
        ("untold", {"fail_on": ["requantized"]}, "not verified"),
        ("numbers", {}, "not verified"),
    ],
)
def test_verdicts(models, name, options, expected):
    assert tb.check(models[name], **options).verdict == expected


def test_what_does_not_fit_is_counted(models):
    (finding,) = tb.check(models["plain"], require="bf16").failed
    outside = int(np.count_nonzero(PLAIN.view(np.uint32) & 0xFFFF))
    assert finding.message == (f"1 of 1 tensor holds values not exact in BF16; a.weight: {outside:,} of 16,384 values")


@pytest.mark.parametrize("options", [{"fail_on": ["nane"]}, {"require": "bf17"}, {"select": "nothing"}])
def test_what_makes_no_sense_is_refused(models, options):
    with pytest.raises(UsageError):
        tb.check(models["plain"], **options)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["plain", "bfloats"], 0),
        (["plain", "nan", "unread"], 1),
        (["plain", "unread"], 7),
        (["cut", "plain"], 1),
        (["missing", "nan", "plain"], 4),
        (["missing"], 4),
    ],
)
def test_the_worst_verdict_is_the_exit_code(models, names, expected):
    paths = [str(models.get(name, "missing.gguf")) for name in names]
    done = CliRunner().invoke(app, ["check", *paths])
    assert getattr(done.exception, "exit_code", 0) == expected
    assert done.output.count("missing.gguf") == names.count("missing")
    verdicts = {"plain": "passed", "bfloats": "passed", "unread": "not verified"}
    lines = [f"{verdicts.get(name, 'failed')}: {models[name]}: " for name in names if name in models]
    got = [line for line in done.stdout.splitlines() if not line.startswith("truebits: ")]  # click 8.1 mixes both
    assert len(got) == len(lines)
    assert all(line.startswith(start) for line, start in zip(got, lines, strict=True)), got


def test_folders_are_the_models_in_them(models, tmp_path):
    broken = tmp_path / "two" / "b.gguf"
    (tmp_path / "one").mkdir()
    broken.parent.mkdir()
    broken.write_bytes(b"nothing")
    models["nan"].rename(tmp_path / "one" / "a.gguf")
    done = CliRunner().invoke(app, ["check", "--fail-on", "nan", str(tmp_path / "one"), str(tmp_path / "t*")])
    assert done.exception.exit_code == 3
    assert f"failed: {tmp_path}/one/a.gguf: nan:" in done.output
    assert f"truebits: {broken}: E_NOT_GGUF" in done.output


def test_json_is_a_document_for_each_model(models):
    done = CliRunner().invoke(
        app, ["check", "--json", "--fail-on", "nan, inf", str(models["nan"]), str(models["zero"])]
    )
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["schema"] == "truebits.check/1"
    assert (first["verdict"], first["fail_on"], first["require"]) == ("failed", ["nan", "inf"], None)
    assert [finding["kind"] for finding in first["failed"]] == ["nan"]
    assert first["coverage"]["tensors_read"] == 1
    assert (second["verdict"], second["findings"][0]["kind"]) == ("passed", "all_zero")
