"""One JSON document per command, with stable keys and a schema name.

ASCII only: control characters and bytes that are not UTF-8 come out escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from truebits.errors import printable
from truebits.files.layout import Tensor
from truebits.files.model import Model
from truebits.profile import PrecisionProfile
from truebits.report.table import Table
from truebits.scan import Report

if TYPE_CHECKING:
    from truebits.truncate import Rewrite


def document(verb: str, content: dict[str, Any]) -> str:
    """Return a document of schema ``truebits.<verb>/1``."""
    return json.dumps({"schema": f"truebits.{verb}/1", **content})


def show(model: Model, tensors: tuple[Tensor, ...], verb: str = "show") -> str:
    header = model.parts[0].header
    return document(
        verb,
        {
            **_about(model),
            "version": header.version,
            "alignment": header.alignment,
            "architecture": model.value("general.architecture"),
            "warnings": [f"{part.path.name}: {finding.message}" for part in model.parts for finding in part.findings],
            "tensors": [
                {
                    **_named(tensor),
                    "offset": tensor.offset,
                    "nbytes": tensor.nbytes,
                    "part": tensor.part,
                    "role": printable(tensor.role),
                    "group": printable(tensor.group),
                }
                for tensor in tensors
            ],
        },
    )


def scan(report: Report) -> str:
    groups = [
        {"name": printable(name), "type": members[0].type, **_answers(members)}
        for name, members in report.members().items()
    ]
    return document(
        "scan",
        {
            **_about(report.model),
            "tensors": [{**_named(one.tensor), **_answers([one])} for one in report.tensors.values()],
            "groups": groups,
            "total": _total(report),
            "totals": {type: of.answers() for type, of in report.totals().items()},
        },
    )


def low_bits(model: Model, bits: int, counts: dict[str, int]) -> str:
    tensors = [tensor for tensor in model.tensors if tensor.name in counts]
    total = {"values": sum(tensor.values for tensor in tensors), "low_zero": {str(bits): sum(counts.values())}}
    rows = [{**_named(tensor), "low_zero": {str(bits): counts[tensor.name]}} for tensor in tensors]
    return document("scan-low-bits", {**_about(model), "bits": bits, "tensors": rows, "total": total})


def bits_view(model: Model, name: str, bits: int, table: Table) -> str:
    rows = [
        dict(zip(("index", "value", "hex", "sign", "exponent", "mantissa"), row, strict=True)) for row in table.rows
    ]
    return document("scan-bits-view", {**_about(model), "tensor": name, "bits": bits, "samples": rows})


def rewrite(verb: str, source: str, output: str | None, result: Rewrite) -> str:
    return document(
        verb,
        {
            "file": source,
            "output": output,
            "bits": result.bits,
            "values": result.values,
            "changed": result.changed,
            "written": result.written,
            "reason": result.reason,
            "tensors": [{**change._asdict(), "name": printable(change.name)} for change in result.tensors],
        },
    )


def _about(model: Model) -> dict[str, Any]:
    return {"file": str(model.path), "size": model.size, "parts": len(model.parts), "types": model.types}


def _named(tensor: Tensor) -> dict[str, Any]:
    return {"name": printable(tensor.name), "type": tensor.type, "shape": tensor.shape, "values": tensor.values}


def _answers(members: Sequence[PrecisionProfile]) -> dict[str, Any]:
    profile = PrecisionProfile.merge(members)
    return {
        **profile.answers(),
        "mantissa_bits": {"100": profile.mantissa_bits(), "99.9": profile.mantissa_bits(0.999)},
        "exponent_range": profile.exponent_range,
        "exponent_entropy": profile.exponent_entropy,
        "bytes_saved": sum(one.bytes_saved for one in members),
        "origin": asdict(profile.origin),
    }


def _total(report: Report) -> dict[str, Any]:
    """Add the answers of all storage types up. ``low_zero`` is of each type's own words: see ``totals``."""
    total: dict[str, Any] = {"tensors": len(report), "values": 0, "low_zero": {}, "fits": {}}
    for profile in report.totals().values():
        for key, count in profile.answers().items():
            if isinstance(count, dict):
                for name, number in count.items():
                    total[key][name] = total[key].get(name, 0) + number
            else:
                total[key] = total.get(key, 0) + count
    total["bytes_saved"] = sum(profile.bytes_saved for profile in report.tensors.values())
    return total
