"""Where the marker of an unfinished rewrite stands, for those who only look whether there is one."""

from __future__ import annotations

import os
from pathlib import Path

SUFFIX = ".truebits-unfinished"
LONGEST_FILE_NAME = 255


def marker_path(path: Path) -> Path:
    """Return the marker's path: beside the file, and short enough for any file system."""
    path = path.resolve()
    name = path.name + SUFFIX
    if len(os.fsencode(name)) > LONGEST_FILE_NAME:
        from hashlib import sha256

        name = sha256(os.fsencode(path.name)).hexdigest()[:32] + SUFFIX
    return path.with_name(name)
