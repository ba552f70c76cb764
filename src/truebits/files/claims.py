"""What a model says it is, held against what is in it: its label, and the blocks that its metadata promises.

Needs the header only. Both answers are None where there is nothing to hold against the contents.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import TORCH_DTYPES

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
    39: "NVFP4", 40: "Q1_0",
}  # fmt: skip
"""llama.cpp's ``llama_ftype`` (``llama.h``), the value of ``general.file_type``."""

GUESSED = 1024
"""llama.cpp adds it to a file type that no file said."""

IN_A_NAME = re.compile(
    r"(?<![A-Za-z0-9])(I?Q[1-8]_(?:K_(?:XXL|XL|S|M|L)|K|[01]|XXS|XS|NL|S|M)|TQ[12]_0|MXFP4_MOE|MXFP4|NVFP4|BF16|F16|F32)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)

MAIN_TYPES = {
    "IQ2_M": ("IQ2_S", "IQ2_XS"), "IQ3_M": ("IQ3_S",), "IQ3_XS": ("IQ3_S", "IQ3_XXS"), "IQ1_M": ("IQ1_M", "IQ1_S"),
    "MXFP4_MOE": ("MXFP4",), "IQ2_S": ("IQ2_S", "IQ2_XS"),
}  # fmt: skip
"""The types that most of a file is stored in, where its label is not called like them (``llama-quant.cpp``)."""

K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
BETTER = {
    "Q4_0": ("Q4_1", "Q6_K"), "Q4_1": ("Q5_1", "Q6_K"), "Q5_0": ("Q5_1", "Q6_K"), "Q5_1": ("Q6_K",),
    "MXFP4": ("Q8_0",), "NVFP4": ("Q8_0", "BF16"), "TQ1_0": ("Q4_K", "Q6_K"), "TQ2_0": ("Q4_K", "Q6_K"),
}  # fmt: skip
"""What llama-quantize gives, under the same label, to the tensors that it wants to keep better."""

MOST_LISTED = 3
"""Missing blocks that are named."""

LEAST_MAIN, LEAST_FITTING = 0.05, 0.5
"""Of the matrices' bytes: so much in a label's own types, so much in those that go with them."""


class Label(NamedTuple):
    """What a model is labelled as.

    Attributes
    ----------
    name : str
        As llama.cpp calls it: ``Q4_K_M``.
    source : str
        Where that stands: ``general.file_type``, ``the file's name``, ``torch_dtype``.
    contradiction : str or None
        A sentence, where the contents say otherwise.
    """

    name: str
    source: str
    contradiction: str | None


class MissingBlocks(NamedTuple):
    """Blocks that the metadata promises and no tensor belongs to.

    Attributes
    ----------
    number : int
        How many.
    first : str
        ``blk.2``.
    message : str
        A sentence without its full stop.
    """

    number: int
    first: str
    message: str


def label_of(model: Model) -> Label | None:
    """Return what a model is labelled as, and whether its matrices are stored so.

    A label fits if half of the matrices' bytes are in types that llama-quantize gives under it, and a
    twentieth in the one that it is named after: a small model's embedding may well weigh more than the rest.
    """
    said = _labels(model)
    if not said:
        return None
    source, name = next(iter(said.items()))
    different = {other for other in said.values() if not _agree(name, other)}
    contradiction = _contradiction(model, name)
    if contradiction is None and different:
        sources = " and ".join(f"{where} says {label}" for where, label in said.items())
        contradiction = f"its labels differ: {sources}"
    return Label(name, source, contradiction)


def missing_blocks(model: Model) -> MissingBlocks | None:
    """Return the blocks of a GGUF that its metadata promises and that have no tensor: llama.cpp will not load it."""
    architecture = model.architecture
    if model.format != "gguf" or not model.tensors or architecture is None:
        return None
    if model.value("general.type") not in (None, "model", "mmproj"):
        return None
    for key, prefixes in _promises(architecture):
        promised = model.value(key)
        if not isinstance(promised, int) or isinstance(promised, bool) or promised < 1:
            continue
        present = _blocks(model, prefixes)
        missing = [number for number in range(min(promised, len(present) + MOST_LISTED)) if number not in present]
        missing = [number for number in missing if not _is_empty(model, architecture, number)]
        if missing:
            count = promised - sum(1 for number in present if number < promised)
            return MissingBlocks(
                count, f"{prefixes[0]}.{missing[0]}", _absent(model, key, promised, prefixes[0], missing, count)
            )
    return None


def _promises(architecture: str) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (f"{architecture}.block_count", ("blk", "enc.blk")),
        (f"{architecture}.decoder_block_count", ("dec.blk",)),
        ("clip.vision.block_count", ("v.blk",)),
        ("clip.audio.block_count", ("a.blk",)),
    ]


