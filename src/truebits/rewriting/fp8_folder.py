"""Which matrices of a folder become FP8 with scales, and what its ``config.json`` says of them then.

Loaders put codes and scales together by what ``quantization_config`` says, and it says one way for all: what it does
not name as an exception is FP8. Transformers' ``fp8`` has blocks of 128 x 128 (DeepSeek-V3's ``weight_scale_inv``),
``compressed-tensors`` a scale of each row, or of the tensor (``weight_scale``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from truebits.errors import shortened
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES, FP8_FORMATS
from truebits.precision.batches import Progress, stepper
from truebits.quantizers.fp8_upcasts import SIDE, Scaled, scale_shape
from truebits.quantizers.method import Method, method_of
from truebits.quantizers.quantized import Quantized
from truebits.quantizers.small_floats import scaled
from truebits.rewriting.mxfp4 import NOT_REBUILT, once_mxfp4
from truebits.rewriting.narrowest import Choice, Rules, Stray
from truebits.rewriting.outputs import is_folder
from truebits.rewriting.scaled import TYPE, ways_of

WEIGHT = ".weight"
ENDINGS = {"tensor": "_scale", "row": "_scale", "block": "_scale_inv"}
"""Of the scales' names, after the weight's; by what shares a scale, the fewest scales first."""

METHODS = {"tensor": "compressed-tensors", "row": "compressed-tensors", "block": "fp8"}
STRATEGIES = {"tensor": "tensor", "row": "channel"}

NO_LINEAR = re.compile(r"embed|norm|conv|lm_head|(^|\.)(wte|wpe|shared)$")
"""Modules that loaders never make FP8 of, or not all of them."""

HEAD = "lm_head"
"""Linear, and in the file only where it is not tied to the embeddings."""

TOGETHER = (
    (re.compile(r"\.experts\.\d+\..*"), ".experts"),
    (re.compile(r"\.[qkv]_proj$"), ".qkv_proj"),
    (re.compile(r"\.(gate|up)_proj$"), ".gate_up_proj"),
)
"""Modules that vLLM loads as one: all of them are FP8, or none."""

Ways = dict[str, dict[str, Scaled]]
"""By a weight's name: the scales with which it is FP8, by what shares one."""


class Plan(NamedTuple):
    """What becomes of the tensors of a model.

    Attributes
    ----------
    choices : list of Choice
    settings : dict or None
        ``quantization_config`` of the new folder; None where it needs none.
    """

    choices: list[Choice]
    settings: dict[str, Any] | None = None


