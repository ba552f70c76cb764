"""What values may have gone through before they were stored."""

import ml_dtypes
import numpy as np
import pytest

from traced_pair import compared
from truebits.errors import MissingExtra
from truebits.lineage import detours
from truebits.lineage.detours import casts, requantizations

VALUES = np.random.default_rng(0).normal(0, 1, (4, 64)).astype(np.float32)


@pytest.fixture
def comparison(tmp_path):
    def make(source=VALUES, type="F32"):
        return compared(tmp_path, (type, source.astype(np.float32).view("<u4")), source)

    return make


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float32, ["FP16", "BF16"]), (np.float16, []), (ml_dtypes.bfloat16, ["FP16"]), (np.float64, ["FP16", "BF16"])],
)
def test_types_between(comparison, dtype, expected):
    with comparison(VALUES.astype(dtype)) as of:
        assert [detour.name for detour in casts(of)] == expected


def test_a_cast_leaves_what_it_is_given(comparison):
    with comparison() as of:
        for detour, dtype in zip(casts(of), (np.float16, ml_dtypes.bfloat16), strict=True):
            before = VALUES.ravel().copy()
            got = detour.apply(before)
            assert (before == VALUES.ravel()).all()
            assert (got == VALUES.ravel().astype(dtype).astype(np.float32)).all()


def test_block_types_of_its_rows(comparison):
    """Rows of 64 hold blocks of 32, none of 256."""
    with comparison() as of:
        found = {detour.name: detour for detour in requantizations(of)}
    assert {"Q8_0", "Q4_0", "Q5_1"} <= set(found)
    assert not {"Q4_K", "Q6_K"} & set(found)
    assert {detour.block for detour in found.values()} == {32}
    values = VALUES.ravel().copy()
    values[3] = np.inf
    got = found["Q8_0"].apply(values)
    assert np.isfinite(got).all()
    assert np.abs(got - np.where(np.isfinite(values), values, 0)).max() < 0.02


def test_without_ggml_its_types_are_left_out(comparison, monkeypatch):
    def missing(format):
        if format.by != "gguf":
            raise MissingExtra("this", "eval")
        return lambda blocks: blocks

    monkeypatch.setattr(detours, "round_trip", lambda format: lambda blocks: missing(format)(blocks))
    with comparison() as of:
        assert "Q8_0" in {detour.name for detour in requantizations(of)}
