"""What the two headers say about the model: its architecture, sizes and heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from truebits.errors import NotTheSource, UsageError, printable
from truebits.files.gguf import value_bytes
from truebits.files.header import ARRAY, INT32, UINT32, Header
from truebits.files.model import Model
from truebits.lineage.names import block_of

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


class Facts:
    """What two headers say about the model.

    Parameters
    ----------
    model, source : Model
    swapped : collection of str
        Names of the source's tensors whose last two dimensions are stored the other way round.

    Raises
    ------
    UsageError
        The GGUF does not say its architecture.
    """

    def __init__(self, model: Model, source: Model, swapped: Collection[str] = ()):
        self.model = model
        self.source = source
        self.swapped = swapped
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

    def size(self, *keys: str) -> int:
        """Return the first of some whole numbers above 0 that ``config.json`` has.

        Raises
        ------
        ValueError
            It has none of them.
        """
        for key in keys:
            value: Any = self.config
            for word in key.split("."):
                value = value.get(word) if isinstance(value, dict) else None
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        raise ValueError(f"config.json has no {' and no '.join(keys)}")

    @cached_property
    def family(self) -> str:
        """The architecture, and of a projector whose it is: converters do to each what its model needs."""
        projector = self.model.value("clip.projector_type") or self.model.value("clip.vision.projector_type")
        return f"clip:{projector}" if self.architecture == "clip" else self.architecture

    @cached_property
    def blocks(self) -> int | None:
        return self.number("block_count")

    @cached_property
    def layers(self) -> int:
        """Layers before those that predict further tokens."""
        try:
            return self.size(*LAYERS)
        except ValueError:
            return (self.blocks or 0) - (self.number("nextn_predict_layers") or 0)

    def check(self) -> None:
        """Raise `NotTheSource` where the checkpoint's ``config.json`` tells of another model."""
        if self.architecture == "clip":
            return
        for ours, theirs in (
            ("embedding_length", "hidden_size"),
            ("attention.head_count", "num_attention_heads"),
            ("block_count", "num_hidden_layers"),
        ):
            a, b = self.number(ours), self.config.get(theirs)
            if a is None or not isinstance(b, int):
                continue
            most = b + self._predicted_layers() if ours == "block_count" else b
            if not b <= a <= most:
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
        told = next((number for number in numbers if isinstance(number, int)), 0)
        return max(told, self.number("nextn_predict_layers") or 0)

    def is_beyond(self, name: str) -> bool:
        """Tell whether a block is one that the GGUF leaves out."""
        block = block_of(name)
        return block is not None and self.blocks is not None and block >= self.blocks

    def may_lack(self, name: str) -> bool:
        """Tell whether converters leave a tensor out: an output that is the embedding."""
        is_tied = self.config.get("tie_word_embeddings") is True or self.architecture.startswith("gemma")
        return name == "output.weight" and is_tied

    def heads(self, name: str) -> int | None:
        """Return the number of heads of a query or key tensor; 0 where the GGUF says that its block has none."""
        block = block_of(name)
        groups = self._counts.get("attention.head_count_kv", [])
        if len(groups) > 1 and block is not None and groups[min(block, len(groups) - 1)] == 0:
            return 0
        keys = ("attention.head_count_kv", "attention.head_count") if "attn_k." in name else ("attention.head_count",)
        for key in keys:
            count = self._counts.get(key)
            if count is not None and block is not None:
                return count[min(block, len(count) - 1)]
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
