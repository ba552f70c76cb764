"""A small language model of our own, and a text that it never saw: for the demo, the tests and examples.

`tools/train_model.py` makes them; ``PROVENANCE.md`` beside this file says from what, and under which licence.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

MODEL = _FOLDER / "model.gguf"
"""All weights in F32, with all 24 bits of it in use."""

MODEL_Q8_0 = _FOLDER / "model-q8_0.gguf"
"""The same model with matrices in Q8_0, and norms that are BF16 values in F32."""

HELDOUT = _FOLDER / "heldout.txt"
"""Text of the same kind as the model's training text, and not in it."""
