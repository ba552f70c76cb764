"""A GGUF's tensors and the tensors of the checkpoint that they were converted from, by their names.

gguf-py's maps give the GGUF name of a Hugging Face name. They have one entry for every block of a model:
here a map of one block serves for all, so that a file's block count costs nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from truebits.errors import NotTheSource, UsageError, printable
from truebits.files.gguf import value_bytes
from truebits.files.header import ARRAY, INT32, UINT32, Header
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.precision.converters import Kind, Transform, transforms_of

PREFIXES = (
    ("", ""),
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.", ""),
    ("model.text_model.", "model."),
    ("text_model.", ""),
    ("model.", ""),
    ("", "model."),
)
"""What converters replace at the start of a name before they look it up: multimodal models have one more level."""

SPELLINGS = (
    (r"\.dt_bias$", ".dt_proj.bias"),
    (r"\.dt_bias$", ".dt.bias"),
    (r"\.([A-Za-z]+_norm|q|k)_weight$", r".\1.weight"),
    (r"^(model\.)?(layers\.\d+\.)block_sparse_moe\.experts\.", r"\2feed_forward.experts."),
    (r"^(model\.layers\.\d+\.)feed_forward\.experts\.", r"\1mlp.experts."),
    (r"^backbone(\.layers\.\d+\.)mixer\.experts\.", r"model\1mlp.experts."),
)
"""What they spell otherwise: llama.py, mamba.py, plamo.py, jamba.py, nemotron.py."""

NUMBERED = re.compile(r"\.(experts|norms)\.(\d{1,6})(?=\.)")
UNUSED = re.compile(r".*(\.attention\.(masked_)?bias|\.attn\.(masked_)?bias|\.rotary_emb\.inv_freq)")
"""Buffers that no converter writes: ``ModelBase.prepare_tensors``, and GPT-2's masks."""

FUSED = ".gate_up_proj"
HALVES = "_gate_", "_up_"
"""What GGUF names of a tensor of both hold, in its order."""

PLAUSIBLE = 0.5
"""Of a GGUF's tensors, so many must have a namesake of their shape in the checkpoint."""


@dataclass(frozen=True)
class Pair:
    """A tensor of a GGUF and what it was made of.

    Attributes
    ----------
    tensor : Tensor
        In the GGUF.
    sources : tuple of Tensor
        In the checkpoint: one, or one of each expert in their order; empty if there is none.
    transforms : tuple of Transform
        What converters do to it on the way.
    heads : int or None
        Where heads are permuted: how many there are.
    problem : str or None
        Why the two cannot be compared although they have one name.
    rows_left_out : int
        Rows at the end of the source that converters leave out: tokens that the vocabulary does not have.
    half : int or None
        Which half of each of the source's matrices it is, where that is split.
    """

    tensor: Tensor
    sources: tuple[Tensor, ...]
    transforms: tuple[Transform, ...] = ()
    heads: int | None = None
    problem: str | None = None
    rows_left_out: int = 0
    half: int | None = None

    def has(self, kind: Kind) -> bool:
        return any(row.kind is kind for row in self.transforms)


@dataclass(frozen=True)
class Matching:
    """Which tensor is which.

    Attributes
    ----------
    pairs : tuple of Pair
        All of the GGUF, in its order.
    missing : tuple of (str, Tensor)
        GGUF name and source of tensors that the GGUF should have.
    unmatched : tuple of Tensor
        Of the checkpoint, with names that gguf-py's map does not know, or in blocks that the GGUF leaves out.
    """

    pairs: tuple[Pair, ...]
    missing: tuple[tuple[str, Tensor], ...]
    unmatched: tuple[Tensor, ...]


