"""Index and config of a new folder."""

import json

import pytest

from truebits.rewriting.mended import mend_config, mend_index

WEIGHTS = {"a": "model-1.safetensors", "b": "model-2.safetensors"}


@pytest.mark.parametrize(
    ("index", "places", "expected"),
    [
        ({"metadata": {"total_size": 1, "x": 2}}, {}, {"metadata": {"total_size": 7, "x": 2}}),
        ({"metadata": {"total_size": 1}}, {"c": "model-2.safetensors"}, {"metadata": {"total_size": 7}}),
        ({}, {"c": "model-1.safetensors"}, {}),
        ({"metadata": "total_size"}, {"c": "model-1.safetensors"}, {"metadata": "total_size"}),
    ],
)
def test_the_index_names_new_tensors_and_says_the_size(tmp_path, index, places, expected):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({**index, "weight_map": WEIGHTS}))
    mend_index([tmp_path / name for name in WEIGHTS.values()], 7, places)
    assert json.loads(path.read_text()) == {**expected, "weight_map": {**WEIGHTS, **places}}


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 1}', '{"weight_map": {"a": "other.safetensors"}}'])
def test_an_index_of_another_model_stays_as_it_was(tmp_path, text):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    mend_index([tmp_path / name for name in WEIGHTS.values()], 7, {"c": "model-1.safetensors"})
    assert path.read_text() == text


def test_the_config_keeps_what_it_said(tmp_path):
    mend_config(tmp_path, {"b": [1], "a": float("inf")}, {"quant_method": "fp8"})
    got = json.loads((tmp_path / "config.json").read_text())
    assert list(got.items()) == [("b", [1]), ("a", float("inf")), ("quantization_config", {"quant_method": "fp8"})]
