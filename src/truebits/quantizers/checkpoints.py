"""Model -> what its tensors mean: the weights of a checkpoint that is quantized itself, whatever they are stored as.

Names tell which tensors belong together, shapes how, and ``config.json`` has to agree; where it does not, or where
something is absent, the tensors are not read, and the reason is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from truebits.errors import shortened
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import BY_NAME, FLOAT_BYTES, FP8_FORMATS, SMALL_FLOATS, WHOLE_NUMBERS
from truebits.quantizers.forms import FORMS, FP8_METHODS, Form
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.method import Method, method_of
from truebits.quantizers.quantized import Peek, Quantized, Unread
from truebits.quantizers.small_floats import plain

PLAIN = tuple(SMALL_FLOATS)
"""Types that are values by themselves, where they have no scale."""

LARGEST_PEEK = 16 << 20
"""Bytes of a tensor that is read whole to learn how others are stored: group indices, shapes, names."""


def meaning(model: Model) -> Meaning:
    """Find the weights of a checkpoint, as safetensors, that may be quantized; reads headers and ``config.json`` only.

    Raises
    ------
    BadConfig, LimitExceeded, OSError
        Of ``config.json``.
    """
    method = method_of(model)
    names = {tensor.name: tensor for tensor in model.tensors}

    def peek(tensor: Tensor) -> bytes:
        if tensor.nbytes > LARGEST_PEEK:
            raise Unread(f"{shortened(tensor.name)} has {tensor.nbytes} bytes, more than it can need")
        with model.parts[tensor.part].map() as file:
            file.expect_all([(tensor.offset, tensor.offset + tensor.nbytes)])
            return file.data[tensor.offset : tensor.offset + tensor.nbytes]

    quantized: dict[str, Quantized] = {}
    meant_by: dict[str, str] = {}
    not_read: dict[str, str] = {}
    for form, sources in _codes(model.tensors, names):
        try:
            found = _read(form, sources, method, names, peek)
        except Unread as reason:
            not_read |= {one.name: f"{form.title}: {reason}" for one in sources.values() if _is_code(one)}
        else:
            quantized[found.tensor.name] = found
            meant_by |= {one.name: found.tensor.name for one in sources.values()}
    for tensor in model.tensors:
        if _is_code(tensor) and tensor.name not in meant_by and tensor.name not in not_read:
            why = _why_not(tensor, method)
            if why is not None:
                not_read[tensor.name] = why
            elif tensor.type in PLAIN:
                quantized[tensor.name] = plain(tensor)
    tensors = dict.fromkeys(
        quantized[meant_by[one.name]].tensor if one.name in meant_by else one for one in model.tensors
    )
    return Meaning(replace(model, tensors=tuple(tensors)), quantized, not_read)


def _codes(tensors: Iterable[Tensor], names: Mapping[str, Tensor]) -> Iterator[tuple[Form, dict[str, Tensor]]]:
    """Yield each quantized tensor: the first form that fits its names, and what is stored of it by role."""
    for tensor in tensors:
        for form in FORMS:
            sources = _sources(form, tensor, names)
            if sources is not None:
                yield form, sources
                break


def _why_not(tensor: Tensor, method: Method) -> str | None:
    """Say why codes that stand alone are not values by themselves; None if they are, or if nothing says otherwise."""
    if tensor.type not in PLAIN:
        return f"{method.name or 'quantized'}: not understood" if method.settings else None
    is_scaled = method.name in FP8_METHODS and tensor.type in FP8_FORMATS
    return "FP8: its scale is absent" if is_scaled else None


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


def _read(
    form: Form, sources: Mapping[str, Tensor], method: Method, names: Mapping[str, Tensor], peek: Peek
) -> Quantized:
    if method.name is not None and method.name not in form.methods:
        raise Unread(f"config.json says {method.name}")
    for one in sources.values():
        if BY_NAME[one.type].bits < 8 or one.type == "C64":
            raise Unread(f"{shortened(one.name)} is {one.type}")
    name = sources["weight"].name.removesuffix(form.ending) + form.weight
    if names.get(name, sources["weight"]) is not sources["weight"]:
        raise Unread(f"there is a tensor {shortened(name)}, too")
    return form.build(name, sources, method, peek)
