"""Tables of a survey -> what they say of all its models together. Read, filtered and grouped by pyarrow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truebits.errors import UsageError, printable
from truebits.precision.findings import KINDS, LEVELS
from truebits.result import Result
from truebits.surveying.folder import MODELS, PART, PARTS, ROWS, TENSORS
from truebits.surveying.tables import schemas

if TYPE_CHECKING:
    from pyarrow import Table

Rows = tuple[dict[str, Any], ...]

EXAMPLES = 5
"""Models that are named of those whose label is wrong, or that could not be read."""

SUMS = [("values", "sum"), ("bytes", "sum")]


@dataclass(frozen=True, repr=False)
class Survey(Result):
    """What the tables of a survey say.

    Attributes
    ----------
    folder : str
    models, failed : int
        In the tables, and those of them that could not be read.
    complete : int
        Models of which all that their verdict needs was read whole.
    waiting : int
        Models that are done and not in the tables, since a survey was killed or is running.
    values, bytes, bytes_read, bytes_saved : int
        Of all models; what was read of their tensors' bytes; what storing them without loss would save.
    uploads : tuple of dict
        Models by the type that most of their bytes are ``stored`` in and by what most values of it ``came_from``.
    tensors : tuple of dict
        Tensors by type and by what they came from.
    findings : tuple of dict
        By kind and level: models, tensors.
    labels : dict
        Models ``labelled``, those whose label is ``contradicted``, and ``examples``.
    architectures, publishers : tuple of dict
        By name: models, those that are upcasts, that have a wrong label, and that have an error among their findings.
    problems : tuple of dict
        Why models could not be read, with examples, by exit code.
    """

    verb = "survey"
    rows_of_document = "uploads"

    folder: str
    models: int
    failed: int
    complete: int
    waiting: int
    values: int
    bytes: int
    bytes_read: int
    bytes_saved: int
    uploads: Rows
    tensors: Rows
    findings: Rows
    labels: dict[str, Any]
    architectures: Rows
    publishers: Rows
    problems: Rows

    def content(self) -> dict[str, Any]:
        """Return what the document holds, but for its schema."""
        return {name: _listed(getattr(self, name)) for name in self.__dataclass_fields__}

    def stored_as(self, type: str) -> Rows:
        """Return the rows of `uploads` whose models are mostly stored in a type."""
        return tuple(row for row in self.uploads if row["stored"] == type)

    @property
    def summary(self) -> str:
        """The result in one short line."""
        return f"{self.models:,} models, {self.failed:,} of them not read, {self.bytes_read:,} bytes read"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_survey(folder: str | os.PathLike[str]) -> Survey:
    """Read what a survey's tables say.

    Parameters
    ----------
    folder : path-like
        As of `survey`.

    Returns
    -------
    Survey

    Raises
    ------
    UsageError
        There are no tables.
    MissingExtra
        pyarrow is not installed.
    """
    schemas()
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    folder = Path(folder)
    waiting = len(list((folder / PARTS).glob(f"*{PART}")))
    try:
        all = pq.read_table(folder / MODELS)
    except FileNotFoundError:
        told = f": {waiting:,} models are done, run it again to go on" if waiting else ""
        raise UsageError(f"{printable(str(folder))} has no tables of a survey{told}") from None
    failed = all.filter(pc.not_equal(all["exit_code"], 0))
    read = all.filter(pc.equal(all["exit_code"], 0))
    contradicted = read.filter(pc.is_valid(read["contradiction"]))
    return Survey(
        str(folder),
        all.num_rows,
        failed.num_rows,
        _sum(read, "is_complete"),
        waiting,
        _sum(read, "values"),
        _sum(read, "bytes"),
        _sum(read, "bytes_read"),
        _sum(read, "bytes_saved"),
        _uploads(read),
        _tensors(folder / TENSORS),
        _findings(read),
        {
            "labelled": read.num_rows - read["label"].null_count,
            "contradicted": contradicted.num_rows,
            "examples": contradicted.select(["source", "contradiction"]).slice(0, EXAMPLES).to_pylist(),
        },
        _shares(read, "architecture"),
        _shares(read, "publisher"),
        _problems(failed),
    )


def _sum(table: Table, name: str) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(table[name]).as_py() or 0)


def _uploads(models: Table) -> Rows:
    sums = models.group_by(["stored", "came_from"]).aggregate([([], "count_all"), *SUMS, ("bytes_saved", "sum")])
    return _sorted(sums, "models", "bytes")


def _tensors(path: Path) -> Rows:
    """Add up the tensors that were read, a batch at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    keys = ["type", "came_from"]
    sums = []
    for batch in pq.ParquetFile(path).iter_batches(ROWS, columns=[*keys, "values", "bytes", "read"]):
        table = pa.Table.from_batches([batch])
        some = table.filter(pc.not_equal(table["read"], "none")).group_by(keys).aggregate([([], "count_all"), *SUMS])
        sums.append(some.rename_columns([*keys, "tensors", "values", "bytes"]))
    if not sums:
        return ()
    whole = pa.concat_tables(sums).group_by(keys).aggregate([("tensors", "sum"), *SUMS])
    return _sorted(whole, "tensors", "bytes")


