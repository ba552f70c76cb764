"""One JSON document per command, with stable keys and a schema name.

ASCII only: control characters and bytes that are not UTF-8 come out escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from truebits.files.model import Model
from truebits.report.table import Table
from truebits.result import Result, finite

if TYPE_CHECKING:
    from truebits.comparing.diff import Diff
    from truebits.comparing.verify import Verification
    from truebits.experiments.experiment import Experiment


def document(verb: str, content: dict[str, Any]) -> str:
    """Return a document of schema ``truebits.<verb>/1``."""
    whole = {"schema": f"truebits.{verb}/1", **content}
    try:
        return json.dumps(whole, allow_nan=False)
    except ValueError:
        return json.dumps(finite(whole))


def low_bits(model: Model, bits: int, counts: dict[str, int]) -> str:
    tensors = [tensor for tensor in model.tensors if tensor.name in counts]
    total = {"values": sum(tensor.values for tensor in tensors), "low_zero": {str(bits): sum(counts.values())}}
    rows = [{**tensor.about(), "low_zero": {str(bits): counts[tensor.name]}} for tensor in tensors]
    return document("scan-low-bits", {**model.about(), "bits": bits, "tensors": rows, "total": total})


def bits_view(model: Model, name: str, bits: int, table: Table) -> str:
    rows = [
        dict(zip(("index", "value", "hex", "sign", "exponent", "mantissa"), row, strict=True)) for row in table.rows
    ]
    return document("scan-bits-view", {**model.about(), "tensor": name, "bits": bits, "samples": rows})


def verification(found: Verification, manifest: str) -> str:
    return document("verify", {**found.content(), "manifest": manifest})


def diff(found: Diff, failed: Sequence[str]) -> str:
    return document("diff", {**found.content(), "failed": list(failed)})


def result(found: Result) -> str:
    """Return the document of a result."""
    return json.dumps(found.to_dict())


def experiment(done: Experiment) -> str:
    from truebits.report.experiment import conclusion

    return document("experiment", {**done.content(), "conclusion": conclusion(done)})
