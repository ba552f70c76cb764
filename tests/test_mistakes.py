"""Mistakes that people make with the scales of quantized checkpoints."""

import numpy as np
import pytest

from quantized_files import folder, fp8, positive, stored
from truebits.lineage.layout import strips, whole
from truebits.lineage.matching import Pair
from truebits.lineage.mistakes import suspects
from truebits.quantizers.weights import meaning_of

CODES, SCALE, OTHER = fp8(8, 16), positive(8, 1), positive(8, 1)
NAME = "model.layers.0.mlp.{}.weight"


@pytest.fixture
def meaning(tmp_path):
    tensors = {
        NAME.format("up_proj"): stored("F8_E4M3", CODES),
        NAME.format("up_proj") + "_scale": stored("F32", SCALE),
        NAME.format("gate_proj"): stored("F8_E4M3", fp8(8, 16)),
        NAME.format("gate_proj") + "_scale": stored("F32", OTHER),
        NAME.format("down_proj"): stored("F8_E4M3", fp8(16, 8)),
        NAME.format("down_proj") + "_scale": stored("F32", positive(1)),
        "model.layers.1.mlp.up_proj.weight": stored("F8_E4M3", fp8(8, 16)),
        "model.layers.1.mlp.up_proj.weight_scale": stored("F32", positive(8, 1)),
        "norm": stored("F32", np.ones(16, np.float32)),
    }
    return meaning_of(folder(tmp_path, tensors, {"quant_method": "fp8"}))


def found(of, name, *more):
    by_name = {tensor.name: tensor for tensor in of.model.tensors}
    sources = tuple(by_name[one] for one in (name, *more))
    pair = Pair(sources[0], sources, (), strips([one.shape for one in sources], whole))
    with of.model.map() as files:
        values = {}
        for suspect in suspects(pair, of.quantized, files):
            pieces = [suspect.expected.words(*span) for span in suspect.expected.spans(1)]
            values[suspect.text] = np.concatenate(pieces).view("<f4").tolist()
        return values


def test_each_mistake_is_done_again(meaning):
    codes = CODES.astype(np.float32)
    name = NAME.format("up_proj")
    assert found(meaning, name) == {
        "its scale is left out": codes.ravel().tolist(),
        "its scale is inverted": (codes * (np.float32(1) / SCALE)).ravel().tolist(),
        f"with the scale of {NAME.format('gate_proj')}": (codes * OTHER).ravel().tolist(),
    }


def test_scales_of_another_shape_or_block_are_nobodys(meaning):
    assert set(found(meaning, NAME.format("down_proj"))) == {"its scale is left out", "its scale is inverted"}


def test_of_several_sources_no_neighbours_are_tried(meaning):
    assert len(found(meaning, NAME.format("up_proj"), NAME.format("gate_proj"))) == 2


def test_what_has_no_scale_has_no_mistakes(meaning):
    assert found(meaning, "norm") == {}
    assert found(meaning, NAME.format("up_proj"), "norm") == {}
