"""Model -> what it means, without what reads quantized checkpoints where there is none."""

from __future__ import annotations

from truebits.files.model import Model
from truebits.quantizers.meaning import Meaning


def meaning_of(model: Model) -> Meaning:
    """Find the weights of a checkpoint that may be quantized itself; a GGUF means what it stores.

    Raises
    ------
    BadConfig, LimitExceeded, OSError
        Of ``config.json``.
    """
    if model.format != "safetensors":
        return Meaning(model)
    from truebits.quantizers.checkpoints import meaning

    return meaning(model)
