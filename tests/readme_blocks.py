"""The commands of the README and of docs/commands.md, in the order printed, with the output printed below each."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
COMMANDS = ROOT / "docs/commands.md"
PAGES = (README, COMMANDS)

BLOCK = re.compile(r"(?:<!-- needs (\w+) -->\n)?```console\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


def console(needs: str = "") -> list[tuple[str, str]]:
    """Return (command, expected output) of every ``$ truebits`` line of the blocks that need the same thing.

    Parameters
    ----------
    needs : {"", "eval", "real"}
        Nothing, the extra eval, or models that are fetched.
    """
    text = "\n".join(page.read_text() for page in PAGES)
    blocks = [block for need, block in BLOCK.findall(text) if need == needs]
    pairs = [pair for block in blocks for pair in COMMAND.findall(block)]
    return [(command, output) for command, output in pairs if command.startswith("truebits ")]


def python() -> str:
    """Return the library example."""
    return "\n".join(re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
