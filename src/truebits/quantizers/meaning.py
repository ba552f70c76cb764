"""Meaning: the tensors that a model means, whatever they are stored as; of a plain model its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from truebits.files.model import Model

if TYPE_CHECKING:
    from truebits.quantizers.quantized import Quantized


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

    @property
    def swapped(self) -> list[str]:
        """Names of tensors whose last two dimensions are stored the other way round."""
        return [name for name, one in self.quantized.items() if one.as_stored is not None]
