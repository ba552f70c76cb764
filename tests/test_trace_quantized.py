"""GGUFs of checkpoints that are quantized themselves: what converters make of them, and the mistakes of others."""

from __future__ import annotations

import json
from struct import pack

import gguf
import ml_dtypes
import numpy as np
import pytest

from converter import write_gguf
from models import finish
from truebits.lineage.rank import rank
from truebits.lineage.trace import trace
from truebits.lineage.ways import Verdict

BLOCK = 128
LAYERS = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
GATE, UP = "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"


def write_folder(folder, tensors, **config):
    """Write a checkpoint: name -> (dtype, shape, bytes)."""
    folder.mkdir()
    table, at = {}, 0
    for name, (dtype, shape, raw) in tensors.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    head = json.dumps(table).encode()
    data = b"".join(raw for *_, raw in tensors.values())
    (folder / "model.safetensors").write_bytes(pack("<Q", len(head)) + head + data)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def bf16(values):
    return values.astype(ml_dtypes.bfloat16)


class Fp8:
    """An FP8 checkpoint with a scale per block of 128 x 128, or per tensor, and what its codes mean."""

    def __init__(self, tmp_path, per_block=True):
        random = np.random.default_rng(4)
        norm = bf16(1 + 0.1 * random.standard_normal(256))
        stored = {"model.norm.weight": ("BF16", [256], norm.tobytes())}
        self.codes, self.scales = {}, {}
        for name, target in LAYERS.items():
            values = random.standard_normal((256, 256)).astype(np.float32) * 0.02
            blocks = values.reshape(2, BLOCK, 2, BLOCK)
            axes = (1, 3) if per_block else None
            scale = (np.abs(blocks).max(axis=axes, keepdims=True) / 448).astype(np.float32)
            codes = (blocks / scale).astype(ml_dtypes.float8_e4m3fn)
            self.codes[target] = codes.astype(np.float32)
            self.scales[target] = scale
            key = f"model.layers.0.mlp.{name}.weight"
            end, shape = ("_scale_inv", [2, 2]) if per_block else ("_scale", [])
            stored[key] = ("F8_E4M3", [256, 256], codes.tobytes())
            stored[key + end] = ("F32", shape, scale.tobytes())
        config = {"quant_method": "fp8"} | ({"weight_block_size": [BLOCK, BLOCK]} if per_block else {})
        self.folder = write_folder(tmp_path / "fp8", stored, quantization_config=config)
        self.norm = norm.astype(np.float32)

    def converted(self, scales=None):
        """Do what a converter does; the scales may be those of somebody else."""
        scales = scales or self.scales
        made = {f"blk.0.{name}.weight": (codes * scales[name]).reshape(256, 256) for name, codes in self.codes.items()}
        return made | {"output_norm.weight": self.norm}


def words(values):
    return bf16(values).view(np.uint16)


def traced(tmp_path, source, tensors, type="BF16"):
    with_words = {name: words(one) if one.ndim > 1 and type == "BF16" else one for name, one in tensors.items()}
    return trace(write_gguf(tmp_path / "model.gguf", "llama", with_words, type, block_count=1), source)


def of(found, name):
    return next(tensor for tensor in found.tensors if tensor.name == name)


@pytest.mark.parametrize("per_block", [True, False])
@pytest.mark.parametrize("type", ["BF16", "F16", "F32", "Q8_0"])
def test_fp8_with_scales(tmp_path, per_block, type):
    source = Fp8(tmp_path, per_block)
    found = traced(tmp_path, source.folder, source.converted(), type)
    assert found.is_verified, [(one.name, str(one.verdict), one.detail) for one in found.tensors]
    assert found.coverage.tensors == 4
    expected = {"BF16": Verdict.ROUNDED, "F16": Verdict.ROUNDED, "F32": Verdict.IDENTICAL, "Q8_0": Verdict.SAME_BLOCKS}
    assert of(found, GATE).verdict is expected[type]


def test_ranked_by_what_the_codes_mean(tmp_path):
    """A GGUF with its scales left out is far from a source whose codes alone it holds."""
    source = Fp8(tmp_path)
    made = {"right": source.converted(), "wrong": source.converted(left_out(source))}
    paths = [write_gguf(tmp_path / f"{name}.gguf", "llama", of, "F16", block_count=1) for name, of in made.items()]
    right, wrong = rank(paths, source.folder).models
    assert (right.path, right.coverage.is_complete) == (str(paths[0]), True)
    assert right.error < 1e-3
    assert wrong.error > 1


def left_out(source):
    return {name: np.ones_like(scale) for name, scale in source.scales.items()}


def inverted(source):
    return {name: 1 / scale for name, scale in source.scales.items()}


def neighbours(source):
    return source.scales | {"ffn_up": source.scales["ffn_gate"]}


@pytest.mark.parametrize("per_block", [True, False])
@pytest.mark.parametrize(
    ("mistake", "name", "expected"),
    [
        (left_out, GATE, "its scale is left out"),
        (inverted, GATE, "its scale is inverted"),
        (neighbours, UP, "with the scale of model.layers.0.mlp.gate_proj.weight"),
    ],
)
@pytest.mark.parametrize("type", ["BF16", "Q8_0"])
def test_mistakes_with_scales_are_named(tmp_path, per_block, mistake, name, expected, type):
    source = Fp8(tmp_path, per_block)
    found = traced(tmp_path, source.folder, source.converted(mistake(source)), type)
    assert not found.is_faithful
    assert (of(found, name).verdict, of(found, name).detail) == (Verdict.ALTERED, expected)


