"""One tensor of a GGUF against what a converter makes of its source."""

from __future__ import annotations

from truebits.files.types import FLOAT_BYTES
from truebits.lineage.blocks import judge_blocks
from truebits.lineage.comparison import Comparison, Outcome
from truebits.lineage.plain import judge_plain


def judge(of: Comparison) -> Outcome:
    """Compare the two."""
    return judge_plain(of) if of.type in FLOAT_BYTES else judge_blocks(of)
