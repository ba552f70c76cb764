"""A survey's folder: whatever happens, the tables hold each model once, the newest row of it."""

import itertools
import os

import pytest

from surveyed import ASKED, failed, keep, model, tensor
from truebits.errors import Refused, UsageError
from truebits.surveying import folder as folder_module
from truebits.surveying.folder import MODELS, PARTS, TENSORS, Done, Folder
from truebits.surveying.tables import part_of

pq = pytest.importorskip("pyarrow.parquet")


def rows(path, table=MODELS, columns=("source", "exit_code")):
    return [tuple(row[name] for name in columns) for row in pq.read_table(path / table).to_pylist()]


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_models_stand_in_the_order_of_their_names(tmp_path, order):
    keep(tmp_path / "s", *(model(name) for name in order))
    assert rows(tmp_path / "s") == [("a", 0), ("b", 0), ("c", 0)]
    assert rows(tmp_path / "s", TENSORS, ("source",)) == [("a",), ("b",), ("c",)]
    assert list((tmp_path / "s" / PARTS).iterdir()) == []


def test_what_is_done_again_takes_the_place_of_what_was(tmp_path):
    keep(tmp_path, model("a", state="old"), failed("b"), model("c"))
    keep(tmp_path, model("a", state="new"), model("b"))
    assert rows(tmp_path, columns=("source", "state")) == [("a", "new"), ("b", "1:1"), ("c", "1:1")]
    with Folder(tmp_path, ASKED).opened() as again:
        assert again.done == {"a": Done("new", False), "b": Done("1:1", False), "c": Done("1:1", False)}


def test_a_survey_that_was_killed_goes_on(tmp_path):
    keep(tmp_path, model("b"))
    killed = Folder(tmp_path, ASKED)
    killed.add("a", part_of(model("a"), [tensor("a")]))
    (tmp_path / PARTS / "torn.arrow").write_bytes(b"ARROW1 and no more")
    assert rows(tmp_path) == [("b", 0)]
    with Folder(tmp_path, ASKED).opened() as again:
        assert set(again.done) == {"a", "b"}
    assert rows(tmp_path) == [("a", 0), ("b", 0)]


def test_many_parts_are_folded_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "MOST_PARTS", 3)
    with Folder(tmp_path, ASKED).opened() as kept:
        for number in range(7):
            kept.add(str(number), part_of(model(str(number)), [tensor(str(number))]))
            assert len(kept.parts) == (number + 1) % 3
    assert len(rows(tmp_path)) == 7


@pytest.mark.parametrize("size", [1, 2, 100])
def test_groups_of_rows_do_not_depend_on_how_they_come(tmp_path, monkeypatch, size):
    monkeypatch.setattr(folder_module, "ROWS", size)
    with Folder(tmp_path, ASKED).opened() as kept:
        for name in "abc":
            kept.add(name, part_of(model(name), [tensor(name, str(at)) for at in range(5)]))
    keep(tmp_path, model("b"))
    assert rows(tmp_path, TENSORS, ("source",)) == [("a",)] * 5 + [("b",)] + [("c",)] * 5
    groups = pq.ParquetFile(tmp_path / TENSORS).metadata
    assert all(groups.row_group(at).num_rows <= size for at in range(groups.num_row_groups))


def test_folders_that_are_refused(tmp_path):
    keep(tmp_path / "s")
    with pytest.raises(UsageError, match=r"has models read with select \[\]: name another folder"):
        Folder(tmp_path / "s", ASKED | {"select": ["norm"]})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x\x1b").touch()
    with pytest.raises(UsageError, match=r"has x\\x1b: name a folder for the survey alone"):
        Folder(tmp_path / "other", ASKED)
    with Folder(tmp_path / "s", ASKED).opened(), pytest.raises(Refused, match="another survey is writing there"):  # noqa: SIM117
        with Folder(tmp_path / "s", ASKED).opened():
            pytest.fail("two at once")


def test_an_error_keeps_what_was_done(tmp_path):
    with pytest.raises(KeyboardInterrupt), Folder(tmp_path, ASKED).opened() as kept:  # noqa: PT012
        kept.add("a", part_of(model("a"), [tensor("a")]))
        raise KeyboardInterrupt
    assert rows(tmp_path) == [("a", 0)]
    assert not [path for path in os.listdir(tmp_path) if path.startswith(".") and path != ".lock"]  # noqa: PTH208
