"""Write small quantized checkpoints, and the values that the formats' own packages give for them.

    python tools/quantized_checkpoints.py tests/data/checkpoints [CASE ...]

Each case is a safetensors file: the tensors as the package stores them, under ``expected.`` what it dequantizes them
to, and in its metadata ``config`` (that of config.json) and ``made_by``, package and version. Needs torch, safetensors
and the packages themselves; the tests need none of them. AutoGPTQ and AutoAWQ are read from where their archives were
unpacked (``PYTHONPATH``): their wheels ask for versions that do not go together.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT, IN, GROUP = 32, 128, 32
Made = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict, str]
"""Tensors as stored, values by the weight's name, config.json's quantization_config, the package's name."""


def bare(package: str) -> None:
    """Let modules of a package be imported without its ``__init__``, which wants older versions of others."""
    stub = types.ModuleType(package)
    stub.__path__ = [
        str(Path(entry, *package.split("."))) for entry in sys.path if Path(entry, *package.split(".")).is_dir()
    ]
    sys.modules[package] = stub


def weight(dtype=torch.float32, rows: int = OUT, columns: int = IN) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(rows, columns, generator=generator) * 0.02).to(dtype)


def compressed(strategy: str, bits: int, symmetric: bool, kind: str = "int") -> Made:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    group = GROUP if strategy == "group" else None
    args = QuantizationArgs(num_bits=bits, type=kind, symmetric=symmetric, strategy=strategy, group_size=group)
    values = weight(torch.bfloat16)
    shaped = values.reshape(OUT, -1, group or IN)
    scale, zero = calculate_qparams(shaped.amin(-1), shaped.amax(-1), args)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    format = "float-quantized" if kind == "float" else "pack-quantized"
    compressor = BaseCompressor.get_value_from_registry(format)
    state = {"weight": values, "weight_scale": scale.to(torch.bfloat16)}
    if not symmetric:
        state["weight_zero_point"] = zero.to(torch.int8)
    stored = compressor.compress(state, scheme)
    expected = compressor.decompress(dict(stored), scheme)["weight"]
    weights = {"num_bits": bits, "type": kind, "symmetric": symmetric, "strategy": strategy, "group_size": group}
    config = {
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": {"group_0": {"weights": weights}},
    }
    return {f"m.{key}": value for key, value in stored.items()}, {"m.weight": expected}, config, "compressed-tensors"


def compressed_nvfp4() -> Made:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(num_bits=4, type="float", symmetric=True, strategy="tensor_group", group_size=16)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    values = weight(torch.bfloat16)
    whole = (448 * 6 / values.abs().max()).float().reshape(1)
    scale = (values.reshape(OUT, -1, 16).abs().amax(-1).float() / 6 * whole).to(torch.float8_e4m3fn)
    compressor = BaseCompressor.get_value_from_registry("nvfp4-pack-quantized")
    state = {"weight": values, "weight_scale": scale.float(), "weight_global_scale": whole}
    stored = compressor.compress(state, scheme)
    expected = compressor.decompress(dict(stored), scheme)["weight"]
    config = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
    return {f"m.{key}": value for key, value in stored.items()}, {"m.weight": expected}, config, "compressed-tensors"


def modelopt_nvfp4() -> Made:
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    values = weight(torch.bfloat16)
    packed, scale, double = NVFP4QTensor.quantize(values, 16)
    expected = packed.dequantize(torch.float32, scale=scale, double_scale=double, block_sizes={-1: 16})
    stored = {"m.weight": packed._quantized_data, "m.weight_scale": scale, "m.weight_scale_2": double}
    return stored, {"m.weight": expected}, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvidia-modelopt"


