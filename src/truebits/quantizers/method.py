"""What ``config.json``, or a quantizer's own file beside it, says of how a checkpoint was quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from truebits.errors import BadConfig, shortened
from truebits.files.model import Model

KEYS = ("quantization_config", "compression_config", "quantization")
"""Transformers', older compressed-tensors', MLX's."""

NESTED = ("text_config", "llm_config", "language_config")
"""Where models of several parts keep what is said of their language model."""

BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
"""Files of quantizers that say nothing in ``config.json``, and how they quantize."""

LARGEST = 1 << 31
"""No size of a block or a group is as large."""


class Method(NamedTuple):
    """How a checkpoint was quantized.

    Attributes
    ----------
    name : str or None
        ``gptq``, ``fp8``; None where nothing is said.
    settings : mapping of str to object
        Everything that is said.
    groups : tuple of mapping
        What compressed-tensors says of weights, one for each of its ``config_groups``.
    """

    name: str | None = None
    settings: Mapping[str, Any] = {}
    groups: tuple[Mapping[str, Any], ...] = ()

    def integers(self, *keys: str) -> set[int]:
        """Return every whole number that is said under one of these keys, of the whole or of a group."""
        said = [of.get(key) for of in (self.settings, *self.groups) for key in keys]
        return {one for one in said if isinstance(one, int) and not isinstance(one, bool) and abs(one) < LARGEST}

    @property
    def block(self) -> tuple[int, int] | None:
        """Rows and columns that share a scale; None if nothing is said."""
        for of in (self.settings, *self.groups):
            for key in ("weight_block_size", "block_structure"):
                said = of.get(key)
                if (
                    isinstance(said, list)
                    and len(said) == 2
                    and all(isinstance(n, int) and 0 < n < LARGEST for n in said)
                ):
                    return said[0], said[1]
        return None


def method_of(model: Model) -> Method:
    """Read what the ``config.json`` beside a model says, or a file of the quantizer's own.

    Raises
    ------
    BadConfig
        It is no JSON object, or what it says of quantization is none.
    LimitExceeded, OSError
    """
    config = model.config
    for of in (config, *(config[key] for key in NESTED if isinstance(config.get(key), dict))):
        for key in KEYS:
            if of.get(key) is not None:
                return _method(model, "config.json", key, of[key], "mlx" if key == "quantization" else None)
    for file, name in BESIDE.items():
        said = model.said_in(file)
        if said:
            key = "quantization"
            return _method(model, file, key, said.get(key, said), name)
    return Method()


def _method(model: Model, file: str, key: str, said: Any, name: str | None) -> Method:
    if not isinstance(said, dict):
        message = f"{key} is a {type(said).__name__}, expected an object"
        raise BadConfig(model.parts[0].path.with_name(file), 0, message)
    name = said.get("quant_method", name)
    return Method(shortened(name) if isinstance(name, str) else None, said, tuple(_groups(said)))


def _groups(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            yield weights
