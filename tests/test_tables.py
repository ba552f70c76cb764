"""The columns of a survey's tables, and a model's part of them."""

import builtins

import pytest

from surveyed import failed, model, tensor
from truebits.errors import MissingExtra
from truebits.surveying import tables
from truebits.surveying.tables import part_of, read_part, schemas

pa = pytest.importorskip("pyarrow")


@pytest.mark.parametrize("rows", [[], [tensor("m")], [tensor("m", str(number)) for number in range(50)]])
def test_a_part_holds_its_tensors_and_its_model(rows):
    part = part_of(model("m\x1b"), rows)
    got, tensors = read_part(part)
    assert got == model("m\x1b")
    assert [row["tensor"] for row in tensors.to_pylist()] == [row["tensor"] for row in rows]
    assert tensors.schema == schemas()[1]
    for cut in (b"", part[:8], part[: len(part) // 2], part[:-1], b"PAR1"):
        with pytest.raises(ValueError, match="no part of a survey"):
            read_part(cut)


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