def match(model: Model, source: Model) -> Matching:
    """Match a GGUF with a checkpoint by their headers; no data is read.

    Raises
    ------
    NotTheSource
        Sizes, layers, names or shapes tell that the GGUF is not of this checkpoint.
    UsageError
        gguf-py does not know the GGUF's architecture.
    """
    facts = Facts(model, source)
    facts.check()
    names = Names(facts.architecture)
    homes: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
    unmatched = []
    known = {tensor.name for tensor in model.tensors}
    for tensor in source.tensors:
        if UNUSED.fullmatch(tensor.name):
            continue
        places = [place for place in names.find_all(tensor.name, known) if not facts.is_beyond(place[0])]
        places = [(name, number) for name, number in places if number not in homes[name]]
        if not places:
            unmatched.append(tensor)
        for name, number in places:
            homes[name][number] = tensor
    pairs = tuple(_pair(tensor, homes, facts) for tensor in model.tensors)
    _check_plausible(pairs)
    missing = [
        (name, next(iter(of.values()))) for name, of in homes.items() if name not in known and not facts.may_lack(name)
    ]
    split = {block_of(pair.tensor.name) for pair in pairs if pair.has(Kind.REARRANGED) and not pair.sources}
    for name, tensor in list(missing):
        if block_of(name) in split:  # what something was split from has a name of its own
            missing.remove((name, tensor))
            unmatched.append(tensor)
    return Matching(pairs, tuple(missing), tuple(unmatched))


