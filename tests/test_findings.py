"""Findings: what is wrong with a model's weights, where, and how bad."""

from __future__ import annotations

import numpy as np
from gguf import GGUFWriter

import truebits as tb
from models import finish
from truebits.precision.findings import KINDS, LEVELS, Finding, worst_first


def test_worst_first():
    shuffled = [Finding(kind, level, (), "") for level in LEVELS[::-1] for kind in KINDS[::-1]]
    got = worst_first(shuffled)
    assert got == tuple(Finding(kind, level, (), "") for level in LEVELS for kind in KINDS)


def test_what_the_header_promises_is_found_in_a_scan(tmp_path):
    path = tmp_path / "model-Q4_K_M.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_tensor("blk.0.ffn_up.weight", np.ones((4, 256), np.float32))
    finish(writer)
    assert {(found.kind, found.level, found.tensors) for found in tb.scan(path).findings} >= {
        ("missing_block", "error", ()),
        ("label", "warning", ()),
    }
    assert tb.check(path).verdict == "failed"


def test_a_finding_is_told_safely():
    got = Finding("nan", "error", ("\x1b[31m",), "odd").to_dict()
    assert got == {"kind": "nan", "level": "error", "tensors": [r"\x1b[31m"], "message": "odd"}
