"""The weights of quantized checkpoints: values held to the definition of each format, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from quantized_files import GOLDEN, RANDOM, folder, fp8, golden, positive, rounded, same_bits, stored, values_of
from safetensors_bytes import Tensors, safetensors
from truebits.comparing.diff import diff
from truebits.comparing.fingerprint import fingerprint
from truebits.comparing.verify import verify
from truebits.errors import BadConfig, ModelFileError
from truebits.files.model import Model, open_model
from truebits.files.types import FLOAT_BYTES
from truebits.precision.coverage import Coverage
from truebits.precision.profile import PrecisionProfile
from truebits.precision.report import Report
from truebits.precision.scan import scan
from truebits.quantizers.weights import meaning_of

WRONG = {
    "scales of another shape": (
        {"a.weight": stored("F8_E4M3", fp8(256, 256)), "a.weight_scale_inv": stored("F32", positive(2, 3))},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "FP8: its scales are 2 x 3, and blocks of 128 x 128 would have 2 x 2",
    ),
    "another method": (
        {"a.weight": stored("F8_E4M3", fp8(8, 8)), "a.weight_scale": stored("F32", positive(1))},
        {"quant_method": "gptq"},
        "FP8: config.json says gptq",
    ),
    "no scale": ({"a.weight": stored("F8_E4M3", fp8(8, 8))}, {"quant_method": "fp8"}, "FP8: its scale is absent"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_not_read(tmp_path, case):
    tensors, settings, expected = WRONG[case]
    of = meaning_of(folder(tmp_path, tensors, settings))
    assert (of.quantized, set(of.not_read.values())) == ({}, {expected})
    assert [one.name for one in of.model.tensors] == list(tensors)


def test_scan_counts_the_values(tmp_path):
    codes, scales = fp8(256, 256), positive(2, 2)
    norm = RANDOM.normal(1, 0.1, 64).astype(ml_dtypes.bfloat16)
    tensors = {
        "m.weight_scale_inv": stored("F32", scales),
        "m.weight": stored("F8_E4M3", codes),
        "norm.weight": stored("BF16", norm),
    }
    model = folder(tmp_path, tensors, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    values = codes.astype(np.float32) * scales.repeat(128, 0).repeat(128, 1)
    report = scan(model)
    assert list(report) == ["m.weight", "norm.weight"]
    got = report["m.weight"]
    expected = PrecisionProfile.merge(profiles_of(tmp_path / "plain", values).values())
    assert (got.stored, got.values, got.bins.tolist(), got.counts.tolist()) == (
        "F8_E4M3 x scale", values.size, expected.bins.tolist(), expected.counts.tolist(),
    )  # fmt: skip
    size = sum(tensor.nbytes for tensor in model.tensors)
    assert report.coverage == Coverage(2, 2, values.size + 64, values.size + 64, size, size)
    assert not report.findings


def profiles_of(path: Path, values: np.ndarray) -> Report:
    path.mkdir()
    return scan(folder(path, {"m.weight": stored("F32", values)}))


def test_scan_finds_nan_of_scales(tmp_path):
    scales = positive(4, 1)
    scales[2] = np.nan
    tensors = {"m.weight": stored("F8_E4M3", fp8(4, 8)), "m.weight_scale": stored("F32", scales)}
    report = scan(folder(tmp_path, tensors))
    assert (report["m.weight"].nan, report["m.weight"].first) == (8, {"nan": 16})
    assert [one.kind for one in report.findings] == ["nan"]


def test_scan_says_what_is_not_read(tmp_path):
    tensors = {"m.weight": stored("F8_E4M3", fp8(8, 8)), "norm": stored("F32", positive(8))}
    coverage = scan(folder(tmp_path, tensors, {"quant_method": "fp8"})).coverage
    assert [(one.type, one.values, one.why) for one in coverage.undecided] == [
        ("F8_E4M3", 64, "FP8: its scale is absent")
    ]


def two(tmp_path, a: tuple[Tensors, dict | None], b: tuple[Tensors, dict | None]) -> tuple[Model, Model]:
    models = []
    for name, (tensors, settings) in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        models.append(folder(tmp_path / name, tensors, settings))
    return models[0], models[1]


COMPARED = (
    "gptq-4-act",
    "awq",
    "bnb-nf4-nested",
    "mlx-3",
    "hqq-3-axis0",
    "ct-int4-group-zero",
    "fp8-blocks",
    "ct-nvfp4",
)


@pytest.mark.parametrize("case", COMPARED)
def test_diff_and_fingerprint_are_of_values_whatever_stores_them(tmp_path, case):
    tensors, config, _, _ = golden(case)
    (tmp_path / "q").mkdir()
    of = meaning_of(folder(tmp_path / "q", tensors, config))
    plain = {name: stored("F32", values_of(of, name)) for name in of.quantized}
    a, b = two(tmp_path, (tensors, config), (plain, None))
    found = diff(a, b)
    assert (found.verdict, found.changed, len(found.tensors)) == ("same values", 0, 1)
    assert fingerprint(a).value == fingerprint(b).value
    assert verify(b, fingerprint(a)).verdict == "same"
    assert diff(a, a).verdict == "same"


@pytest.mark.parametrize(
    ("case", "file", "said"),
    [
        ("gptq-4", "quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False, "sym": True}),
        ("awq", "quant_config.json", {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}),
        (
            "modelopt-nvfp4",
            "hf_quant_config.json",
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}},
        ),
    ],
)
def test_a_quantizer_s_own_file_says_it_where_config_json_does_not(tmp_path, case, file, said):
    tensors, _, expected, type = golden(case)
    (tmp_path / file).write_text(json.dumps(said))
    of = meaning_of(folder(tmp_path, tensors))
    for name, values in expected.items():
        same_bits(rounded(values_of(of, name), type) + 0, values + 0)
    (tmp_path / file).write_text(json.dumps({"quantization": {"quant_method": "another"}}))
    assert not meaning_of(open_model(tmp_path)).quantized
    (tmp_path / file).write_text("[4]")
    with pytest.raises(BadConfig, match=file):
        meaning_of(open_model(tmp_path))


def test_diff_of_other_values(tmp_path):
    tensors, config, expected, _ = golden("gptq-4")
    scales = np.frombuffer(tensors["m.scales"][2], "<f2").copy()
    scales[-1] *= 2
    group = {**tensors, "m.scales": stored("F16", scales, tensors["m.scales"][1])}
    a, b = two(tmp_path, (tensors, config), (group, config))
    found = diff(a, b)
    values = expected["m.weight"]
    assert (found.verdict, found.changed) == ("different", np.count_nonzero(values[-1, -32:]))
    assert fingerprint(a).value != fingerprint(b).value


def test_the_same_bytes_may_mean_other_values(tmp_path):
    tensors, config, expected, _ = golden("gptq-4")
    a, b = two(tmp_path, (tensors, config), (tensors, {**config, "checkpoint_format": "gptq_v2"}))
    found = diff(a, b)
    assert (found.verdict, found.changed) == ("different", expected["m.weight"].size)


def test_what_cannot_be_read_is_not_compared(tmp_path):
    codes = fp8(8, 8)
    plain = {"m.weight": stored("BF16", codes.astype(ml_dtypes.bfloat16))}
    a, b = two(tmp_path, ({"m.weight": stored("F8_E4M3", codes)}, {"quant_method": "fp8"}), (plain, None))
    found = diff(a, b)
    assert (found.verdict, found.tensors[0].problem) == ("not verified", "FP8: its scale is absent")


def test_a_weight_and_its_scale_in_two_files(tmp_path):
    codes, scales = fp8(256, 256), positive(2, 2)
    parts = {"m.weight": stored("F8_E4M3", codes)}, {"m.weight_scale_inv": stored("F32", scales)}
    for number, tensors in enumerate(parts, 1):
        (tmp_path / f"model-{number:05d}-of-00002.safetensors").write_bytes(safetensors(tensors))
    model = open_model(tmp_path)
    values = codes.astype(np.float32) * scales.repeat(128, 0).repeat(128, 1)
    same_bits(values_of(meaning_of(model), "m.weight"), values)
    (tmp_path / "plain").mkdir()
    plain = folder(tmp_path / "plain", {"m.weight": stored("F32", values)})
    assert diff(model, plain).verdict == "same values"
    assert fingerprint(model).value == fingerprint(plain).value


OTHER_TYPES = {"I64": 8, "F32": 4, "C64": 8, "BF16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E8M0": 1}


def damaged(tensors: Tensors):
    """Yield what a hostile file might have instead."""
    for name, (type, shape, raw) in tensors.items():
        yield f"without {name}", {other: of for other, of in tensors.items() if other != name}
        item = max(1, len(raw) // max(1, int(np.prod(shape))))
        for short in ((), (1,), (0,), (1, 1), (0, 4), (2, 3, 5), (*shape, 1), shape[::-1], shape[:-1]):
            count = int(np.prod(short))
            yield f"{name} as {short}", {**tensors, name: (type, short, (raw * 9 + bytes(999))[: count * item])}
        for other, size in (
            ("I64", 8),
            ("F32", 4),
            ("BF16", 2),
            ("U8", 1),
            ("BOOL", 1),
            ("F8_E4M3", 1),
            ("F8_E8M0", 1),
        ):
            count = len(raw) // size
            yield f"{name} in {other}", {**tensors, name: (other, (count,), raw[: count * size])}
        yield f"{name} of noise", {**tensors, name: (type, shape, RANDOM.bytes(len(raw)))}
        yield f"{name} of ones", {**tensors, name: (type, shape, b"\xff" * len(raw))}


CONFIGS = (
    {}, {"bits": 5}, {"bits": -1}, {"bits": "4", "group_size": "x"}, {"group_size": 0}, {"group_size": 10**30},
    {"quant_method": "???"}, {"quant_method": 7}, {"checkpoint_format": []}, {"version": {}},
    {"weight_block_size": [0, 0]},
    {"weight_block_size": [1, 10**30]}, {"config_groups": [1]},
    {"config_groups": {"a": {"weights": {"num_bits": 99}}}},
)  # fmt: skip


CASES = sorted(path.stem for path in GOLDEN.glob("*.safetensors"))
QUICK = ("awq", "bnb-int8", "bnb-nf4-nested", "ct-int4-group-zero", "gpt-oss", "gptq-3-act", "hqq-4-axis1", "mlx-5")


@pytest.mark.parametrize("case", [pytest.param(one, marks=[pytest.mark.slow] * (one not in QUICK)) for one in CASES])
def test_no_damage_is_more_than_an_error(tmp_path, case):
    """Read, or not read and said so; never a crash, and nothing left out of what is meant."""
    tensors, config, _, _ = golden(case)
    files = [(name, changed, config) for name, changed in damaged(tensors)]
    files += [(str(changed), tensors, config | changed) for changed in CONFIGS]
    for name, changed, settings in files:
        try:
            of = meaning_of(folder(tmp_path, changed, settings))
        except ModelFileError:
            continue
        for one, quantized in of.quantized.items():
            assert values_of(of, one).size == quantized.tensor.values, name
        left = {tensor.name for tensor in of.model.tensors}
        words = {tensor.name for tensor in of.model.tensors if tensor.type in (*FLOAT_BYTES, "I64", "U64", "BOOL")}
        assert left <= of.quantized.keys() | of.not_read.keys() | words, name


@pytest.mark.parametrize(
    "text", ['{"quantization_config": 7}', "[]", "{" * 3, '{"a":' * 10_000, '{"quantization_config": []}']
)
def test_a_config_that_is_none(tmp_path, text):
    tensors, *_ = golden("gptq-4")
    folder(tmp_path, tensors)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadConfig):
        meaning_of(open_model(tmp_path))
