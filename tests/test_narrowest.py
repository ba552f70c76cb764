"""For each tensor the narrowest type that holds the same values."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from traced_pair import a_gguf
from truebits.files.tensor import Tensor
from truebits.rewriting.narrowest import Choice, Rules, is_kept, narrowest, own_words, singles, spans
from words import grid, values_of, words_in

VALUES = np.random.default_rng(0).normal(0, 0.02, (64, 256)).astype(np.float32)
RULES = Rules(fp8=False)


def chosen(tmp_path, words, type="F32", name="a.weight", rules=RULES):
    model = a_gguf(tmp_path / "m.gguf", **{name: (type, words)})
    (got,) = narrowest(model, model.tensors, rules, 1)
    return got


def through(type):
    number = GGMLQuantizationType[type]
    return words_in(gguf.quants.dequantize(gguf.quants.quantize(VALUES, number), number), "F32")


@pytest.mark.parametrize(
    ("words", "type", "expected"),
    [
        (words_in(VALUES, "F32"), "F32", "F32"),
        (words_in(VALUES, "F32") & np.uint32(0xFFFF0000), "F32", "BF16"),
        (words_in(VALUES.astype(np.float16), "F32"), "F32", "F16"),
        (words_in(VALUES, "F64"), "F64", "F32"),
        (words_in(VALUES, "BF16"), "BF16", "BF16"),
        (through("Q8_0"), "F32", "Q8_0"),
        (through("Q4_0"), "F32", "Q4_0"),
        (through("Q5_1"), "F32", "Q5_1"),
        (np.zeros((64, 256), np.uint32), "F32", None),
    ],
)
def test_types(tmp_path, words, type, expected):
    got = chosen(tmp_path, words, type)
    assert expected in (None, got.to)
    assert got.changes == (got.to != type)
    assert (got.nbytes < words.nbytes) == got.changes


@pytest.mark.parametrize(
    ("name", "keep", "expected"), [("a_norm.weight", True, "F32"), ("a_norm.weight", False, "BF16")]
)
def test_what_llama_cpp_wants_in_f32_stays(tmp_path, name, keep, expected):
    words = words_in(VALUES, "F32") & np.uint32(0xFFFF0000)
    got = chosen(tmp_path, words, name=name, rules=Rules(False, keep_f32=keep))
    assert (got.to, got.wanted) == (expected, not keep)


def test_one_value_that_keeps_a_tensor_wide_is_named(tmp_path):
    words = words_in(VALUES, "F32") & np.uint32(0xFFFF0000)
    words.flat[777] |= 1
    got = chosen(tmp_path, words)
    assert (got.to, got.stray.to, got.stray.at, got.stray.exceptions) == ("F32", "BF16", 777, 1)
    assert got.stray.value == pytest.approx(words.view(np.float32).flat[777])
    blocks = through("Q8_0").copy()
    blocks.flat[999] = np.float32(0.0123456).view(np.uint32)
    got = chosen(tmp_path, blocks)
    assert (got.to, got.stray.to, got.stray.at, got.stray.unit) == ("F32", "Q8_0", 999, "blocks")


def test_a_value_beyond_fp16_is_named_and_nothing_warns(tmp_path):
    words = words_in(VALUES.astype(np.float16), "F32")
    words.flat[12] = np.float32(1e6).view(np.uint32)
    got = chosen(tmp_path, words)
    assert (got.to, got.stray.to, got.stray.at, got.stray.value) == ("F32", "F16", 12, 1e6)


@pytest.mark.parametrize("to", ["F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_what_is_kept_comes_back_bit_for_bit(to):
    words = grid("F32")
    kept = is_kept(words, "F32", to)
    values = values_of(words[kept], "F32")
    assert kept.any()
    if to in ("F16", "BF16"):
        again = values_of(words_in(values, to), to)
        assert np.array_equal(again, values, equal_nan=True)
        lost = values_of(words[~kept], "F32")
        with np.errstate(over="ignore"):
            differ = values_of(words_in(lost, to), to) != lost
        assert (differ | np.isnan(lost)).all()
    if to == "F32":
        assert kept.all()


@pytest.mark.parametrize(("values", "size"), [(0, 1), (1, 1), (300_000, 1), (300_000, 32), (1 << 18, 256)])
def test_spans_are_of_whole_blocks(values, size):
    values = values // size * size
    got = list(spans(values, size))
    assert sum(count for _, count in got) == values
    assert all(first % size == count % size == 0 for first, count in got)


def test_words_that_the_file_does_not_align(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"x" + np.arange(8, dtype="<u4").tobytes())
    tensor = Tensor("a", "F32", (8,), 1, 32, 8)
    from truebits.files.mapping import MappedFile

    with MappedFile(path) as file:
        got = own_words(file, tensor, 2, 5)
        assert (got.tolist(), got.flags.aligned) == ([2, 3, 4, 5, 6], True)
        assert singles(file, tensor, 2, 5).tolist() == got.tolist()


def test_a_choice_says_what_it_takes():
    tensor = Tensor("a", "F32", (32, 2), 0, 256, 64)
    assert (Choice(tensor, "F32").nbytes, Choice(tensor, "F32").blocks) == (256, None)
    assert (Choice(tensor, "Q8_0").nbytes, Choice(tensor, "Q8_0").blocks) == (68, 2)
    assert (Choice(tensor, "BF16").nbytes, Choice(tensor, "BF16").blocks) == (128, None)
