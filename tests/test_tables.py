"""The columns of a survey's tables, and a model's part of them."""

import builtins
import json

import pytest

from surveyed import failed, model, tensor
from truebits.errors import MissingExtra
from truebits.surveying import tables
from truebits.surveying.tables import MODEL, part_of, schemas

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize("rows", [[], [tensor("m")], [tensor("m", str(number)) for number in range(50)]])
def test_a_part_holds_its_tensors_and_its_model(rows):
    got = pq.read_table(pa.BufferReader(part_of(model("m\x1b"), rows)))
    assert json.loads(got.schema.metadata[MODEL]) == model("m\x1b")
    assert [row["tensor"] for row in got.to_pylist()] == [row["tensor"] for row in rows]
    assert got.schema.names == schemas()[1].names


def test_a_model_that_was_not_read_has_a_row_of_the_same_columns():
    of_models, _ = schemas()
    for row in (model("m"), failed("m")):
        assert set(row) <= set(of_models.names)
        assert pa.Table.from_pylist([row], of_models).num_rows == 1
    assert set(model("m")) == set(of_models.names)


def test_the_same_rows_are_the_same_bytes():
    assert part_of(model("m"), [tensor("m")]) == part_of(model("m"), [tensor("m")])


def test_what_is_not_installed_is_named(monkeypatch):
    def lacking(name, *arguments, imported=builtins.__import__):
        if name == "pyarrow":
            raise ImportError
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(MissingExtra, match=r"truebits\[arrow\]"):
        tables.schemas.__wrapped__()
