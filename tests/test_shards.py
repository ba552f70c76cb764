"""The files of one model."""

import gguf
import numpy as np
import pytest

from gguf_bytes import STRING, key_value, named_tensors, split_keys, string
from models import finish
from truebits import errors
from truebits.files.model import open_model
from truebits.files.shards import shard_names

NAMES = ("token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.1.attn_norm.weight")


def write_shards(folder, contents, stem="model"):
    """Write one shard per tuple of tensor names; return their paths."""
    paths = []
    for number, names in enumerate(contents):
        path = folder / f"{stem}-{number + 1:05d}-of-{len(contents):05d}.gguf"
        path.write_bytes(named_tensors(names, split_keys(number, len(contents), sum(map(len, contents)))))
        paths.append(path)
    return paths


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(named_tensors(NAMES, [key_value(b"general.architecture", STRING, string(b"llama"))]))
    return path


CONTENTS = (("token_embd.weight",), ("blk.0.attn_norm.weight", "blk.0.attn_q.weight"), ("output.weight",))


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_shard_opens_the_set(tmp_path, opened):
    paths = write_shards(tmp_path, CONTENTS)
    model = open_model(paths[opened])
    got = [(t.name, t.part) for t in model.tensors]
    assert got == [(name, number) for number, names in enumerate(CONTENTS) for name in names]
    assert [part.path for part in model.parts] == paths
    assert model.path == paths[opened]
    assert model.value("split.no") == 0
    assert model.size == sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize("opened", [0, 2])
def test_shards_written_by_gguf(tmp_path, opened):
    """`small_first_shard` writes a first shard that holds no tensors."""
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama", split_max_tensors=2, small_first_shard=True)
    for name in NAMES:
        writer.add_tensor(name, np.ones((2, 8), np.float32))
    finish(writer)
    model = open_model(sorted(tmp_path.iterdir())[opened])
    assert [(t.name, t.part) for t in model.tensors] == list(zip(NAMES, (1, 1, 2, 2), strict=True))
    assert [len(part.header.tensors) for part in model.parts] == [0, 2, 2]
    assert [part.findings for part in model.parts] == [(), (), ()]
    assert model.value("general.architecture") == "llama"
    assert model.value("split.tensors.count") == 4


def test_first_shard_may_hold_no_tensors(tmp_path):
    paths = write_shards(tmp_path, ((), ("a",), ("b",)))
    assert [(t.name, t.part) for t in open_model(paths[0]).tensors] == [("a", 1), ("b", 2)]


def test_linked_shards(tmp_path):
    """The Hugging Face cache: links with the right names to files named by their hash."""
    paths = write_shards(tmp_path, CONTENTS)
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for number, path in enumerate(paths):
        (folder / path.name).symlink_to(path.rename(tmp_path / f"blob{number}"))
    assert len(open_model(folder / paths[1].name).tensors) == 4


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_missing_shard_is_named(tmp_path, missing):
    paths = write_shards(tmp_path, CONTENTS)
    paths[missing].unlink()
    with pytest.raises(errors.BadShardSet) as caught:
        open_model(paths[(missing + 1) % 3])
    got = caught.value
    assert (got.code, got.exit_code) == ("E_SHARD", 3)
    assert paths[missing].name in str(got)
    assert f"{missing + 1} of 3" in str(got)


def test_missing_shard_is_named_printably(tmp_path):
    paths = write_shards(tmp_path, CONTENTS, stem="\x1b[31mred\u202e")
    paths[1].unlink()
    with pytest.raises(errors.BadShardSet) as caught:
        open_model(paths[0])
    assert str(caught.value).isprintable()


def test_opening_a_missing_shard_is_a_missing_file(tmp_path):
    paths = write_shards(tmp_path, CONTENTS)
    paths[1].unlink()
    with pytest.raises(FileNotFoundError):
        open_model(paths[1])


@pytest.mark.parametrize("odd", [0, 1, 2])
@pytest.mark.parametrize("opened", [0, 1, 2])
def test_count_of_one_shard_disagrees(tmp_path, odd, opened):
    paths = write_shards(tmp_path, CONTENTS)
    paths[odd].write_bytes(named_tensors(CONTENTS[odd], split_keys(odd, 4)))
    with pytest.raises(errors.BadShardSet) as caught:
        open_model(paths[opened])
    got = caught.value
    assert got.path == paths[odd]
    assert "split.count is 4" in got.message
    assert "3" in got.message
    assert paths[odd].read_bytes()[got.offset : got.offset + 2] == b"\4\0"


