"""Values of MXFP4 in a checkpoint are told of."""

import gguf
import numpy as np
import pytest

import truebits as tb
from truebits.rewriting.mxfp4 import NOT_REBUILT, once_mxfp4
from upcast_fp8 import folder_of, made

WEIGHTS = np.random.default_rng(0).normal(0, 0.02, (128, 256)).astype(np.float32)
KIND = gguf.GGMLQuantizationType.MXFP4
MXFP4 = gguf.quants.dequantize(gguf.quants.quantize(WEIGHTS, KIND), KIND)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (MXFP4, True),
        (np.stack([MXFP4.T, MXFP4.T]), True),
        (MXFP4 * np.float32(2**-40), True),
        (WEIGHTS, False),
        (made("row", (128, 256)).values, False),
        (np.sign(WEIGHTS), False),
        (MXFP4[:, :-1], False),
        (MXFP4[0], False),
        (np.where(WEIGHTS.flat[0] == WEIGHTS, WEIGHTS, MXFP4), False),
    ],
)
@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_what_was_mxfp4(tmp_path, values, expected, type):
    model = tb.open(folder_of(tmp_path / "in", {"a.weight": values}, type))
    assert list(once_mxfp4(model, model.tensors)) == ["a.weight"] * expected


def test_shrink_says_that_it_is_not_rebuilt(tmp_path):
    name = "model.layers.0.mlp.experts.gate_up_proj"
    found = tb.shrink(folder_of(tmp_path / "in", {name: np.stack([MXFP4.T] * 2) * np.float32(2**-40)}), dry_run=True)
    assert [(one.to, one.why) for one in found.tensors] == [("BF16", NOT_REBUILT)]
