"""What a header says, for a reader: needs neither NumPy nor the data."""

from __future__ import annotations

from truebits.errors import printable, shortened
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.report.table import Table, nbytes


def headline(model: Model) -> str:
    """One line on a model: name, size, and the distribution of its tensors' types."""
    types = ", ".join(f"{count} {type}" for type, count in model.types.items())
    files = f" in {len(model.parts)} files" if len(model.parts) > 1 else ""
    name = printable(model.path.name or str(model.path))
    return f"{name}: {nbytes(model.size)}{files}, {len(model.tensors)} tensors: {types or 'none'}"


def metadata(model: Model) -> dict[str, str]:
    """The strings that a safetensors file keeps beside its tensors; of several files, the first one's."""
    part = model.parts[0]
    if model.format != "safetensors" or not part.header.keys:
        return {}
    with part.map() as file:
        return {key: str(part.header.value(file.data, key)) for key in part.header.keys}


def heading(model: Model) -> str:
    """The headline, and a line for each string of `metadata`."""
    lines = [f"metadata: {shortened(key)} = {shortened(text)}" for key, text in metadata(model).items()]
    return "\n".join([headline(model), *lines])


def tensors(model: Model, chosen: tuple[Tensor, ...]) -> Table:
    """The tensors of a header: nothing of their data is read."""
    table = Table(("tensor", "type", "shape", "values", "bytes", "offset"))
    for tensor in chosen:
        shape = " x ".join(map(str, tensor.shape)) or "scalar"
        table.rows.append((tensor.label, tensor.type, shape, tensor.values, tensor.nbytes, tensor.offset))
    return table