def test_number_of_a_shard_disagrees(tmp_path):
    paths = write_shards(tmp_path, CONTENTS)
    paths[1].write_bytes(named_tensors(CONTENTS[1], split_keys(2, 3)))
    with pytest.raises(errors.BadShardSet, match=r"split\.no is 2, expected 1") as caught:
        open_model(paths[0])
    assert caught.value.path == paths[1]
    assert paths[1].read_bytes()[caught.value.offset : caught.value.offset + 2] == b"\2\0"


def test_shard_without_split_keys(tmp_path):
    paths = write_shards(tmp_path, CONTENTS)
    paths[2].write_bytes(named_tensors(CONTENTS[2]))
    for opened in paths:
        with pytest.raises(errors.BadShardSet, match=r"split\.count is None") as caught:
            open_model(opened)
        assert caught.value.path == paths[2]


def test_renamed_shard(tmp_path):
    paths = write_shards(tmp_path, CONTENTS)
    renamed = paths[1].rename(tmp_path / "second.gguf")
    with pytest.raises(errors.BadShardSet, match=r"split\.count is 3") as caught:
        open_model(renamed)
    assert "00001-of-" in caught.value.message


@pytest.mark.parametrize("number", [0, 4])
def test_shard_numbered_outside_the_set(tmp_path, number):
    """A fourth of three is no part of the model: opening it must not give the other three."""
    write_shards(tmp_path, CONTENTS)
    path = tmp_path / f"model-{number:05d}-of-00003.gguf"
    path.write_bytes(named_tensors(("stray",), split_keys(3, 3)))
    with pytest.raises(errors.BadShardSet):
        open_model(path)


@pytest.mark.parametrize("keys", [(), split_keys(0, 1)])
def test_one_of_one_is_a_file(tmp_path, keys):
    path = tmp_path / "model-00001-of-00001.gguf"
    path.write_bytes(named_tensors(("a",), keys))
    assert len(open_model(path).parts) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_split_count_of_a_single_file(path, count):
    path.write_bytes(named_tensors(("a",), split_keys(0, count)))
    assert len(open_model(path).parts) == 1


@pytest.mark.parametrize("opened", [0, 2])
def test_duplicate_tensor_across_shards(tmp_path, opened):
    paths = write_shards(tmp_path, (("a",), ("b",), ("c", "a")))
    with pytest.raises(errors.DuplicateTensor) as caught:
        open_model(paths[opened])
    got = caught.value
    assert (got.code, got.path) == ("E_DUP_TENSOR", paths[2])
    assert "tensor a" in got.message
    assert paths[0].name in got.message
    assert 0 <= got.offset <= paths[2].stat().st_size


def test_duplicate_tensor_across_shards_is_printable(tmp_path):
    paths = write_shards(tmp_path, (("a",), ("a",)), stem="\x1b[31mred")
    with pytest.raises(errors.DuplicateTensor) as caught:
        open_model(paths[0])
    assert str(caught.value).isprintable()


def test_malformed_shard_is_named(tmp_path):
    paths = write_shards(tmp_path, CONTENTS)
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    with pytest.raises(errors.OutOfBounds) as caught:
        open_model(paths[0])
    assert caught.value.path == paths[1]


def test_empty_shard_is_named(tmp_path):
    paths = write_shards(tmp_path, CONTENTS)
    paths[1].write_bytes(b"")
    with pytest.raises(errors.EmptyFile) as caught:
        open_model(paths[0])
    assert caught.value.path == paths[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m-00001-of-00002.gguf", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]),
        ("m-00002-of-00002.gguf", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]),
        ("m-00001-of-00001.gguf", ["m-00001-of-00001.gguf"]),
        ("m-00001-of-00000.gguf", []),
        ("m-1-of-2.gguf", ["m-1-of-2.gguf"]),
        ("m-00001-of-00002.gguf.bak", ["m-00001-of-00002.gguf.bak"]),
        ("-00001-of-00002.gguf", ["-00001-of-00002.gguf", "-00002-of-00002.gguf"]),
        ("m.gguf", ["m.gguf"]),
    ],
)
def test_names_of_shards(name, expected):
    assert shard_names(name) == expected
