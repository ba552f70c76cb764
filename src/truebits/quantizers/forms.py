"""The one table of how formats name what they store of a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from truebits.files.tensor import Tensor
from truebits.files.types import FP8_FORMATS
from truebits.quantizers import bitsandbytes
from truebits.quantizers.grouped import gptq, mlx, packed
from truebits.quantizers.hqq import hqq
from truebits.quantizers.method import Method
from truebits.quantizers.quantized import Peek, Quantized
from truebits.quantizers.small_floats import gpt_oss, packed_fp4, scaled

Build = Callable[[str, Mapping[str, Tensor], Method, Peek], Quantized]


class Form(NamedTuple):
    """How a format names what it stores.

    Attributes
    ----------
    title : str
    methods : tuple of str
        ``quant_method`` in config.json of checkpoints that are stored so.
    ending : str
        Of the name of the tensor that holds the codes.
    weight : str
        Ending of the weight's own name, instead of it.
    types : tuple of str
        Of the codes.
    others : dict of str to tuple of str
        The endings that the other tensors may have instead, by role; one that begins with ``-`` takes the place of the
        name's last part.
    needed : tuple of str
        Roles without which the form is another one.
    build : callable
    """

    title: str
    methods: tuple[str, ...]
    ending: str
    weight: str
    types: tuple[str, ...]
    others: dict[str, tuple[str, ...]]
    needed: tuple[str, ...]
    build: Build


FP8 = tuple(FP8_FORMATS)
FP8_METHODS = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "quark", "mxfp8", "w8a8_fp8", "torchao")

FORMS = (
    Form("MXFP4", ("mxfp4", "quark"), "_blocks", "", ("U8",), {"scale": ("_scales",)}, (), gpt_oss),
    Form(
        "FP8", FP8_METHODS, "", "", FP8,
        {
            "scale": ("_scale_inv", "_scale", "-.scale", "-.scales", "-.scale_weight", "-.qscale_weight"),
            "zero": ("_zero_point",),
        },
        ("scale",), scaled,
    ),
    Form(
        "torchao", ("torchao",), "._weight_qdata", ".weight", (*FP8, "I8"),
        {"scale": ("._weight_scale",), "zero": ("._weight_zero_point",)}, (), scaled,
    ),
    Form(
        "GPTQ or AWQ", ("gptq", "awq"), ".qweight", ".weight", ("I32",),
        {"zero": (".qzeros",), "scale": (".scales",), "g_idx": (".g_idx",)}, (), gptq,
    ),
    Form(
        "compressed-tensors", ("compressed-tensors",), ".weight_packed", ".weight", ("I32",),
        {
            "scale": (".weight_scale",), "shape": (".weight_shape",), "zero": (".weight_zero_point",),
            "g_idx": (".weight_g_idx",),
        },
        (), packed,
    ),
    Form(
        "compressed-tensors", ("compressed-tensors",), ".weight_packed", ".weight", ("U8",),
        {"scale": (".weight_scale",), "divisor": (".weight_global_scale",)}, (), packed_fp4,
    ),
    Form(
        "NVFP4", ("modelopt", "modelopt_fp4", "quark"), ".weight", ".weight", ("U8",),
        {"scale": (".weight_scale",), "global": (".weight_scale_2",)}, ("scale",), packed_fp4,
    ),
    Form(
        "MXFP4", ("fp8",), ".weight", ".weight", ("I8", "U8"), {"scale": (".weight_scale_inv", ".scale")},
        ("scale",), packed_fp4,
    ),
    Form(
        "INT8", ("compressed-tensors", "modelopt", "quark"), ".weight", ".weight", ("I8",),
        {"scale": (".weight_scale",), "zero": (".weight_zero_point",)}, ("scale",), scaled,
    ),
    Form(
        "bitsandbytes", ("bitsandbytes",), "", "", ("U8",),
        {
            "scale": (".absmax",), "map": (".quant_map",),
            "state": (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"),
            "nested_scale": (".nested_absmax",), "nested_map": (".nested_quant_map",),
        },
        ("scale",), bitsandbytes.four_bit,
    ),
    Form(
        "bitsandbytes", ("bitsandbytes",), ".weight", ".weight", ("I8",),
        {"scale": (".SCB",), "layout": (".weight_format",)}, ("scale",), bitsandbytes.int8,
    ),
    Form(
        "MLX", ("mlx",), ".weight", ".weight", ("U32",),
        {"scale": (".scales",), "offset": (".biases",)}, ("scale",), mlx,
    ),
    Form(
        "HQQ", ("hqq",), ".W_q", ".weight", ("U8", "I32", "F32", "F16", "BF16"),
        {
            "scale": (".scale",), "zero": (".zero",), "shape": (".shape",), "packing": (".packing",),
            "axis": (".axis",), "group": (".group_size",), "bits": (".nbits",), "quant_scale": (".quant_scale",),
            "quant_zero": (".quant_zero",), "as_float": (".view_as_float",), "unpacked": (".unpack_view_dtype",),
            "dtype": (".compute_dtype",), "offload": (".offload_meta",), "encoded": (".encoded_state_dict",),
            "config": (".stores_quant_config",), "channel_wise": (".channel_wise",), "optimize": (".optimize",),
            "round_zero": (".round_zero",),
        },
        ("scale", "shape"), hqq,
    ),
)  # fmt: skip
"""Tried in this order."""