def with_scales(
    model: Model,
    choices: Sequence[Choice],
    rules: Rules,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Make FP8 with scales of the matrices that hold nothing else, as far as one ``config.json`` can say it.

    Parameters
    ----------
    model : Model
    choices : sequence of Choice
        What `narrowest` found.
    rules : Rules
    threads, progress
        As for `scan`.

    Raises
    ------
    FileChanged, BadConfig, OSError
    """
    names = {tensor.name for tensor in model.tensors}
    linear = [one for one in choices if rules.fp8 and _is_linear(one.tensor, names)]
    strays, ways = _found(model, [one for one in linear if one.to not in FP8_FORMATS], threads, progress)
    whys: dict[str, str] = {}
    exact = _allowed(ways, rules, whys)
    refused = _refused(model) if exact else None
    if refused is not None:
        whys |= dict.fromkeys(exact, refused)
        exact = {}
    others = [one.tensor for one in choices if rules.fp8 and one.tensor.name not in ways and one.tensor.type != "F64"]
    whys |= dict.fromkeys(once_mxfp4(model, others), NOT_REBUILT)
    per = _most_saved(linear, exact)
    whys |= {
        name: f"FP8 with a scale per {next(iter(of))}, most have one per {per}"
        for name, of in exact.items()
        if per not in of
    }
    become = {name: of[per] for name, of in exact.items() if per in of}
    if become:
        become |= {one.tensor.name: _unscaled(one.tensor, per) for one in linear if one.to == TYPE}
        become = _told_apart(_modules(model), become, per, whys)
    if not become.keys() & exact.keys():
        return Plan([_stays(one, strays.get(one.tensor.name), whys) for one in choices])
    settled = [
        one._replace(to=TYPE, scaled=become[one.tensor.name], finer=become[one.tensor.name].finer, stray=None)
        if one.tensor.name in become
        else _stays(_no_codes(one), strays.get(one.tensor.name), whys)
        for one in choices
    ]
    return Plan(settled, _settings(per, _ignored(_modules(model), become)))


def scale_name(choice: Choice) -> str:
    """Return the name of the tensor that holds the scales of one."""
    assert choice.scaled is not None
    return choice.tensor.name + ENDINGS[choice.scaled.per]


def read_back(weight: Tensor, scale: Tensor, plan: Plan) -> Quantized:
    """Return a weight of the new folder as what its ``config.json`` makes of it."""
    assert plan.settings is not None
    method = Method(plan.settings["quant_method"], plan.settings)
    return scaled(weight.name, {"weight": weight, "scale": scale}, method, _no_peek)


def _no_peek(tensor: Tensor) -> bytes:
    raise AssertionError(f"{tensor.label} is read to learn how others are stored")


def _is_linear(tensor: Tensor, names: set[str]) -> bool:
    """Tell whether a tensor may be the matrix of a linear layer, whose scales have a free name."""
    module = tensor.name.removesuffix(WEIGHT)
    is_matrix = len(tensor.shape) == 2 and min(tensor.shape) > 1 and tensor.type in FLOAT_BYTES
    is_free = not {tensor.name + ending for ending in ENDINGS.values()} & names
    return module != tensor.name and is_matrix and is_free and tensor.type != "F64" and not NO_LINEAR.search(module)


def _found(
    model: Model, choices: Sequence[Choice], threads: int | None, progress: Progress | None
) -> tuple[dict[str, Stray], Ways]:
    """Try each matrix; return the values that keep one from being FP8, and the ways in which one is, and smaller."""
    strays: dict[str, Stray] = {}
    ways: Ways = {}
    moved = stepper(progress, sum(one.tensor.nbytes for one in choices))
    for number in sorted({one.tensor.part for one in choices}):
        with model.parts[number].map() as file:
            for one in (one for one in choices if one.tensor.part == number):
                found = ways_of(file, one.tensor, threads) or []
                if isinstance(found, Stray):
                    strays[one.tensor.name] = found
                elif smaller := {way.per: way for way in found if way.nbytes < one.nbytes}:
                    ways[one.tensor.name] = smaller
                moved(one.tensor.nbytes)
    return strays, ways


def _allowed(ways: Ways, rules: Rules, whys: dict[str, str]) -> Ways:
    """Leave out what is finer than the file, unless that is allowed."""
    if rules.rounding:
        return ways
    exact = {name: {per: way for per, way in of.items() if not way.finer} for name, of in ways.items()}
    whys |= {name: "FP8 with a scale, rounded: --allow rounding" for name, of in exact.items() if not of}
    return {name: of for name, of in exact.items() if of}


def _refused(model: Model) -> str | None:
    """Say why there is no ``config.json`` that could say how the weights are stored."""
    if not is_folder(model) or not model.config:
        return "FP8 with a scale: needs a folder with config.json"
    name = method_of(model).name
    return f"FP8 with a scale: config.json says {name} already" if name else None


def _most_saved(linear: Iterable[Choice], ways: Ways) -> str:
    """Return what shares a scale where most is saved."""
    sizes = {one.tensor.name: one.nbytes for one in linear}

    def saved(per: str) -> int:
        return sum(sizes[name] - one[per].nbytes for name, one in ways.items() if per in one)

    return max(ENDINGS, key=saved)


def _unscaled(tensor: Tensor, per: str) -> Scaled:
    """Return the scales of codes that are values by themselves."""
    return Scaled(per, np.ones(scale_shape(tensor, per), np.float32), tensor.values)


def _modules(model: Model) -> list[str]:
    """Return the names of modules that have a matrix."""
    return [one.name.removesuffix(WEIGHT) for one in model.tensors if len(one.shape) > 1 and one.name.endswith(WEIGHT)]


def _ignored(modules: Iterable[str], become: Mapping[str, Scaled]) -> list[str]:
    """Return the modules that are no FP8; the head, too, where it has no matrix of its own."""
    return [one for one in dict.fromkeys((*modules, HEAD)) if one + WEIGHT not in become]


def _told_apart(modules: list[str], become: dict[str, Scaled], per: str, whys: dict[str, str]) -> dict[str, Scaled]:
    """Leave out what would be taken for a module that is no FP8, or is loaded together with one, until none is left."""
    while True:
        ignored = set(_ignored(modules, become))
        fused = {_together(one): one for one in ignored}
        left = {}
        for name in become:
            module = name.removesuffix(WEIGHT)
            alike = _alike(module, ignored) if per == "block" else None
            if alike is not None:
                left[name] = f"FP8 with a scale, but config.json cannot tell it from {shortened(alike)}"
            elif _together(module) in fused:
                left[name] = f"FP8 with a scale, but loaded with {shortened(fused[_together(module)])}"
        if not left:
            return become
        whys |= left
        become = {name: one for name, one in become.items() if name not in left}


def _alike(module: str, ignored: set[str]) -> str | None:
    """Return which exception a module would be taken for: Transformers looks at beginnings and ends of names."""
    ends = (part for at in range(1, len(module)) for part in (module[:at], module[at:]))
    return next((part for part in ends if part in ignored), None)


def _together(module: str) -> str:
    for pattern, whole in TOGETHER:
        module = pattern.sub(whole, module)
    return module


def _no_codes(choice: Choice) -> Choice:
    """Return a choice without FP8 that has no scale, which no such folder has: BF16 holds each code."""
    if choice.to not in FP8_FORMATS:
        return choice
    return choice._replace(to="BF16" if FLOAT_BYTES[choice.tensor.type] > 2 else choice.tensor.type)


def _stays(choice: Choice, stray: Stray | None, whys: Mapping[str, str]) -> Choice:
    """Return a choice with what kept it from being FP8 with a scale."""
    return choice._replace(stray=choice.stray or stray, why=whys.get(choice.tensor.name, ""))


def _settings(per: str, ignored: list[str]) -> dict[str, Any]:
    """Return the ``quantization_config``."""
    if per == "block":
        return {
            "quant_method": METHODS[per],
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [SIDE, SIDE],
            "modules_to_not_convert": ignored,
        }
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, "strategy": STRATEGIES[per]}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": METHODS[per],
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
    }