def test_one_wrong_scale_one_flipped_bit_and_one_swapped_tensor(tmp_path):
    source = Fp8(tmp_path)
    wrong = {name: scale.copy() for name, scale in source.scales.items()}
    wrong["ffn_up"][1, 0, 0, 0] *= 2
    found = traced(tmp_path, source.folder, source.converted(wrong))
    assert {one.name for one in found.tensors if one.verdict.is_fault} == {UP}
    assert of(found, UP).first.at == BLOCK * 256
    made = source.converted()
    made[UP] = bf16(made[UP])
    made[UP].view(np.uint16)[3, 5] ^= 1
    found = traced(tmp_path, source.folder, made)
    assert (of(found, UP).differing, of(found, UP).first.at) == (1, 3 * 256 + 5)
    made = source.converted()
    made[UP], made[GATE] = made[GATE], made[UP]
    found = traced(tmp_path, source.folder, made)
    assert {one.name for one in found.tensors if one.verdict.is_fault} == {UP, GATE}


def test_nan_and_inf_that_were_born(tmp_path):
    source = Fp8(tmp_path)
    made = source.converted()
    made[GATE][7, 9] = np.nan
    made[GATE][8, :] = np.inf
    found = traced(tmp_path, source.folder, made)
    assert of(found, GATE).detail == f"257 NaN or Inf that the source has not, the first at {7 * 256 + 9:,}"


def test_bytes_that_were_not_swapped(tmp_path):
    source = Fp8(tmp_path)
    made = source.converted()
    swapped = words(made[UP]).byteswap()
    path = write_gguf(
        tmp_path / "model.gguf",
        "llama",
        {name: swapped if name == UP else words(one) if one.ndim > 1 else one for name, one in made.items()},
        "BF16",
        block_count=1,
    )
    found = trace(path, source.folder)
    assert (of(found, UP).verdict, of(found, UP).detail) == (Verdict.ALTERED, "its bytes are swapped")


def test_scales_that_do_not_fit_are_not_compared(tmp_path):
    stored = {
        "model.layers.0.mlp.up_proj.weight": ("F8_E4M3", [256, 256], bytes(256 * 256)),
        "model.layers.0.mlp.up_proj.weight_scale_inv": ("F32", [3, 5], bytes(60)),
        "model.norm.weight": ("BF16", [256], bytes(512)),
    }
    config = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    folder = write_folder(tmp_path / "fp8", stored, quantization_config=config)
    made = {UP: np.zeros((256, 256), np.float32), "output_norm.weight": np.zeros(256, np.float32)}
    found = traced(tmp_path, folder, made)
    assert of(found, UP).verdict is Verdict.UNCOMPARED
    assert (found.is_faithful, found.is_verified) == (True, False)


EXPERTS, WIDTH, OUT = 2, 64, 96


def gpt_oss(random):
    """Draw experts in MXFP4, as the hub has them: 16 bytes per block, two neighbours in a byte; and as ggml has."""
    codes = random.integers(0, 16, (EXPERTS, OUT, WIDTH // 32, 32)).astype(np.uint8)
    scales = random.integers(118, 126, (EXPERTS, OUT, WIDTH // 32)).astype(np.uint8)
    hub = codes[..., ::2] | codes[..., 1::2] << 4
    halves = codes[..., :16] | codes[..., 16:] << 4
    return hub, scales, np.concatenate([scales[..., None], halves], axis=-1)


@pytest.mark.parametrize("change", [None, "code", "scale", "order"])
def test_gpt_oss_is_repacked_bit_by_bit(tmp_path, change):
    """Gate and up rows alternate on the hub; in a GGUF they are two tensors."""
    hub, scales, blocks = gpt_oss(np.random.default_rng(3))
    start = "model.layers.0.mlp.experts.gate_up_proj"
    norm = bf16(np.ones(WIDTH))
    stored = {
        f"{start}_blocks": ("U8", list(hub.shape), hub.tobytes()),
        f"{start}_scales": ("U8", list(scales.shape), scales.tobytes()),
        "model.norm.weight": ("BF16", [WIDTH], norm.tobytes()),
    }
    folder = write_folder(tmp_path / "hf", stored, quantization_config={"quant_method": "mxfp4"}, hidden_size=WIDTH)
    if change == "code":
        blocks[1, 7, 1, 4] ^= 1
    if change == "scale":
        blocks[1, 7, 1, 0] += 1
    parts = blocks[:, ::2], blocks[:, 1::2]
    parts = parts[::-1] if change == "order" else parts
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "gpt-oss")
    writer.add_uint32("gpt-oss.block_count", 1)
    writer.add_tensor("output_norm.weight", norm.astype(np.float32))
    for name, part in zip(("gate", "up"), parts, strict=True):
        data = np.ascontiguousarray(part).reshape(EXPERTS, OUT // 2, -1)
        writer.add_tensor(f"blk.0.ffn_{name}_exps.weight", data, raw_dtype=gguf.GGMLQuantizationType.MXFP4)
    finish(writer)
    found = trace(tmp_path / "model.gguf", folder)
    faults = {one.name for one in found.tensors if one.verdict.is_fault}
    gate, up = "blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"
    assert faults == {None: set(), "code": {up}, "scale": {up}, "order": {gate, up}}[change]
    if change is None:
        assert found.is_verified
        assert of(found, gate).verdict is Verdict.IDENTICAL
