"""Every verdict of verify, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import truebits as tb
from hashed_models import VALUES, Stored, every_type, quantized, stored, write
from truebits.comparing.manifest import read_manifest
from truebits.errors import SelectionError
from truebits.report.json import result as manifest_of


@pytest.fixture
def tensors() -> list[Stored]:
    return every_type()


@pytest.fixture
def path(tmp_path, tensors):
    return write(tmp_path / "model.gguf", tensors)


@pytest.fixture
def manifest(path, tmp_path):
    file = tmp_path / "manifest.json"
    file.write_text(manifest_of(tb.fingerprint(path)))
    return file


def verdicts(path: Path, manifest: Path) -> dict[str, str]:
    return {check.name: check.verdict for check in tb.verify(path, manifest).checks}


def test_same(path, manifest, tensors):
    found = tb.verify(path, manifest)
    assert found.is_same
    assert found.counts == {"same": 7, "changed": 0, "requantized": 0, "absent": 0, "extra": 0}
    assert [check.name.encode() for check in found.checks] == [of.name for of in tensors]
    assert tb.verify(path, tb.fingerprint(path)).is_same


def test_same_values_stored_otherwise(path, manifest, tensors):
    tensors[1] = stored("output.weight", VALUES, "F64", (6, 2, 1))
    tensors[2] = stored("embed.weight", VALUES, "F32")
    found = tb.verify(write(path, tensors[::-1]), manifest)
    assert found.is_same
    reasons = {check.name: check.reason for check in found.checks}
    assert reasons["embed.weight"] == "same values, stored as F32"
    assert reasons["norm.weight"] == "same values"
    assert reasons["blk.0.up.weight"] == "same bytes"


def test_every_other_verdict(path, manifest, tensors):
    changed = np.frombuffer(tensors[0].raw, "<f4").copy()
    changed[95] = -changed[95]
    tensors[0] = stored("norm.weight", changed)
    tensors[1] = stored("output.weight", VALUES, "F16", (2, 6))
    tensors[3] = stored("double 2", VALUES)
    tensors[4] = tensors[4]._replace(raw=tensors[4].raw[::-1])
    tensors[5] = quantized("blk.0.up.weight", "Q4_0", 2)
    tensors[6] = stored("blk.1.up.weight", np.ones(128), shape=(32, 4))
    found = tb.verify(write(path, tensors), manifest)
    assert {check.name: (check.verdict, check.was, check.now) for check in found.checks} == {
        "norm.weight": ("changed", "F32", "F32"),
        "output.weight": ("changed", "F16", "F16"),
        "embed.weight": ("same", "BF16", "BF16"),
        "double": ("absent", "F64", None),
        "steps": ("changed", "I32", "I32"),
        "blk.0.up.weight": ("requantized", "Q8_0", "Q4_0"),
        "blk.1.up.weight": ("requantized", "Q4_0", "F32"),
        "double 2": ("extra", None, "F32"),
    }
    reasons = [check.reason for check in found.checks]
    assert reasons[:2] == ["other values", "its shape is 2 x 6, was 6 x 2"]
    assert reasons[4] == "other bytes"
    assert not found.is_same
    assert found.counts == {"same": 1, "changed": 3, "requantized": 2, "absent": 1, "extra": 1}


def test_a_selection_is_of_both_sides(path, manifest, tensors):
    partial = tb.fingerprint(path, "norm")
    assert verdicts(path, partial)["steps"] == "extra"
    assert tb.verify(path, partial, "norm").is_same
    without = write(path, tensors[1:])
    assert [check.verdict for check in tb.verify(without, manifest, "norm").checks] == ["absent"]
    assert tb.verify(without, manifest, None, iter(["norm"])).is_same
    with pytest.raises(SelectionError, match="neither"):
        tb.verify(path, manifest, "no_such")


NAMES = ["a", "é\u202e\U0001f600", 'quote"\\\n\x1b[31m', b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"", b"a\xffb"]


def test_any_name_goes_through_a_manifest(truebits, tmp_path):
    tensors = [stored(name, np.full(1, i)) for i, name in enumerate(NAMES)]
    path = write(tmp_path / "x.gguf", tensors)
    file = tmp_path / "manifest.json"
    file.write_text(manifest_of(tb.fingerprint(path)))
    assert file.read_bytes().isascii()
    assert tb.fingerprint(path).value == read_manifest(file).value
    assert tb.verify(path, file).is_same
    done = truebits("verify", write(path, tensors[:2]), file)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout


def test_verify_by_command(truebits, path, manifest, tensors):
    done = truebits("verify", path, manifest)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Same: all 7 tensors are there and hold what they held.\n"
    tensors[2] = stored("embed.weight", VALUES, "F32")
    done = truebits("verify", write(path, tensors), manifest)
    assert done.returncode == 0
    assert "1 of them: same values, stored as F32, not BF16." in done.stdout
    del tensors[6]
    done = truebits("verify", write(path, tensors), manifest)
    assert done.returncode == 1
    conclusion, table = done.stdout.split("\n\n")
    assert table.splitlines()[1].split()[:3] == ["blk.1.up.weight", "1", "absent"]
    assert conclusion == "Not the same model: of 7 tensors 6 are the same, 1 absent."
    done = truebits("verify", path, manifest, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    checks = document.pop("tensors")
    assert document.pop("coverage")["tensors_read"] == 6
    assert document == {
        "schema": "truebits.verify/1",
        "file": str(path),
        "manifest": str(manifest),
        "same": False,
        "verdict": "different",
        "counts": {"same": 6, "changed": 0, "requantized": 0, "absent": 1, "extra": 0},
    }
    assert checks[2] == {
        "name": "embed.weight",
        "verdict": "same",
        "was": "BF16",
        "now": "F32",
        "reason": "same values, stored as F32",
    }


def test_what_was_requantized_is_not_verified(truebits, path, manifest, tensors):
    tensors[0] = quantized("norm.weight", "Q8_0", 1)._replace(shape=(96,), raw=bytes(3 * 34))
    found = tb.verify(write(path, tensors), manifest)
    assert (found.verdict, found.counts["requantized"]) == ("not verified", 1)
    (missing,) = found.coverage.not_read
    assert (missing.type, missing.tensors, missing.why) == (
        "Q8_0",
        1,
        "stored as Q8_0, was F32: not comparable by hash",
    )
    done = truebits("verify", path, manifest)
    assert done.returncode == 7
    assert "Not verified: of 7 tensors 6 are the same, 1 cannot be compared by hash." in done.stdout


def test_the_manifest_may_be_a_pipe(path):
    truebits = f"{sys.executable} -m truebits"
    command = f"{truebits} verify {path} <({truebits} scan {path} --fingerprint --json)"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Same: all 7 tensors")


@pytest.mark.parametrize(
    ("manifest", "code", "named"),
    [("model.gguf", 3, "E_MANIFEST"), (".", 4, "directory"), ("no\x1bne", 4, "no\\x1bne")],
)
def test_verify_says_in_one_line_what_is_wrong(truebits, manifest, code, named, path, tmp_path):
    done = truebits("verify", path, tmp_path / manifest)
    assert (done.returncode, done.stdout) == (code, "")
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
