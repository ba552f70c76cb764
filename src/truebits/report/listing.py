"""What a header says, for a reader: needs neither NumPy nor the data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from truebits.errors import printable, shortened
from truebits.files.claims import label_of
from truebits.files.header import Header
from truebits.files.model import Model
from truebits.files.part import Part
from truebits.files.stores import Found
from truebits.files.tensor import Tensor, shape_text
from truebits.precision.findings import header_findings
from truebits.report.table import Amount, Bytes, Table, amount, nbytes, percent

MOST_LISTED = 6
"""So many numbers of an array are shown; of a longer one only how many they are."""

CHUNK = 4_096
"""Elements of an array that are turned to JSON at a time."""


def headline(model: Model) -> str:
    """One line on a model: name, size, and the distribution of its tensors' types."""
    types = ", ".join(f"{count} {type}" for type, count in model.types.items())
    files = f" in {len(model.parts)} files" if len(model.parts) > 1 else ""
    name = printable(model.path.name or str(model.path))
    return f"{name}: {nbytes(model.size)}{files}, {len(model.tensors)} tensors: {types or 'none'}"


def about(model: Model, width: int) -> str:
    """What a model is called, architecture, size, weights, bits for each, label; in lines of `width`."""
    label, bits = label_of(model), model.bits_per_weight
    told = [
        shortened(name_of(model)),
        shortened(model.architecture or model.format),
        nbytes(model.size) + (f" in {len(model.parts)} files" if len(model.parts) > 1 else ""),
        f"{amount(model.values)} weights" if model.tensors else "no tensors",
        f"{bits:.2f} bits per weight" if bits is not None else "",
        f"labelled {label.name}" if label else "",
    ]
    lines = [told[0]]
    for one in filter(None, told[1:]):
        if len(lines[-1]) + 3 + len(one) <= width:
            lines[-1] += f" · {one}"
        else:
            lines.append(f"  {one}")
    return "\n".join(lines)


def name_of(model: Model) -> str:
    """Return what a model calls itself, or its file's name."""
    name = model.value("general.name")
    return name if isinstance(name, str) and name.strip() else model.path.name or str(model.path)


def types(model: Model) -> Table:
    """A row per storage type: tensors, weights, bytes, their share of all tensors' bytes, bits per weight."""
    table = Table(("type", "tensors", "weights", "bytes", "of bytes", "bits per weight"))
    whole = sum(tensor.nbytes for tensor in model.tensors)
    for type, count, values, size in _by_type(model):
        bits = 8 * size / values if values else None
        table.rows.append((type, count, Amount(values), Bytes(size), percent(size, whole), bits))
    return table


def _by_type(model: Model) -> list[tuple[str, int, int, int]]:
    """Return type, tensors, values and bytes of each storage type, most bytes first."""
    sums: dict[str, list[int]] = {}
    for tensor in model.tensors:
        row = sums.setdefault(tensor.type, [0, 0, 0])
        row[0] += 1
        row[1] += tensor.values
        row[2] += tensor.nbytes
    rows = [(type, count, values, size) for type, (count, values, size) in sums.items()]
    return sorted(rows, key=lambda row: -row[3])


def metadata(model: Model) -> Table:
    """A row per metadata key of the first file: long arrays and texts are cut, nothing is rendered."""
    table, part = Table(("metadata", "value")), model.parts[0]
    with part.map() as file:
        table.rows = [(shortened(key), _value(part, file.data, key)) for key in part.header.keys]
    return table


def _value(part: Part, data: Any, key: str) -> str:
    length = part.header.length(data, key)
    if length is None:
        value = next(iter(part.header.elements(data, key)))
        return shortened(value) if isinstance(value, str) else _number(value)
    some = list(islice(part.header.elements(data, key), MOST_LISTED + 1))
    if len(some) > MOST_LISTED or any(isinstance(one, str) for one in some):
        kind = {str: "string", bool: "truth value"}.get(type(some[0]), "number")
        return f"{length:,} {kind}{'' if length == 1 else 's'}"
    return f"[{', '.join(map(_number, some))}]"


