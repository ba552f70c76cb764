"""The README's commands, in the order printed, with the output printed below each."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


NEEDS_EVAL = "<!-- needs eval -->\n"


def console(needs_eval: bool = False) -> list[tuple[str, str]]:
    """Return (command, expected output) of every ``$ truebits`` line, of blocks that need the extra or do not."""
    pairs = []
    for mark, block in re.findall(rf"({NEEDS_EVAL})?```console\n(.*?)```", README.read_text(), re.DOTALL):
        if bool(mark) != needs_eval:
            continue
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            if command.startswith("truebits "):
                pairs.append((command, output))
    return pairs


def python() -> str:
    """Return the library example."""
    return "\n".join(re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
