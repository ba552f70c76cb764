"""What `check` tells of a model, in a line."""

from __future__ import annotations

from truebits.errors import printable
from truebits.precision.gate import Gate


def line(gate: Gate) -> str:
    """Return the verdict, the file, and the reason."""
    return f"{gate.verdict}: {printable(gate.file)}: {_reason(gate)}"


def _reason(gate: Gate) -> str:
    if gate.failed:
        return "; ".join(f"{finding.kind}: {finding.message}" for finding in gate.failed)
    read = str(gate.coverage).removesuffix(".")
    return "; ".join([*gate.unproved, read[0].lower() + read[1:]])
