"""What a model says of itself against what is in it."""

import gguf
import pytest

from gguf_bytes import ARRAY, BOOL, I32, STRING, U32, array, key_value, scalar, string, tensor
from gguf_bytes import gguf as gguf_bytes
from safetensors_bytes import safetensors
from truebits.files.claims import FILE_TYPES, label_of, missing_blocks
from truebits.files.model import open_model
from truebits.files.types import BY_NAME


def number(key: str, value: int) -> bytes:
    return key_value(key.encode(), U32, scalar(U32, value))


def text(key: str, value: str) -> bytes:
    return key_value(key.encode(), STRING, string(value.encode()))


def model_of(path, keys, sizes):
    """Open a GGUF whose matrices have so many rows of 256 values by type; a norm comes with them."""
    infos, at = [], 0
    for i, (type, rows) in enumerate(sizes):
        block = BY_NAME[type]
        infos.append(tensor(b"blk.%d.w" % i, (256, rows), block.number, at))
        at += -(-256 // block.values * block.nbytes * rows // 32) * 32
    infos.append(tensor(b"norm", (256,), 0, at))
    path.write_bytes(gguf_bytes(keys, infos, bytes(at + 1024)))
    return open_model(path)


def test_file_types_against_gguf():
    expected = {kind.value: kind.name.split("_", 1)[1] for kind in gguf.LlamaFileType if kind.name != "GUESSED"}
    assert expected == FILE_TYPES


@pytest.mark.parametrize(
    ("name", "file_type", "sizes", "label", "words"),
    [
        ("x.gguf", 15, [("Q4_K", 60), ("Q6_K", 20)], "Q4_K_M", None),
        (
            "x.gguf",
            15,
            [("Q5_0", 60), ("Q4_K", 10)],
            "Q4_K_M",
            "labelled Q4_K_M, but 88 % of",
        ),
        ("x.gguf", 15, [("Q8_0", 60), ("Q4_K", 9)], "Q4_K_M", "93 % of the matrices' bytes are Q8_0"),
        ("x.gguf", 15, [("Q6_K", 60)], "Q4_K_M", "100 % of the matrices' bytes are Q6_K"),
        ("x.gguf", 10, [("Q6_K", 60), ("Q2_K", 60)], "Q2_K", None),
        ("x.gguf", 27, [("IQ3_S", 60), ("Q4_K", 20)], "IQ3_M", None),
        ("x.gguf", 38, [("MXFP4", 60), ("Q8_0", 20)], "MXFP4_MOE", None),
        ("x.gguf", 1, [("F16", 60)], "F16", None),
        ("x.gguf", 1024 + 1, [("F16", 60)], "F16", None),
        ("x.gguf", 1, [("BF16", 60)], "F16", "are BF16"),
        ("x-Q4_K_M.gguf", None, [("Q4_K", 60)], "Q4_K_M", None),
        ("llama-3-8b.UD-Q4_K_XL.gguf", 15, [("Q4_K", 60)], "Q4_K_M", None),
        ("x-q8_0.gguf", None, [("Q4_K", 60)], "Q8_0", "are Q4_K"),
        ("x-Q8_0.gguf", 15, [("Q4_K", 60)], "Q4_K_M", "the file's name says Q8_0"),
        ("mmproj-model-f16.gguf", None, [("F16", 60)], "F16", None),
    ],
)
def test_label(tmp_path, name, file_type, sizes, label, words):
    keys = [] if file_type is None else [number("general.file_type", file_type)]
    got = label_of(model_of(tmp_path / name, keys, sizes))
    assert got is not None
    assert got.name == label
    assert (got.contradiction is None) == (words is None), got.contradiction
    assert words is None or words in got.contradiction


@pytest.mark.parametrize("name", ["model.gguf", "Qwen2.5-Q.gguf", "seq4_kv.gguf"])
@pytest.mark.parametrize("keys", [[], [number("general.file_type", 999)], [text("general.file_type", "Q8_0")]])
def test_no_label(tmp_path, name, keys):
    assert label_of(model_of(tmp_path / name, keys, [("Q4_K", 4)])) is None


def test_a_label_says_nothing_of_types_nobody_can_read(tmp_path):
    """BitNet's own file types have numbers that llama.cpp gave to others later."""
    path = tmp_path / "bitnet.gguf"
    infos = [tensor(b"w", (256, 4), 36)]
    path.write_bytes(gguf_bytes([number("general.file_type", 40)], infos, bytes(320)))
    assert label_of(open_model(path)).contradiction is None


@pytest.mark.parametrize(("dtype", "words"), [("bfloat16", None), ("float32", "labelled F32, but 100 %")])
def test_label_of_a_checkpoint(tmp_path, dtype, words):
    (tmp_path / "model.safetensors").write_bytes(safetensors({"w": ("BF16", (2, 2), bytes(8))}))
    (tmp_path / "config.json").write_text(f'{{"torch_dtype": "{dtype}"}}')
    got = label_of(open_model(tmp_path))
    assert (got.contradiction or "").startswith(words or "")
    assert (got.contradiction is None) == (words is None)


LLAMA = text("general.architecture", "llama")


@pytest.mark.parametrize(
    ("keys", "names", "expected"),
    [
        ([LLAMA, number("llama.block_count", 2)], ["blk.0.a", "blk.1.a"], None),
        ([LLAMA, number("llama.block_count", 2)], ["blk.0.a"], (1, "blk.1")),
        ([LLAMA, number("llama.block_count", 2)], ["blk.1.a", "x.blk.0.a"], (1, "blk.0")),
        ([LLAMA, number("llama.block_count", 2**32 - 1)], ["blk.1.a"], (2**32 - 2, "blk.0")),
        ([LLAMA, number("llama.block_count", 2)], [], None),
        ([LLAMA], ["blk.5.a"], None),
        ([LLAMA, text("llama.block_count", "2")], ["blk.5.a"], None),
        ([LLAMA, key_value(b"llama.block_count", BOOL, b"\1")], ["a"], None),
        ([LLAMA, number("llama.block_count", 2), text("general.type", "adapter")], ["blk.0.a"], None),
        ([number("llama.block_count", 2)], ["blk.0.a"], None),
        ([text("general.architecture", "t5"), number("t5.block_count", 1), number("t5.decoder_block_count", 2)],
         ["enc.blk.0.a", "dec.blk.0.a"], (1, "dec.blk.1")),
        ([text("general.architecture", "clip"), text("general.type", "mmproj"), number("clip.vision.block_count", 2)],
         ["v.blk.0.a"], (1, "v.blk.1")),
    ],
)  # fmt: skip
def test_missing_blocks(tmp_path, keys, names, expected):
    path = tmp_path / "model.gguf"
    infos = [tensor(name.encode(), (1,), 24, 32 * i) for i, name in enumerate(names)]
    path.write_bytes(gguf_bytes(keys, infos, bytes(32 * len(names))))
    got = missing_blocks(open_model(path))
    assert (got and got[:2]) == expected


def test_the_message_tells_of_blocks_for_later_tokens(tmp_path):
    keys = [LLAMA, number("llama.block_count", 3), number("llama.nextn_predict_layers", 1)]
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(keys, [tensor(b"blk.%d.a" % i, (1,), 24, 32 * i) for i in range(2)], bytes(64)))
    expected = "block_count is 3 (nextn_predict_layers 1), but blk.2 has no tensor: llama.cpp will not load it"
    assert missing_blocks(open_model(path)).message == expected


def test_blocks_that_do_nothing_have_no_tensors(tmp_path):
    """Nemotron's: neither heads nor a feed-forward part."""
    lengths = array(I32, [scalar(I32, n) for n in (4, 0, 4)])
    keys = [LLAMA, number("llama.block_count", 3)]
    keys += [key_value(b"llama." + key, ARRAY, lengths) for key in (b"attention.head_count", b"feed_forward_length")]
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(keys, [tensor(b"blk.%d.a" % i, (1,), 24, 16 * i) for i in (0, 2)], bytes(64)))
    assert missing_blocks(open_model(path)) is None
