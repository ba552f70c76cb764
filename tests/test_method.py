"""What config.json says of how a checkpoint was quantized."""

import json

import numpy as np
import pytest

from quantized_files import folder, stored
from truebits.errors import BadConfig
from truebits.files.model import open_model
from truebits.quantizers.method import LARGEST, Method, method_of


def said(tmp_path, config):
    folder(tmp_path, {"a": stored("F32", np.zeros(1, np.float32))})
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return method_of(open_model(tmp_path))


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
GROUPS = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({}, None),
        ({"quantization_config": GPTQ}, "gptq"),
        ({"compression_config": GROUPS}, "compressed-tensors"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "mlx"),
        ({"text_config": {"quantization_config": GPTQ}}, "gptq"),
        ({"llm_config": {"quantization_config": GPTQ}}, "gptq"),
        ({"vision_config": {"quantization_config": GPTQ}}, None),
        ({"quantization_config": None, "quantization": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": 5}}, None),
        ({"quantization_config": {"quant_method": "x" * 100}}, "x" * 57 + "..."),
        ({"text_config": 5}, None),
    ],
)
def test_the_name_of_the_method(tmp_path, config, name):
    assert said(tmp_path, config).name == name


@pytest.mark.parametrize("config", ["[]", "{", '{"quantization_config": []}', '{"quantization": "int4"}'])
def test_a_config_that_is_none(tmp_path, config):
    with pytest.raises(BadConfig):
        said(tmp_path, config)


def test_no_config_says_nothing(tmp_path):
    model = folder(tmp_path, {"a": stored("F32", np.zeros(1, np.float32))})
    (tmp_path / "config.json").unlink()
    assert method_of(model) == Method()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bits": 4}, {4}),
        ({"num_bits": 8, "bits": 4}, {4, 8}),
        ({"bits": True}, set()),
        ({"bits": "4"}, set()),
        ({"bits": 4.0}, set()),
        ({"bits": LARGEST}, set()),
        ({"bits": -1}, {-1}),
    ],
)
def test_whole_numbers_that_are_said(settings, expected):
    assert Method("x", settings).integers("bits", "num_bits") == expected
    assert Method("x", {}, (settings,)).integers("bits", "num_bits") == expected


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ([128, 64], (128, 64)),
        ([128], None),
        ([128, 0], None),
        ([128, -1], None),
        ([128, "64"], None),
        ([128, LARGEST], None),
        ("128", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("key", ["weight_block_size", "block_structure"])
def test_the_block_that_shares_a_scale(key, block, expected):
    assert Method("fp8", {key: block}).block == expected
    assert Method("fp8", {}, ({}, {key: block})).block == expected


def test_groups_that_are_none_are_passed_over(tmp_path):
    groups = {"a": {"weights": {"num_bits": 4}}, "b": {"weights": None}, "c": 5, "d": {}}
    got = said(tmp_path, {"quantization_config": {"config_groups": groups}})
    assert got.groups == ({"num_bits": 4},)
    assert said(tmp_path, {"quantization_config": {"config_groups": []}}).groups == ()


@pytest.mark.parametrize(
    ("file", "said", "expected"),
    [
        ("quantize_config.json", {"bits": 4}, ("gptq", {4})),
        ("quant_config.json", {"bits": 4}, ("awq", {4})),
        ("hf_quant_config.json", {"quantization": {"bits": 8}}, ("modelopt", {8})),
        ("quantize_config.json", {"quant_method": "awq", "bits": 4}, ("awq", {4})),
        ("quantize_config.json", {}, (None, set())),
    ],
)
def test_a_file_of_the_quantizers_own(tmp_path, file, said, expected):
    model = folder(tmp_path, {"a": stored("F32", np.zeros(1, np.float32))})
    (tmp_path / file).write_text(json.dumps(said))
    got = method_of(model)
    assert (got.name, got.integers("bits")) == expected
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "fp8"}}))
    assert method_of(open_model(tmp_path)).name == "fp8"
