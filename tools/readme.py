"""Print what the commands of the README and of docs/commands.md print now into them: ``python tools/readme.py``.

The tests hold the README to it; look at the diff before you commit it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path += [str(Path(__file__).parent.parent / "tests")]

import readme_blocks
import test_readme


def main() -> None:
    """Run every command in its order, and put its output where the old one stood."""
    pages = {page: page.read_text() for page in readme_blocks.PAGES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        test_readme.fill(folder)
        for command, before in readme_blocks.console():
            done = test_readme.run(command, folder)
            if done.returncode:
                sys.exit(f"{command}: {done.stderr}")
            blank = "\n" if before.endswith("\n\n") else ""
            after = f"{done.stdout.rstrip()}\n{blank}" if done.stdout.strip() else before
            for page, text in pages.items():
                pages[page] = text.replace(f"$ {command}\n{before}", f"$ {command}\n{after}", 1)
    for page, text in pages.items():
        page.write_text(text)


if __name__ == "__main__":
    main()
