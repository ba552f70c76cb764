"""Scales of all blocks, codes of some."""

import gguf
import numpy as np
import pytest

from gguf_bytes import gguf as gguf_bytes
from gguf_bytes import tensor
from models import TYPE_ID, finish, write
from truebits.files.model import open_model
from truebits.precision.sampling import read_blocks, sample_blocks, scale_facts
from truebits_native.types import BLOCKS, LAYOUTS, NO_SCALE, SPECIAL, ZERO

RANDOM = np.random.default_rng(0)


def q8_0(blocks, seed=0):
    values = np.random.default_rng(seed).normal(0, 0.02, (blocks, 32)).astype(np.float32)
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)


def spoiled():
    packed = q8_0(5_000, 1)
    packed[7, :2] = (0, 0x7E)  # NaN
    packed[8, :2] = (0, 0x7C)  # Inf
    packed[[20, 4_999], :2] = 0
    return packed


@pytest.fixture
def model(tmp_path):
    matrix = RANDOM.normal(0, 1, (8, 64)).astype(np.float32)
    tensors = {"a": ("Q8_0", q8_0(64)), "b": ("Q8_0", spoiled()), "v": ("F32", matrix[0].view(np.uint32))}
    path = write(tmp_path / "model.gguf", tensors)
    return open_model(path)


def by_name(model, *names):
    return [tensor for tensor in model.tensors if tensor.name in names]


@pytest.mark.parametrize("batch_bytes", [34 * 10, 32 << 20])
def test_scales_of_every_block(model, monkeypatch, batch_bytes):
    monkeypatch.setattr("truebits.precision.batches.BATCH_BYTES", batch_bytes)
    steps = []
    got = scale_facts(model, by_name(model, "a", "b"), progress=lambda done, total: steps.append((done, total)))
    assert [int(facts[BLOCKS]) for facts in got] == [64, 5_000]
    assert [int(facts[SPECIAL]) for facts in got] == [0, 2]
    assert [int(facts[ZERO]) for facts in got] == [0, 2]
    assert steps[-1] == (5_064 * 34, 5_064 * 34)


def test_tensors_in_the_order_given(model):
    packed = by_name(model, "a", "b")[::-1]
    blocks, made_from = read_blocks(model, [], packed, None, None)
    assert (list(blocks), made_from) == (["b", "a"], {})
    assert list(sample_blocks(model, packed)) == ["b", "a"]


def test_a_sample_of_a_small_tensor_is_all_of_it(model):
    (tensor,) = by_name(model, "a")
    whole = read_blocks(model, [], [tensor], None, None)[0]["a"]
    some = sample_blocks(model, [tensor])["a"]
    assert (some.facts == whole.facts).all()
    assert (some.distinct == whole.distinct).all()
    assert (some.dead, some.used) == (whole.dead, whole.used)


def test_a_sample_of_a_large_tensor_is_some_of_it(model):
    (tensor,) = by_name(model, "b")
    some = sample_blocks(model, [tensor])["b"]
    assert 0 < some.facts[BLOCKS] < 5_000
    assert some.is_sampled


def test_matrices_only_are_held_against_block_formats(tmp_path):
    """A vector, rows of half a block and F64 are none that a block format could have had."""
    values = np.random.default_rng(2).normal(0, 1, (64, 64)).astype(np.float32)
    through = gguf.quants.dequantize(gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_0), 2)
    through = through.astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    odd = {"vector": through[0], "narrow": through[:, :16].copy(), "double": through.astype(np.float64)}
    for name, array in {"matrix": through, **odd}.items():
        writer.add_tensor(name, array)
    finish(writer)
    model = open_model(tmp_path / "m.gguf")
    _, made_from = read_blocks(model, model.tensors, [], None, None)
    assert {name: origin.format for name, origin in made_from.items()} == {"matrix": "q4_0"}


def test_no_scales_at_all(tmp_path):
    model = open_model(write(tmp_path / "m.gguf", {"a": ("Q8_0", np.empty(0, np.uint8))}))
    (facts,) = scale_facts(model, model.tensors)
    assert facts[BLOCKS] == 0
    assert NO_SCALE in facts


@pytest.mark.parametrize("type", LAYOUTS)
def test_a_tensor_without_values(tmp_path, type):
    """An empty tensor of a K-quant is legal, and ended a scan with an error of ours."""
    path = tmp_path / "m.gguf"
    infos = [tensor(b"empty", (256, 0), TYPE_ID[type]), tensor(b"b", (256, 1), 0)]
    path.write_bytes(gguf_bytes([], infos, np.ones(256, "<f4").tobytes()))
    model = open_model(path)
    blocks, _ = read_blocks(model, [], model.tensors[:1], None, None)
    assert blocks["empty"].facts[BLOCKS] == 0
    assert blocks["empty"].used == 0
