"""Counts of the values that a quantized checkpoint's tensors stand for."""

import numpy as np
import pytest

from quantized_files import folder, fp8, positive, stored, values_of
from truebits.precision.meant import meant_profiles
from truebits.quantizers.quantized import Quantized
from truebits.quantizers.weights import meaning_of
from words import profile_of


@pytest.fixture
def meaning(tmp_path):
    scale = positive(2, 3)
    scale[1, 2] = np.nan
    tensors = {
        "a.weight": stored("F8_E4M3", fp8(200, 300)),
        "a.weight_scale_inv": stored("F32", scale),
        "b.weight": stored("F8_E4M3", fp8(16, 32)),
        "b.weight_scale_inv": stored("F32", np.float32([[np.inf]])),
    }
    return meaning_of(folder(tmp_path, tensors, {"quant_method": "fp8", "weight_block_size": [128, 128]}))


@pytest.mark.parametrize("piece", [1, 1_000, 1 << 19])
@pytest.mark.parametrize("threads", [1, 3])
def test_counts_are_those_of_the_values(meaning, monkeypatch, piece, threads):
    spans = Quantized.spans
    monkeypatch.setattr(Quantized, "spans", lambda one, size=piece: spans(one, size))
    steps = []
    quantized = [meaning.quantized[name] for name in ("b.weight", "a.weight")]
    got = meant_profiles(meaning.model, quantized, threads, lambda *step: steps.append(step))
    assert list(got) == ["b.weight", "a.weight"]
    for name, profile in got.items():
        values = values_of(meaning, name).ravel()
        assert profile == profile_of(values.view(np.uint32), "F32")
        expected = {}
        for kind, mask in (("nan", np.isnan(values)), ("inf", np.isinf(values))):
            expected |= {kind: int(mask.argmax())} if mask.any() else {}
        assert profile.first == expected
        assert not profile.is_plain
    total = sum(one.tensor.nbytes for one in quantized)
    assert [done for done, _ in steps] == [quantized[0].tensor.nbytes, total]
    assert {all for _, all in steps} == {total}


def test_nothing(meaning):
    assert meant_profiles(meaning.model, []) == {}
