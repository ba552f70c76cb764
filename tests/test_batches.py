"""A model's words in batches, wherever the data lies."""

import numpy as np
import pytest

from models import TENSORS, assert_found, words_for, write, write_raw
from truebits.files.model import open_model
from truebits.precision import batches as batches_module
from truebits.precision.counting import low_bits
from truebits.precision.scan import scan
from words import TYPES


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "model.gguf", TENSORS)


@pytest.mark.parametrize("aligned", [8, 16, 64, 4096])
def test_alignments_of_gguf_py(tmp_path, aligned):
    assert_found(scan(write(tmp_path / "model.gguf", TENSORS, aligned)), TENSORS)


@pytest.mark.parametrize("aligned", [1, 2])
@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("batch_bytes", [1 << 12, 32 << 20])
def test_data_that_is_not_aligned(tmp_path, monkeypatch, aligned, shift, batch_bytes):
    """The length of the first name moves all data."""
    monkeypatch.setattr(batches_module, "BATCH_BYTES", batch_bytes)
    tensors = {"n" * (1 + shift): ("F16", words_for("F16", 1, 9)), **TENSORS}
    path = write_raw(tmp_path / "model.gguf", tensors, aligned)
    assert any(t.offset % 4 for t in open_model(path).tensors if t.type == "F32")
    assert_found(scan(path), tensors)
    expected = {name: np.count_nonzero(words & 0xFF == 0) for name, (type, words) in tensors.items() if type == "F32"}
    assert low_bits(path, bits=8) == expected


def test_data_at_every_offset(tmp_path):
    data = words_for("F64", 50, 10)
    remainders = set()
    for shift in range(8):
        path = write_raw(tmp_path / f"{shift}.gguf", {"n" * (1 + shift): ("F64", data)}, 1)
        remainders.add(open_model(path).tensors[0].offset % 8)
        assert_found(scan(path), {"n" * (1 + shift): ("F64", data)})
    assert remainders == set(range(8))


@pytest.mark.parametrize("batch_bytes", [8, 64, 4_096, 10_000, 1 << 20])
def test_tensors_longer_and_shorter_than_a_batch(tmp_path, monkeypatch, batch_bytes):
    monkeypatch.setattr(batches_module, "BATCH_BYTES", batch_bytes)
    sizes = (1, 2, 200) if batch_bytes < 100 else (1, 7, 1_024, 1_025, 20_000, 3)
    tensors = {f"t{i}.{type}": (type, words_for(type, size, i)) for i, size in enumerate(sizes) for type in TYPES}
    path = write(tmp_path / "model.gguf", tensors)
    assert_found(scan(path), tensors)


def test_a_batch_is_not_longer_than_twice_its_size(path, small_batches):
    model = open_model(path)
    batches = list(batches_module.batches(model, model.tensors))
    sizes = [int((batch.stops - batch.starts).sum()) * batch.words.itemsize for batch in batches]
    assert sum(sizes) == sum(t.nbytes for t in model.tensors)
    assert max(sizes) < 2 * 4_096
    assert len(batches) > len(TYPES)
    assert not any(batch.words.flags.writeable for batch in batches)


@pytest.mark.parametrize("size", [1, 100, 1 << 14])
def test_batches_have_all_words_once(path, monkeypatch, size):
    monkeypatch.setattr(batches_module, "LEAST_BATCH_BYTES", 8)
    model = open_model(path)
    found = {name: [] for name in TENSORS}
    for batch in batches_module.batches(model, model.tensors, size):
        assert {tensor.type for tensor in batch.tensors} == {batch.tensors[0].type}
        assert batch.nbytes == sum(batch.stops - batch.starts) * batch.words.itemsize
        for tensor, start, stop in zip(batch.tensors, batch.starts, batch.stops, strict=True):
            found[tensor.name].append(batch.words[start:stop].copy())
        batch.forget()
    for name, (_, words) in TENSORS.items():
        assert (np.concatenate(found[name]) == words).all()


@pytest.mark.parametrize("size", [1, 34, 35, 100])
def test_blocks_are_never_cut(tmp_path, monkeypatch, size):
    monkeypatch.setattr(batches_module, "LEAST_BATCH_BYTES", 1)
    packed = np.random.default_rng(0).integers(0, 255, 34 * 50, np.uint8)
    model = open_model(write(tmp_path / "model.gguf", {"a": ("Q8_0", packed)}))
    got = list(batches_module.batches(model, model.tensors, size))
    assert all(((batch.stops - batch.starts) % 34 == 0).all() for batch in got)
    assert (np.concatenate([batch.words[a:b] for batch in got for a, b in zip(batch.starts, batch.stops, strict=True)])
            == packed).all()  # fmt: skip


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_results_come_in_the_order_of_the_batches(path, small_batches, is_large, threads):
    model = open_model(path)
    expected = [(batch.tensors, batch.nbytes) for batch in batches_module.batches(model, model.tensors)]
    steps = []
    got = [
        (batch.tensors, result)
        for batch, result in batches_module.over_batches(
            lambda batch: batch.nbytes, model, model.tensors, threads, lambda *step: steps.append(step), is_large
        )
    ]
    assert got == expected
    total = sum(tensor.nbytes for tensor in model.tensors)
    assert steps[-1] == (total, total)


def test_an_error_of_the_work_comes_through(path, small_batches):
    model = open_model(path)

    def fail(batch):
        raise ZeroDivisionError

    for is_large in (False, True):
        with pytest.raises(ZeroDivisionError):
            list(batches_module.over_batches(fail, model, model.tensors, 2, None, is_large))


def test_no_tensors(path):
    model = open_model(path)
    assert list(batches_module.batches(model, [])) == []
    assert list(batches_module.over_batches(len, model, [], None, None, False)) == []


def test_steps_are_counted():
    seen = []
    step = batches_module.stepper(lambda *one: seen.append(one), 5)
    step(), step(3), step(3)
    assert seen == [(1, 5), (4, 5), (5, 5)]
    batches_module.stepper(None, 2)()
