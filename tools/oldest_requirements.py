"""Print what pip must install to have the oldest version that pyproject.toml claims of each dependency."""

from __future__ import annotations

import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def oldest(requirement: str) -> str:
    """Turn ``numpy>=2.0`` into ``numpy==2.0.*``."""
    name, _, version = requirement.partition(">=")
    return f"{name}=={version}.*" if version.count(".") < 2 else f"{name}=={version}"


def main() -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    print("\n".join(map(oldest, project["dependencies"])))


if __name__ == "__main__":
    main()