def gptq(bits: int, ordered: bool) -> Made:
    """AutoGPTQ's own packing; its forward pass over the identity gives the weights."""
    for package in ("auto_gptq", "auto_gptq.nn_modules", "auto_gptq.nn_modules.qlinear"):
        bare(package)
    from auto_gptq.nn_modules.qlinear.qlinear_cuda import QuantLinear

    layer = QuantLinear(bits, GROUP, IN, OUT, False, kernel_switch_threshold=1)
    linear = torch.nn.Linear(IN, OUT, bias=False)
    linear.weight.data = weight()
    groups = torch.arange(IN) // GROUP
    if not ordered:
        groups = groups[torch.randperm(IN, generator=torch.Generator().manual_seed(3))]
    most = 2**bits - 1
    low = torch.stack([linear.weight.data[:, groups == group].amin(1) for group in range(IN // GROUP)], 1).clamp(max=0)
    high = torch.stack([linear.weight.data[:, groups == group].amax(1) for group in range(IN // GROUP)], 1)
    scale = ((high - low) / most).half().float()
    zero = torch.round(-low / scale).clamp(1, most)
    layer.pack(linear, scale, zero, groups.int())
    layer.scales = layer.scales.half()
    expected = layer(torch.eye(IN, dtype=torch.float16)).T.contiguous()
    stored = {f"m.{name}": getattr(layer, name) for name in ("qweight", "qzeros", "scales", "g_idx")}
    config = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": not ordered}
    return stored, {"m.weight": expected}, config, "auto-gptq"


def awq() -> Made:
    bare("awq")
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    linear = torch.nn.Linear(IN, OUT, bias=False)
    linear.weight.data = weight()
    shaped = linear.weight.data.reshape(OUT, -1, GROUP)
    scale = ((shaped.amax(-1) - shaped.amin(-1)) / 15).half().float()
    zero = torch.round(-shaped.amin(-1) / scale).clamp(0, 15)
    layer = WQLinear_GEMM.from_linear(linear, 4, GROUP, scales=scale.T.contiguous(), zeros=zero.T.contiguous())
    expected = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, GROUP).T.contiguous()
    stored = {f"m.{name}": getattr(layer, name) for name in ("qweight", "qzeros", "scales")}
    config = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    return stored, {"m.weight": expected}, config, "autoawq"


def bitsandbytes(kind: str, nested: bool) -> Made:
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(weight(), blocksize=64, compress_statistics=nested, quant_type=kind)
    expected = functional.dequantize_4bit(packed, state)
    stored = {"m.weight": packed, **{f"m.weight.{key}": value for key, value in state.as_dict(packed=True).items()}}
    return stored, {"m.weight": expected}, {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"


def bitsandbytes_int8() -> Made:
    from bitsandbytes import functional

    codes, scale, _ = functional.int8_vectorwise_quant(weight(torch.float16))
    expected = functional.int8_vectorwise_dequant(codes, scale)
    stored = {"m.weight": codes, "m.SCB": scale, "m.weight_format": torch.tensor(0, dtype=torch.uint8)}
    return stored, {"m.weight": expected}, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"


def mlx(bits: int) -> Made:
    import mlx.core as mx
    import numpy as np

    packed, scale, bias = mx.quantize(mx.array(weight().numpy()), group_size=GROUP, bits=bits)
    expected = torch.from_numpy(np.array(mx.dequantize(packed, scale, bias, group_size=GROUP, bits=bits)))
    arrays = {"weight": packed, "scales": scale, "biases": bias}
    stored = {f"m.{key}": torch.from_numpy(np.array(value)) for key, value in arrays.items()}
    return stored, {"m.weight": expected}, {"bits": bits, "group_size": GROUP}, "mlx"


def hqq(bits: int, axis: int) -> Made:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear, Quantizer

    linear = torch.nn.Linear(IN, OUT, bias=False)
    linear.weight.data = weight()
    config = BaseQuantizeConfig(nbits=bits, group_size=GROUP, axis=axis)
    layer = HQQLinear(linear, config, compute_dtype=torch.float32, device="cpu", del_orig=False)
    layer.encoded_state_dict = True
    stored = {f"m.{key}": value for key, value in layer.state_dict().items()}
    expected = Quantizer.dequantize(layer.W_q, layer.meta)
    return stored, {"m.weight": expected}, {"quant_method": "hqq", "quant_config": {}}, "hqq"


def torchao(kind: str) -> Made:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    model = torch.nn.Sequential(torch.nn.Linear(IN, OUT, bias=False))
    model[0].weight.data = weight()
    quantize_(model, {"fp8": Float8WeightOnlyConfig, "int8": Int8WeightOnlyConfig}[kind]())
    stored, _ = flatten_tensor_state_dict(model.state_dict())
    return stored, {"0.weight": model[0].weight.dequantize()}, {"quant_method": "torchao"}, "torchao"


def gpt_oss() -> Made:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(6)
    blocks = torch.randint(0, 256, (2, 24, 3, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(110, 130, (2, 24, 3), dtype=torch.uint8, generator=generator)
    expected = convert_moe_packed_tensors(blocks, scales).contiguous()
    stored = {"e.gate_up_proj_blocks": blocks, "e.gate_up_proj_scales": scales}
    return stored, {"e.gate_up_proj": expected}, {"quant_method": "mxfp4"}, "transformers"


def fp8(dtype=torch.float8_e4m3fn) -> Made:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes = (weight(rows=256, columns=128) * 2000).to(dtype)
    scales = torch.rand(2, 1, generator=torch.Generator().manual_seed(8)) * 1e-4
    expected = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    return {"m.weight": codes, "m.weight_scale_inv": scales}, {"m.weight": expected}, config, "transformers"


CASES: dict[str, Callable[[], Made]] = {
    **{f"ct-int{bits}-{strategy}{'' if symmetric else '-zero'}":
       lambda b=bits, s=strategy, y=symmetric: compressed(s, b, y)
       for bits in (4, 8, 3) for strategy in ("group", "channel") for symmetric in (True, False)},
    "ct-fp8-channel": lambda: compressed("channel", 8, True, "float"),
    "ct-nvfp4": compressed_nvfp4, "modelopt-nvfp4": modelopt_nvfp4,
    **{f"gptq-{bits}{'' if ordered else '-act'}": lambda b=bits, o=ordered: gptq(b, o)
       for bits in (2, 3, 4, 8) for ordered in (True, False)},
    "awq": awq,
    **{f"bnb-{kind}{'-nested' if nested else ''}": lambda k=kind, n=nested: bitsandbytes(k, n)
       for kind in ("nf4", "fp4") for nested in (False, True)},
    "bnb-int8": bitsandbytes_int8,
    **{f"mlx-{bits}": lambda b=bits: mlx(b) for bits in (2, 3, 4, 5, 6, 8)},
    **{f"hqq-{bits}-axis{axis}": lambda b=bits, a=axis: hqq(b, a) for bits in (8, 4, 3, 2) for axis in (0, 1)},
    **{f"torchao-{kind}": lambda k=kind: torchao(k) for kind in ("fp8", "int8")},
    "gpt-oss": gpt_oss, "fp8-blocks": fp8,
}  # fmt: skip


def main(folder: str, *names: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or CASES:
        stored, expected, config, package = CASES[name]()
        tensors = stored | {f"expected.{key}": value for key, value in expected.items()}
        tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
        version = os.environ.get("VERSION") or importlib.metadata.version(package)
        about = {"config": json.dumps(config), "made_by": f"{package} {version}, torch {torch.__version__}"}
        save_file(tensors, Path(folder) / f"{name}.safetensors", about)
        print(name, about["made_by"])


if __name__ == "__main__":
    main(*sys.argv[1:])
