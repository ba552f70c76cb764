"""Model -> what its tensors mean: the weights of a checkpoint that is quantized itself, whatever they are stored as.

Names tell which tensors belong together, shapes how, and ``config.json`` has to agree; where it does not, or where
something is absent, the tensors are not read, and the reason is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from truebits.errors import shortened
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES, FP8_FORMATS
from truebits.quantizers.method import Method, method_of
from truebits.quantizers.quantized import NotRead, Quantized
from truebits.quantizers.small_floats import gpt_oss, packed_fp4, plain, scaled

WHOLE_NUMBERS = ("I64", "U64", "BOOL")
"""Types that no quantizer packs codes into: positions, counters, masks."""

PLAIN = (*FP8_FORMATS, "F4", "F8_E8M0")
"""Types that are values by themselves, where they have no scale."""

Build = Callable[[str, Mapping[str, Tensor], Method], Quantized]


class Form(NamedTuple):
    """How a format names what it stores.

    Attributes
    ----------
    title : str
    methods : tuple of str
        ``quant_method`` in config.json of checkpoints that are stored so.
    ending : str
        Of the name of the tensor that holds the codes, instead of which the weight is called `weight`.
    weight : str
        Ending of the weight's own name.
    types : tuple of str
        Of the codes.
    others : dict of str to tuple of str
        The endings that the other tensors may have, by role.
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


def _settings(method: Method) -> dict[str, Any]:
    groups = method.integers("group_size")
    return {"block": method.block, "group": groups.pop() if len(groups) == 1 else None}


def _scaled(name: str, sources: Mapping[str, Tensor], method: Method) -> Quantized:
    return scaled(name, sources, _settings(method))


def _fp4(name: str, sources: Mapping[str, Tensor], method: Method) -> Quantized:
    return packed_fp4(name, sources, {})


def _gpt_oss(name: str, sources: Mapping[str, Tensor], method: Method) -> Quantized:
    return gpt_oss(name, sources, {})


SCALED = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "quark", "mxfp8", "fp_quant", "w8a8_fp8")

FORMS = (
    Form("MXFP4", ("mxfp4", "quark"), "_blocks", "", ("U8",), {"scale": ("_scales",)}, (), _gpt_oss),
    Form(
        "FP8", SCALED, "", "", tuple(FP8_FORMATS),
        {"scale": ("_scale_inv", "_scale", "-.scale", "-.scales", "-.scale_weight", "-.qscale_weight")},
        ("scale",), _scaled,
    ),
    Form(
        "NVFP4", ("modelopt", "modelopt_fp4", "quark"), ".weight", ".weight", ("U8",),
        {"scale": (".weight_scale",), "global": (".weight_scale_2",)}, ("scale",), _fp4,
    ),
    Form(
        "packed FP4", ("compressed-tensors",), ".weight_packed", ".weight", ("U8",),
        {"scale": (".weight_scale",), "divisor": (".weight_global_scale",)}, (), _fp4,
    ),
    Form(
        "INT8", ("compressed-tensors", "modelopt", "quark"), ".weight", ".weight", ("I8",),
        {"scale": (".weight_scale",), "zero": (".weight_zero_point",)}, ("scale",), _scaled,
    ),
)  # fmt: skip
"""Tried in this order. An ending of another tensor that begins with ``-`` takes the place of the name's last part."""


@dataclass(frozen=True)
class Meaning:
    """What the tensors of a model mean.

    Attributes
    ----------
    model : Model
        The same files, and as its tensors those that are meant, in the order of the first of each that is stored:
        plain ones as they are, quantized ones as `Quantized.tensor`.
    quantized : dict of str to Quantized
        By the name of the tensor that is meant.
    not_read : dict of str to str
        Why a tensor that belongs to a quantized one cannot be read as such, by its own name; it is among the model's
        tensors as it stands.
    """

    model: Model
    quantized: dict[str, Quantized] = field(repr=False, default_factory=dict)
    not_read: dict[str, str] = field(repr=False, default_factory=dict)


def meaning(model: Model) -> Meaning:
    """Find the weights of a quantized checkpoint; reads headers and ``config.json`` only.

    Raises
    ------
    BadConfig, LimitExceeded, OSError
        Of ``config.json``.
    """
    if model.format != "safetensors":
        return Meaning(model)
    method = method_of(model)
    names = {tensor.name: tensor for tensor in model.tensors}
    quantized: dict[str, Quantized] = {}
    meant_by: dict[str, str] = {}
    not_read: dict[str, str] = {}
    for tensor in model.tensors:
        for form in FORMS:
            sources = _sources(form, tensor, names)
            if sources is None:
                continue
            try:
                found = _read(form, sources, method, names)
            except NotRead as reason:
                not_read |= {one.name: f"{form.title}: {reason}" for one in sources.values() if _is_code(one)}
                break
            quantized[found.tensor.name] = found
            meant_by |= {one.name: found.tensor.name for one in sources.values()}
            break
    for tensor in model.tensors:
        if tensor.name not in meant_by and tensor.name not in not_read and _is_code(tensor):
            if tensor.type not in PLAIN:
                not_read |= {tensor.name: f"{method.name}: not understood"} if method.name else {}
            elif method.name in SCALED and tensor.type in FP8_FORMATS:
                not_read[tensor.name] = "FP8: its scale is absent"
            else:
                quantized[tensor.name] = plain(tensor)
    tensors = dict.fromkeys(
        quantized[meant_by[one.name]].tensor if one.name in meant_by else one for one in model.tensors
    )
    return Meaning(replace(model, tensors=tuple(tensors)), quantized, not_read)


def _is_code(tensor: Tensor) -> bool:
    """Tell whether a tensor has no values of its own that are read elsewhere."""
    return tensor.type not in FLOAT_BYTES and tensor.type not in WHOLE_NUMBERS


def _sources(form: Form, tensor: Tensor, names: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Find the tensors that belong to one with codes; None if it does not look like the form."""
    if tensor.type not in form.types or not tensor.name.endswith(form.ending):
        return None
    base = tensor.name.removesuffix(form.ending)
    sources = {"weight": tensor}
    for role, endings in form.others.items():
        for ending in endings:
            name = base.rpartition(".")[0] + ending[1:] if ending.startswith("-") else base + ending
            if name in names:
                sources.setdefault(role, names[name])
    return sources if all(role in sources for role in form.needed) else None


def _read(form: Form, sources: Mapping[str, Tensor], method: Method, names: Mapping[str, Tensor]) -> Quantized:
    if method.name is not None and method.name not in form.methods:
        raise NotRead(f"config.json says {method.name}")
    name = sources["weight"].name.removesuffix(form.ending) + form.weight
    if names.get(name, sources["weight"]) is not sources["weight"]:
        raise NotRead(f"there is a tensor {shortened(name)}, too")
    return form.build(name, sources, method)
