"""The two tables of a survey: what their columns are, and a model's part of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from truebits.errors import MissingExtra

if TYPE_CHECKING:
    import pyarrow

MODEL = b"truebits.model"
"""Where a part's metadata has the model's row, as JSON."""

COMPRESSION = "zstd"


@cache
def schemas() -> tuple[pyarrow.Schema, pyarrow.Schema]:
    """Return the columns of the tables of models and of tensors.

    Raises
    ------
    MissingExtra
        pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtra("A survey's tables", "arrow") from None
    text, whole, real, flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
    sums = {"tensors": whole, "values": whole, "bytes": whole}
    origin = pa.struct({"type": text, "came_from": text, **sums})
    finding = pa.struct({"kind": text, "level": text, "tensors": whole, "message": text})
    models = {
        **dict.fromkeys(("source", "state", "publisher", "name", "architecture", "format"), text),
        **{"files": whole, "size": whole, **sums, "bits_per_weight": real, "label": text, "contradiction": text},
        **{"stored": text, "came_from": text, "came_from_values": whole, "is_upcast": flag},
        **{"origins": pa.list_(origin), "findings": pa.list_(finding)},
        **{"tensors_read": whole, "values_read": whole, "bytes_read": whole, "is_complete": flag},
        **{"bytes_saved": whole, "exit_code": whole, "error": text},
    }
    tensors = {
        **dict.fromkeys(("source", "tensor", "group", "type"), text),
        **{"shape": pa.list_(whole), "values": whole, "bytes": whole, "read": text},
        **{"came_from": text, "confidence": real, "holds_most": text, "exceptions": whole, "through": text},
        **{"is_undone": flag, "bf16": whole, "fp16": whole, "low_16_zero": whole, "mantissa_bits": whole},
        **{"least_exponent": whole, "greatest_exponent": whole, "exponent_entropy": real},
        **dict.fromkeys(("zero", "subnormal", "nan", "inf", "special_scales"), whole),
    }
    return pa.schema(models), pa.schema(tensors)


def part_of(model: dict[str, Any], tensors: Iterable[dict[str, Any]] = ()) -> bytes:
    """Return an Arrow file of a model's tensors, which has the model's row in its metadata."""
    import pyarrow as pa

    schema = schemas()[1].with_metadata({MODEL: json.dumps(model)})
    file = io.BytesIO()
    with pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression=COMPRESSION)) as writer:
        writer.write_table(pa.Table.from_pylist(list(tensors), schema))
    return file.getvalue()


def read_part(part: bytes) -> tuple[dict[str, Any], pyarrow.Table]:
    """Return a model's row and its tensors.

    Raises
    ------
    ValueError
        It is no part, or not a whole one.
    """
    import pyarrow as pa

    try:
        table = pa.ipc.open_file(pa.BufferReader(part)).read_all()
        return json.loads(table.schema.metadata[MODEL]), table.replace_schema_metadata()
    except (pa.ArrowInvalid, OSError, TypeError, KeyError) as error:
        raise ValueError(f"no part of a survey: {error}") from None
