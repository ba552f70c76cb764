"""Tensors of a scan in rows: what stands together, what is named, and what is news of them."""

from __future__ import annotations

import numpy as np
import pytest

import truebits as tb
from converter import write_safetensors
from truebits.files.tensor import Tensor
from truebits.report import grouping
from words import rounded


@pytest.fixture
def report(tmp_path):
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    norms = {f"model.layers.{layer}.norm.weight": rounded(values[layer].copy(), "bf16") for layer in range(12)}
    write_safetensors(tmp_path / "m.safetensors", {"embed.weight": values, "lost": np.full(64, np.nan, "f4"), **norms})
    return tb.scan(tmp_path / "m.safetensors")


def test_tensors_of_one_type_and_origin_are_a_row(report):
    table = grouping.groups(report)
    got = {row[4]: (row[0], row[1], int(row[2]), row[5]) for row in table.rows}
    assert got == {
        "f32": ("F32", 1, 4096, "embed"),
        "bf16": ("F32", 12, 768, "12 x norm"),
        "nan": ("F32", 1, 64, "lost"),
    }


def test_what_only_some_tensors_came_from_is_not_said_of_all(report):
    assert grouping.news(report) == ["12 of 14 F32 from bf16"]


@pytest.mark.parametrize(
    ("width", "expected"),
    [(60, "embed, 2 x q, k"), (14, "embed, 2 more"), (6, "embed"), (4, "em…d")],
)
def test_names_take_the_room_that_there_is(width, expected):
    tensors = [
        Tensor(name, "F32", (1,), 0, size, 1) for name, size in (("b.0.q", 4), ("b.1.q", 4), ("embed", 9), ("k", 1))
    ]
    got = grouping.which(tensors, width)
    assert got == expected
    assert len(got) <= width