class Facts:
    """What two headers say about the model: its architecture, sizes and heads.

    Raises
    ------
    UsageError
        The GGUF does not say its architecture.
    """

    def __init__(self, model: Model, source: Model):
        self.model = model
        self.source = source
        architecture = model.value("general.architecture")
        if not isinstance(architecture, str):
            raise UsageError(f"{printable(str(model.path))} has no general.architecture: its tensors cannot be named")
        self.architecture = architecture
        config = source.config
        self.config: Mapping[str, Any] = (
            {**config, **text} if isinstance(text := config.get("text_config"), dict) else config
        )

    def number(self, key: str) -> int | None:
        """Return one whole number of the GGUF's metadata for its architecture."""
        value = self.model.value(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @cached_property
    def blocks(self) -> int | None:
        return self.number("block_count")

    def check(self) -> None:
        """Raise `NotTheSource` where the checkpoint's ``config.json`` tells of another model."""
        for ours, theirs in (
            ("embedding_length", "hidden_size"),
            ("attention.head_count", "num_attention_heads"),
            ("block_count", "num_hidden_layers"),
        ):
            a, b = self.number(ours), self.config.get(theirs)
            if a is None or not isinstance(b, int):
                continue
            most = b + self._predicted_layers() if ours == "block_count" else b
            if a not in (b, most):
                raise NotTheSource(
                    f"{printable(str(self.source.path))} is not what {printable(str(self.model.path))} was made of: "
                    f"its {theirs} is {b:,}, the GGUF's {ours} is {a:,}"
                )
        layers = {block for tensor in self.source.tensors if (block := block_of(tensor.name)) is not None}
        if self.blocks and layers and "num_hidden_layers" not in self.config and len(layers) != self.blocks:
            raise NotTheSource(
                f"{printable(str(self.source.path))} is not what {printable(str(self.model.path))} was made of: "
                f"it has {len(layers):,} layers, the GGUF has {self.blocks:,}"
            )

    def _predicted_layers(self) -> int:
        """Layers beyond ``num_hidden_layers`` that predict further tokens, which converters may keep."""
        numbers = (self.config.get(key) for key in ("num_nextn_predict_layers", "mtp_num_hidden_layers"))
        return next((number for number in numbers if isinstance(number, int)), 0)

    def is_beyond(self, name: str) -> bool:
        """Tell whether a block is one that the GGUF leaves out."""
        block = block_of(name)
        return block is not None and self.blocks is not None and block >= self.blocks

    def may_lack(self, name: str) -> bool:
        """Tell whether converters leave a tensor out: an output that is the embedding."""
        is_tied = self.config.get("tie_word_embeddings") is True or self.architecture.startswith("gemma")
        return name == "output.weight" and is_tied

    def heads(self, name: str) -> int | None:
        """Return the number of heads of a query or key tensor."""
        block = block_of(name)
        keys = ("attention.head_count_kv", "attention.head_count") if "attn_k." in name else ("attention.head_count",)
        for key in keys:
            count = self._counts.get(key)
            if count is not None and block is not None:
                return count[min(block, len(count) - 1)] or None
        fields = ("num_key_value_heads", "num_attention_heads") if "attn_k." in name else ("num_attention_heads",)
        return next((self.config[field] for field in fields if isinstance(self.config.get(field), int)), None)

    @cached_property
    def _counts(self) -> dict[str, list[int]]:
        """Heads of each block, or of all, by metadata key."""
        found = {}
        for key in ("attention.head_count", "attention.head_count_kv"):
            number = self.number(key)
            numbers = [number] if number is not None else self._numbers(f"{self.architecture}.{key}")
            if numbers:
                found[key] = numbers
        return found

    def _numbers(self, key: str) -> list[int]:
        """Decode an array of 32-bit numbers."""
        part = self.model.parts[0]
        kind, _ = part.header.keys.get(key, (None, 0))
        if kind != ARRAY or not isinstance(part.header, Header):
            return []
        with part.map() as file:
            raw = value_bytes(file.data, part.header, key)
        is_32_bit = int.from_bytes(raw[:4], "little") in (UINT32, INT32)
        return np.frombuffer(raw, "<u4", offset=12).tolist() if is_32_bit else []


def block_of(name: str) -> int | None:
    """Return the first number in a tensor's name, which is its block."""
    return next((int(word) for word in name.split(".") if _is_number(word)), None)


def _is_number(word: str) -> bool:
    return word.isdecimal() and len(word) < 10


class Names:
    """gguf-py's map for one architecture.

    Raises
    ------
    UsageError
        gguf-py does not know the architecture.
    """

    def __init__(self, architecture: str):
        import gguf

        known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        if architecture not in known:
            raise UsageError(f"gguf-py knows no tensor names of the architecture {printable(architecture)}")
        self.map = gguf.get_tensor_name_map(known[architecture], 1)

    def find_all(self, name: str, known: Collection[str]) -> list[tuple[str, int]]:
        """Return the places of a tensor in a GGUF: two where it is split in halves, none if there is no name."""
        found, number = self.find(name, known)
        if found not in known and FUSED in name:
            halves = [self.find(name.replace(FUSED, half), known) for half in (".gate_proj", ".up_proj")]
            if all(half in known for half, _ in halves):
                return [(half, number) for half, number in halves if half]
        return [(found, number)] if found else []

    def find(self, name: str, known: Collection[str]) -> tuple[str | None, int]:
        """Return the GGUF name of a Hugging Face name, and the expert's number; None if there is none.

        Of several readings, one that the GGUF has (`known`) is taken.
        """
        number = 0
        if re.search(r"\.experts\.\w+_proj$", name):  # parameters, not modules
            name += ".weight"
        if numbered := NUMBERED.search(name):
            number = int(numbered[2])
            name = name[: numbered.start()] + f".{numbered[1]}" + name[numbered.end() :]
            name = name.replace(".norms.", ".")
        first = None
        for found in self._readings(name):
            if found in known:
                return found, number
            first = first or found
        return first, number

    def _readings(self, name: str) -> Iterator[str]:
        for start, instead in PREFIXES:
            if not name.startswith(start):
                continue
            plain = instead + name.removeprefix(start)
            spellings = (re.sub(regex, by, plain) for regex, by in SPELLINGS)
            for spelling in dict.fromkeys([plain, *spellings]):
                found = self._mapped(spelling)
                if found is not None:
                    yield found

    def _mapped(self, name: str) -> str | None:
        """Look a name up as if it were of block 0, and give the block back."""
        direct = self.map.get_name(name, try_suffixes=(".weight", ".bias"))
        words = name.split(".")
        at = next((i for i, word in enumerate(words) if _is_number(word)), None)
        if at is None:
            return direct
        of_first = ".".join([*words[:at], "0", *words[at + 1 :]])
        found = self.map.get_name(of_first, try_suffixes=(".weight", ".bias"))
        if found is None:
            return direct
        return re.sub(r"(^|\.)blk\.0\.", rf"\1blk.{int(words[at])}.", found)


def _pair(tensor: Tensor, homes: Mapping[str, Mapping[int, Tensor]], facts: Facts) -> Pair:
    of = homes.get(tensor.name)
    if of is None and tensor.name == "output.weight":  # embeddings that are the output, too
        of = homes.get("token_embd.weight")
    transforms = transforms_of(facts.architecture, tensor.name)
    if of is None:
        return Pair(tensor, (), transforms)
    sources = tuple(of[number] for number in sorted(of))
    is_split = FUSED in sources[0].name and "_gate_up_" not in tensor.name
    half = next(i for i, part in enumerate(HALVES) if part in tensor.name) if is_split else None
    unused = {Kind.STACKED} if len(sources) == 1 else set()
    unused |= set() if is_split else {Kind.SPLIT}
    transforms = tuple(row for row in transforms if row.kind not in unused)
    is_named = all(re.search(r"[qk]_proj\.(weight|bias)$", source.name) for source in sources)
    if not is_named:  # Mistral's own checkpoints have wq and wk, in ggml's order already
        transforms = tuple(row for row in transforms if row.kind is not Kind.PERMUTED)
    pair = Pair(tensor, sources, transforms, rows_left_out=_rows_left_out(tensor, sources), half=half)
    heads = facts.heads(tensor.name) if pair.has(Kind.PERMUTED) else None
    return replace(pair, heads=heads, problem=_problem(pair, heads))


def _rows_left_out(tensor: Tensor, sources: tuple[Tensor, ...]) -> int:
    ours, theirs = tensor.shape[::-1], sources[0].shape
    is_vocabulary = tensor.name in ("token_embd.weight", "output.weight") and len(ours) == len(theirs) == 2
    return max(0, theirs[0] - ours[0]) if is_vocabulary and ours[1] == theirs[1] else 0


def _problem(pair: Pair, heads: int | None) -> str | None:
    """Say what keeps a tensor and its namesake from being compared."""
    ours = tuple(d for d in pair.tensor.shape[::-1] if d != 1)
    shapes = {source.shape for source in pair.sources}
    if len(shapes) > 1:
        return f"its {len(pair.sources)} sources have several shapes"
    shape = shapes.pop()
    theirs = (len(pair.sources), *shape) if pair.has(Kind.STACKED) else shape
    if pair.has(Kind.TRANSPOSED):
        theirs = theirs[::-1]
    if pair.rows_left_out:
        theirs = (theirs[0] - pair.rows_left_out, *theirs[1:])
    if pair.has(Kind.SPLIT) and len(theirs) > 1:
        theirs = (*theirs[:-2], theirs[-2] // 2, theirs[-1])
    theirs = tuple(d for d in theirs if d != 1)
    same = prod(ours) == prod(theirs) if pair.has(Kind.RESHAPED) else ours == theirs
    if not same or (len(shape) != 2 and pair.has(Kind.TRANSPOSED)) or (len(shape) < 2 and pair.has(Kind.SPLIT)):
        return f"its shape is {_shown(ours)}, the source's {_shown(theirs)}"
    if pair.has(Kind.PERMUTED):
        rows = shape[0] if shape else 1
        if heads is None:
            return "the number of its heads is not known: the GGUF has no attention.head_count"
        if rows % (2 * heads):
            return f"its {rows} rows are not {heads} heads of an even size"
    return None


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _check_plausible(pairs: tuple[Pair, ...]) -> None:
    """Raise `NotTheSource` if too few tensors of a GGUF have a namesake of their shape."""
    asked = [pair for pair in pairs if not (pair.has(Kind.MADE) or pair.has(Kind.REARRANGED))]
    good = [pair for pair in asked if pair.sources and not pair.problem]
    if len(good) >= PLAUSIBLE * len(asked):
        return
    worst = next(pair for pair in asked if pair.problem or not pair.sources)
    why = worst.problem or "it has no namesake there"
    raise NotTheSource(
        f"not what this GGUF was made of: of its {len(asked):,} tensors, {len(good):,} are in the checkpoint by "
        f"name and shape; {worst.tensor.label}: {why}"
    )