def _number(value: Any) -> str:
    """Return a number or truth value; of a float the digits that an F32 has."""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def stores(found: list[Found]) -> Table:
    """A row per model that was found where people keep them: what opens it, its bytes, the store."""
    home = str(Path.home())
    table = Table(("model", "bytes", "in"))
    for one in found:
        source = one.source.replace(home, "~", 1) if one.source.startswith(home + "/") else one.source
        size = Bytes(one.size) if one.size is not None else None
        table.rows.append(
            (printable(source), size, f"{one.store}: {shortened(one.problem)}" if one.problem else one.store)
        )
    return table


def tensors(chosen: tuple[Tensor, ...]) -> Table:
    """The tensors of a header: nothing of their data is read."""
    table = Table(("tensor", "type", "shape", "values", "bytes", "offset"))
    for tensor in chosen:
        shape = shape_text(tensor.shape)
        table.rows.append((tensor.label, tensor.type, shape, tensor.values, tensor.nbytes, tensor.offset))
    return table


def document(model: Model, chosen: tuple[Tensor, ...], verb: str = "show") -> Iterator[str]:
    """Yield a JSON document on a header in pieces: all metadata, whole, and the chosen tensors."""
    header, label = model.parts[0].header, label_of(model)
    head = {
        "schema": f"truebits.{verb}/1",
        "file": str(model.path),
        "format": model.format,
        "size": model.size,
        "parts": len(model.parts),
        "types": model.types,
        "version": header.version if isinstance(header, Header) else None,
        "alignment": header.alignment if isinstance(header, Header) else None,
        "name": printable(name_of(model)),
        "architecture": printable(model.architecture) if model.architecture else None,
        "values": model.values,
        "bits_per_weight": model.bits_per_weight,
        "label": label._asdict() if label else None,
        "by_type": [
            {"type": type, "tensors": count, "values": values, "bytes": size}
            for type, count, values, size in _by_type(model)
        ],
        "warnings": [
            f"{printable(part.path.name)}: {finding.message}" for part in model.parts for finding in part.findings
        ],
        "findings": [finding.to_dict() for finding in header_findings(model)],
    }
    yield json.dumps(head)[:-1]
    yield ', "metadata": {'
    yield from _joined(_metadata_items(model.parts[0]))
    yield '}, "tensors": ['
    yield from _joined([json.dumps(_tensor(tensor))] for tensor in chosen)
    yield "]}"


def _joined(items: Iterator[Any]) -> Iterator[str]:
    """Yield the pieces of each item, with a comma before each but the first."""
    for number, pieces in enumerate(items):
        if number:
            yield ", "
        yield from pieces


def _metadata_items(part: Part) -> Iterator[Iterator[str]]:
    with part.map() as file:
        for key in part.header.keys:
            yield _metadata_item(part, file.data, key)


def _metadata_item(part: Part, data: Any, key: str) -> Iterator[str]:
    """Yield a key and its value as JSON; of an array, so many elements at a time."""
    yield f"{json.dumps(printable(key))}: "
    elements = part.header.elements(data, key)
    if part.header.length(data, key) is None:
        yield json.dumps(_plain(next(elements)))
        return
    before = "["
    while some := [_plain(one) for one in islice(elements, CHUNK)]:
        yield before + json.dumps(some)[1:-1]
        before = ", "
    yield "]" if before != "[" else "[]"


def _plain(value: int | float | bool | str) -> int | float | bool | str | None:
    """Return a value as JSON can hold it: no NaN, no Inf, no bytes that are not UTF-8."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return printable(value)
    return value


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": printable(tensor.name),
        "type": tensor.type,
        "shape": tensor.shape,
        "values": tensor.values,
        "offset": tensor.offset,
        "nbytes": tensor.nbytes,
        "part": tensor.part,
        "role": printable(tensor.role),
        "group": printable(tensor.group),
    }