def _blocks(model: Model, prefixes: tuple[str, ...]) -> set[int]:
    """Return the numbers of the blocks that have a tensor."""
    pattern = re.compile(rf"(?:{'|'.join(map(re.escape, prefixes))})\.(\d{{1,9}})\.")
    return {int(match[1]) for tensor in model.tensors if (match := pattern.match(tensor.name))}


def _is_empty(model: Model, architecture: str, number: int) -> bool:
    """Tell whether a block is there to do nothing (Nemotron's have neither heads nor a feed-forward part)."""
    keys = (f"{architecture}.{key}" for key in ("attention.head_count", "feed_forward_length"))
    lengths = [model.parts[0].elements(key) for key in keys]
    return all(number < len(length) and length[number] == 0 for length in lengths)


def _absent(model: Model, key: str, promised: int, prefix: str, missing: list[int], count: int) -> str:
    extra = model.value(f"{key.removesuffix('block_count')}nextn_predict_layers")
    of_them = f" (nextn_predict_layers {extra})" if isinstance(extra, int) and extra > 0 else ""
    names = ", ".join(f"{prefix}.{number}" for number in missing[:MOST_LISTED])
    more = f" and {count - MOST_LISTED:,} more have" if count > MOST_LISTED else " has" if count == 1 else " have"
    word = key.split(".", 1)[1]
    return f"{word} is {promised:,}{of_them}, but {names}{more} no tensor: llama.cpp will not load it"


def _labels(model: Model) -> dict[str, str]:
    """Return every label by where it stands, the most reliable first."""
    said = {}
    if model.format == "gguf":
        number = model.value("general.file_type")
        if isinstance(number, int) and number % GUESSED in FILE_TYPES and number < 2 * GUESSED:
            said["general.file_type"] = FILE_TYPES[number % GUESSED]
        in_name = IN_A_NAME.findall(model.path.name)
        if in_name:
            said["the file's name"] = in_name[-1].upper()
    else:
        config = model.config
        for key in ("dtype", "torch_dtype"):
            dtype = config.get(key)
            if isinstance(dtype, str) and dtype in TORCH_DTYPES and "quantization_config" not in config:
                said[key] = TORCH_DTYPES[dtype]
                break
    return said


def _agree(one: str, other: str) -> bool:
    """Tell whether two labels name the same types: Q4_K_M and Q4_K_XL do."""
    return bool(set(_main_types(one)) & set(_main_types(other)))


def _main_types(label: str) -> tuple[str, ...]:
    if label in MAIN_TYPES:
        return MAIN_TYPES[label]
    return (re.sub(r"(?<=_K)_(XXL|XL|S|M|L)$", "", label),)


def _fitting_types(label: str) -> set[str]:
    """Return the types that llama-quantize gives under a label."""
    main = _main_types(label)
    fitting = {*main, *(better for type in main for better in BETTER.get(type, ()))}
    if main[0] in K_TYPES:
        fitting.update(K_TYPES[K_TYPES.index(main[0]) :])
    if label.startswith("IQ"):
        fitting.update((*K_TYPES, *(f"IQ{bits}_{kind}" for bits in (2, 3, 4) for kind in ("XXS", "XS", "S", "NL"))))
    return fitting


def _contradiction(model: Model, label: str) -> str | None:
    bytes_of: Counter[str] = Counter()
    for tensor in matrices(model):
        bytes_of[tensor.type] += tensor.nbytes
    whole = bytes_of.total()
    if not whole or any(tensor.opaque for tensor in model.tensors):
        return None
    main = sum(bytes_of[type] for type in _main_types(label))
    fitting = sum(bytes_of[type] for type in _fitting_types(label))
    if main >= LEAST_MAIN * whole and fitting >= LEAST_FITTING * whole:
        return None
    type, nbytes = bytes_of.most_common(1)[0]
    return f"labelled {label}, but {100 * nbytes / whole:.0f} % of the matrices' bytes are {type}"


def matrices(model: Model) -> list[Tensor]:
    """Return the tensors that a label speaks of: those of more than one row."""
    return [tensor for tensor in model.tensors if sum(size > 1 for size in tensor.shape) > 1]
