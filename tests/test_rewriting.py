"""The commands that write a model."""

from __future__ import annotations

import json
import os
import stat

from running import run


def test_truncate_where_nothing_changes_says_why_and_writes_nothing(exact, tmp_path):
    out = tmp_path / "out.gguf"
    done = run("truncate", exact, out, "--bits", 16)
    assert done.returncode == 0
    assert "all 65,536 values have their low 16 bits zero: they already are BF16" in done.stdout
    assert not out.exists()


def test_dry_run_equals_the_rewrite(full, tmp_path):
    out = tmp_path / "out.gguf"
    planned = json.loads(run("truncate", full, out, "--bits", 16, "--dry-run", "--json").stdout)
    assert planned["written"] is False
    assert not out.exists()
    done = json.loads(run("truncate", full, out, "--bits", 16, "--json").stdout)
    assert done["written"] is True
    assert planned["changed"] == done["changed"] > 0
    assert planned["tensors"] == done["tensors"]


def test_in_place_and_back(full, tmp_path):
    model, log = tmp_path / "model.gguf", tmp_path / "undo"
    model.write_bytes(full.read_bytes())
    assert run("truncate", model, "--bits", 16, "--in-place", "--undo-file", log).returncode == 0
    assert model.read_bytes() != full.read_bytes()
    assert run("undo", model, "--undo-file", log).returncode == 0
    assert model.read_bytes() == full.read_bytes()


def test_a_written_file_has_the_usual_mode(full, tmp_path):
    out = tmp_path / "out.gguf"
    assert run("truncate", full, out, "--bits", 16).returncode == 0
    before = os.umask(0)
    os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~before
