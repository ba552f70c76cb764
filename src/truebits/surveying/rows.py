"""Report -> rows: what a survey keeps of a model, and of each of its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from truebits import errors
from truebits.errors import printable
from truebits.files.claims import label_of
from truebits.files.locate import URL
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_FORMATS
from truebits.numbers.spelling import find
from truebits.precision.counting import TensorPrecision
from truebits.precision.evidence import LADDER
from truebits.precision.findings import Finding
from truebits.precision.report import Report, by_format
from truebits.surveying.sources import HUB

IN_A_CACHE = "models--"
PUBLISHED_BY = ("general.quantized_by", "general.organization", "general.author")

SCALED = "scaled"
"""What the values of a quantized checkpoint came from: codes times scales."""

LONGEST = 200
"""Characters of a text of a file's that a row keeps."""


def model_row(source: str, state: str, report: Report) -> dict[str, Any]:
    """Return a model's row: what it is, what it came from, what is wrong, what was read."""
    model, label, coverage = report.model, label_of(report.model), report.coverage
    origins = list(_origins(report))
    stored = _most_bytes(model)
    of_it = [one for one in origins if one["type"] == stored]
    first = max(of_it, key=lambda one: one["values"], default={"came_from": None, "values": None})
    return {
        "source": source,
        "state": state,
        "publisher": publisher_of(source, model),
        "name": _text(model.value("general.name")),
        "architecture": _architecture(model),
        "format": model.format,
        "files": len(model.parts),
        "size": model.size,
        "tensors": len(model.tensors),
        "values": model.values,
        "bytes": coverage.bytes,
        "bits_per_weight": model.bits_per_weight,
        "label": label.name if label else None,
        "contradiction": label.contradiction if label else None,
        "stored": stored,
        "came_from": first["came_from"],
        "came_from_values": first["values"],
        "is_upcast": is_narrower(first["came_from"], stored),
        "origins": origins,
        "findings": [
            {"kind": one.kind, "level": one.level, "tensors": _concerned(one, report), "message": one.message}
            for one in report.findings
        ],
        "tensors_read": coverage.tensors_read,
        "values_read": coverage.values_read,
        "bytes_read": coverage.bytes_read,
        "is_complete": coverage.is_complete,
        "bytes_saved": sum(one.bytes_saved for one in report.tensors.values() if one.is_plain),
        "exit_code": 0,
        "error": None,
    }


def _concerned(finding: Finding, report: Report) -> int:
    """Count the tensors that a finding is about; 0 where it is about the file."""
    if finding.kind == "not_read":
        return sum(one.tensors for one in report.coverage.undecided)
    return len(finding.tensors)


def failed_row(source: str, state: str, error: BaseException | str) -> dict[str, Any]:
    """Return the row of a model that could not be read; the exit code is the one that `scan` would end with."""
    code = getattr(error, "exit_code", 4 if isinstance(error, OSError | str) else 70)
    told = f"{type(error).__name__}: {error}" if code == 70 else str(error)
    if isinstance(error, OSError) and error.filename:
        told = f"{error.filename}: {error.strerror}"
    where = publisher_of(source, None)
    return {"source": source, "state": state, "publisher": where, "exit_code": code, "error": errors.clipped(told)}


def tensor_rows(source: str, report: Report) -> Iterator[dict[str, Any]]:
    """Yield a row for each tensor of a model, in file order: those that were not read, too."""
    for tensor in report.model.tensors:
        row: dict[str, Any] = {
            "source": source,
            "tensor": printable(tensor.name),
            "group": printable(tensor.group),
            "type": tensor.type,
            "shape": list(tensor.shape),
            "values": tensor.values,
            "bytes": tensor.nbytes,
            "read": "none",
        }
        if tensor.name in report.tensors:
            row |= _figures(report.tensors[tensor.name])
        elif tensor.name in report.blocks:
            of = report.blocks[tensor.name]
            row |= {"read": "sample" if of.is_sampled else "scales", "came_from": of.made_from.format}
            row |= {"confidence": of.made_from.confidence, "special_scales": of.special}
        yield row


def _figures(one: TensorPrecision) -> dict[str, Any]:
    origin, reach = one.origin, one.exponent_range or (None, None)
    return {
        "read": "all",
        "came_from": SCALED if one.is_scaled else origin.format,
        "confidence": origin.confidence,
        "holds_most": origin.holds_most,
        "exceptions": origin.exceptions,
        "through": origin.through,
        "is_undone": one.before is not None,
        "bf16": one.fits("bf16"),
        "fp16": one.fits("fp16"),
        "low_16_zero": one.low_zero(16) if one.layout.word_bits > 16 else None,
        "mantissa_bits": one.mantissa_bits(),
        "least_exponent": reach[0],
        "greatest_exponent": reach[1],
        "exponent_entropy": one.exponent_entropy,
        "zero": one.zero,
        "subnormal": one.subnormal,
        "nan": one.nan,
        "inf": one.inf,
    }


def _origins(report: Report) -> Iterator[dict[str, Any]]:
    """Yield what the tensors of each storage type came from, as many rows as there are verdicts."""
    for type, members in report.by_type().items():
        for format, some in by_format(members):
            came_from = SCALED if some[0].is_scaled else format
            yield _sums(type, came_from, [one.tensor for one in some])
    packed: dict[tuple[str, str], list[Tensor]] = {}
    for one in report.blocks.values():
        packed.setdefault((one.type, one.made_from.format), []).append(one.tensor)
    for (type, format), tensors in packed.items():
        yield _sums(type, format, tensors)


def _sums(type: str, came_from: str | None, tensors: list[Tensor]) -> dict[str, Any]:
    sums = {"tensors": len(tensors), "values": sum(one.values for one in tensors)}
    return {"type": type, "came_from": came_from, **sums, "bytes": sum(one.nbytes for one in tensors)}


def _most_bytes(model: Model) -> str | None:
    """Return the type that most bytes of a model are stored in."""
    sizes: Counter[str] = Counter()
    for tensor in model.tensors:
        sizes[tensor.type] += tensor.nbytes
    return sizes.most_common(1)[0][0] if sizes else None


def is_narrower(came_from: str | None, stored: str | None) -> bool:
    """Tell whether values came from a format of fewer bits than their storage type has."""
    if came_from not in LADDER or stored not in FLOAT_FORMATS:
        return False
    return find(came_from).bits < find(FLOAT_FORMATS[stored]).bits


def publisher_of(source: str, model: Model | None) -> str | None:
    """Return who published a model: the hub's organization, a cache's, or whom its metadata names."""
    if source.startswith(HUB):
        return source.removeprefix(HUB).split("/")[0]
    if not URL.match(source):
        cached = [part.split("--") for part in Path(source).parts if part.startswith(IN_A_CACHE)]
        if cached and len(cached[0]) > 2:
            return cached[0][1]
    told = (model.value(key) for key in PUBLISHED_BY) if model else ()
    return next((text for one in told if (text := _text(one))), None)


def _architecture(model: Model) -> str | None:
    return _text(model.architecture or model.config.get("model_type"))


def _text(value: object) -> str | None:
    """Return a text of a file's as a row may have it; None for what is none."""
    return printable(value[:LONGEST]) if isinstance(value, str) and value.strip() else None