def _findings(models: Table) -> Rows:
    import pyarrow as pa
    import pyarrow.compute as pc

    of_model = pc.list_parent_indices(models["findings"])
    found = pa.Table.from_struct_array(pc.list_flatten(models["findings"]).combine_chunks())
    found = found.append_column("model", of_model)
    sums = found.group_by(["kind", "level"]).aggregate([("model", "count_distinct"), ("tensors", "sum")])
    rows = _renamed(sums, "models").to_pylist()
    return tuple(sorted(rows, key=lambda row: (LEVELS.index(row["level"]), KINDS.index(row["kind"]))))


def _shares(models: Table, key: str) -> Rows:
    """Count models by what they say, and those that are upcasts, that have a wrong label, and that have errors."""
    import pyarrow as pa
    import pyarrow.compute as pc

    findings = models["findings"].combine_chunks()
    errors = pc.equal(pc.struct_field(pc.list_flatten(findings), "level"), "error")
    broken = set(pc.list_parent_indices(findings).filter(errors).to_pylist())
    facts = {
        "name": models[key],
        "upcast": models["is_upcast"].cast(pa.int64()),
        "mislabelled": pc.is_valid(models["contradiction"]).cast(pa.int64()),
        "with_errors": pa.array([int(number in broken) for number in range(models.num_rows)], pa.int64()),
        "bytes": models["bytes"],
    }
    names = [name for name in facts if name != "name"]
    sums = pa.table(facts).group_by("name").aggregate([([], "count_all"), *((name, "sum") for name in names)])
    return _sorted(sums, "models", "models")


def _problems(failed: Table) -> Rows:
    rows = failed.group_by("exit_code").aggregate([([], "count_all")])
    examples = {
        code: failed.filter(_equal(failed["exit_code"], code))
        .select(["source", "error"])
        .slice(0, EXAMPLES)
        .to_pylist()
        for code in rows["exit_code"].to_pylist()
    }
    found = [{**row, "examples": examples[row["exit_code"]]} for row in _renamed(rows, "models").to_pylist()]
    return tuple(sorted(found, key=lambda row: -row["models"]))


def _equal(column: Any, value: Any) -> Any:
    import pyarrow.compute as pc

    return pc.equal(column, value)


def _renamed(table: Table, counted: str) -> Table:
    """Give the sums of a group their columns' names, and the number of its rows a name."""
    names = {"count_all": counted, "model_count_distinct": counted}
    return table.rename_columns([names.get(name, name.removesuffix("_sum")) for name in table.column_names])


def _sorted(table: Table, counted: str, by: str) -> Rows:
    """Return a group's rows, the largest first; what is as large in the order of its names."""
    rows = _renamed(table, counted).to_pylist()
    return tuple(sorted(rows, key=lambda row: (-row[by], *(str(value) for value in row.values()))))
