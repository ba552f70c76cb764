import os
import pickle
import shutil
import signal
import tempfile
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_bytes import I32, STRING, U8, U16, key_value, scalar, string, tensor
from gguf_bytes import gguf as gguf_bytes
from truebits import errors
from truebits.files.mapping import FileChanged, MappedFile
from truebits.files.model import open_model
from truebits.files.tensor import Tensor

NAMES = ("token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.1.attn_norm.weight")


def file_of(names, keys=()):
    infos = [tensor(name.encode(), offset=32 * i) for i, name in enumerate(names)]
    return gguf_bytes(list(keys), infos, bytes(32 * len(names)))


def split_keys(number, count, total=0):
    return [
        key_value(b"split.no", U16, scalar(U16, number)),
        key_value(b"split.count", U16, scalar(U16, count)),
        key_value(b"split.tensors.count", I32, scalar(I32, total)),
    ]


def write_shards(folder, contents, stem="model"):
    """Write one shard per tuple of tensor names; return their paths."""
    paths = []
    for number, names in enumerate(contents):
        path = folder / f"{stem}-{number + 1:05d}-of-{len(contents):05d}.gguf"
        path.write_bytes(file_of(names, split_keys(number, len(contents), sum(map(len, contents)))))
        paths.append(path)
    return paths


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(file_of(NAMES, [key_value(b"general.architecture", STRING, string(b"llama"))]))
    return path


@pytest.fixture
def within_5_seconds():
    """Fail, rather than hang, where opening blocks."""

    def too_late(*_):
        pytest.fail("opening blocks")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# --- one file


def test_open_model(path):
    model = open_model(path)
    assert tuple(t.name for t in model.tensors) == NAMES
    assert {t.part for t in model.tensors} == {0}
    assert [part.path for part in model.parts] == [path]
    assert model.path == path
    assert model.size == path.stat().st_size
    assert model.types == {"F32": 4}
    assert model.value("general.architecture") == "llama"
    assert model.value("absent") is None


def test_path_may_be_a_string(path):
    assert open_model(str(path)).tensors == open_model(path).tensors


def test_types_come_most_frequent_first(tmp_path):
    path = tmp_path / "model.gguf"
    infos = [tensor(b"a", type_id=1), tensor(b"b", offset=32), tensor(b"c", offset=64)]
    path.write_bytes(gguf_bytes([], infos, bytes(96)))
    assert list(open_model(path).types.items()) == [("F32", 2), ("F16", 1)]


def test_missing_path(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        open_model(tmp_path / "absent.gguf")
    assert str(tmp_path / "absent.gguf") in str(caught.value)


def test_dangling_symlink(tmp_path):
    (tmp_path / "link.gguf").symlink_to(tmp_path / "absent.gguf")
    with pytest.raises(FileNotFoundError):
        open_model(tmp_path / "link.gguf")


def test_folder(tmp_path):
    with pytest.raises(IsADirectoryError):
        open_model(tmp_path)


def test_fifo_does_not_block(tmp_path, within_5_seconds):
    os.mkfifo(tmp_path / "fifo.gguf")
    with pytest.raises(OSError, match="not a regular file"):
        open_model(tmp_path / "fifo.gguf")


def test_device(within_5_seconds):
    with pytest.raises(OSError, match="not a regular file"):
        open_model("/dev/zero")


def test_unreadable(path):
    """Root may read everything: the test gives that up for as long as it opens."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        unreadable = Path(shutil.copy(path, folder))
        unreadable.chmod(0)
        os.seteuid(user or 65_534)
        try:
            with pytest.raises(PermissionError) as caught:
                open_model(unreadable)
        finally:
            os.seteuid(user)
    assert caught.value.filename == str(unreadable)


def test_symlink(path, tmp_path):
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    model = open_model(link)
    assert model.path == link
    assert tuple(t.name for t in model.tensors) == NAMES


def test_limits_are_keyword_arguments(path):
    with pytest.raises(errors.LimitExceeded):
        open_model(path, max_tensors=3)


def test_no_descriptor_leaks(path, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        open_model(path)
        with pytest.raises(errors.ModelFileError):
            open_model(tmp_path / "bad.gguf")
        with pytest.raises(IsADirectoryError):
            open_model(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_errors_survive_another_process(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(errors.HeaderTruncated) as caught:
        open_model(tmp_path / "bad.gguf")
    got = pickle.loads(pickle.dumps(caught.value))
    assert (type(got), str(got), got.offset) == (errors.HeaderTruncated, str(caught.value), 4)


# --- the file changes


def test_map_gives_the_file(path):
    (part,) = open_model(path).parts
    with part.map() as file:
        assert file.data[:] == path.read_bytes()
        file.check()


def test_file_grew_between_open_and_map(path):
    (part,) = open_model(path).parts
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(FileChanged):
        part.map()


def test_file_of_the_same_size_was_written_between_open_and_map(path):
    (part,) = open_model(path).parts
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(FileChanged):
        part.map()


def test_file_was_replaced_between_open_and_map(path, tmp_path):
    (part,) = open_model(path).parts
    status = path.stat()
    other = tmp_path / "other.gguf"
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    with pytest.raises(FileChanged) as caught:
        part.map()
    assert str(path) in str(caught.value)


def test_file_written_while_mapped(path):
    with MappedFile(path) as file:
        file.check()
        with path.open("ab") as other:
            other.write(b"\0")
        with pytest.raises(FileChanged):
            file.check()


def test_file_gone_between_open_and_map(path):
    (part,) = open_model(path).parts
    path.unlink()
    with pytest.raises(FileNotFoundError):
        part.map()


# --- shard sets

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
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
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
    paths[odd].write_bytes(file_of(CONTENTS[odd], split_keys(odd, 4)))
    with pytest.raises(errors.BadShardSet) as caught:
        open_model(paths[opened])
    got = caught.value
    assert got.path == paths[odd]
    assert "split.count is 4" in got.message
    assert "3" in got.message
    assert paths[odd].read_bytes()[got.offset : got.offset + 2] == b"\4\0"


def test_number_of_a_shard_disagrees(tmp_path):
    paths = write_shards(tmp_path, CONTENTS)
    paths[1].write_bytes(file_of(CONTENTS[1], split_keys(2, 3)))
    with pytest.raises(errors.BadShardSet, match=r"split\.no is 2, expected 1") as caught:
        open_model(paths[0])
    assert caught.value.path == paths[1]
    assert paths[1].read_bytes()[caught.value.offset : caught.value.offset + 2] == b"\2\0"


def test_shard_without_split_keys(tmp_path):
    paths = write_shards(tmp_path, CONTENTS)
    paths[2].write_bytes(file_of(CONTENTS[2]))
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
    path.write_bytes(file_of(("stray",), split_keys(3, 3)))
    with pytest.raises(errors.BadShardSet):
        open_model(path)


@pytest.mark.parametrize("keys", [(), split_keys(0, 1)])
def test_one_of_one_is_a_file(tmp_path, keys):
    path = tmp_path / "model-00001-of-00001.gguf"
    path.write_bytes(file_of(("a",), keys))
    assert len(open_model(path).parts) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_split_count_of_a_single_file(path, count):
    path.write_bytes(file_of(("a",), split_keys(0, count)))
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


# --- selection


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, None, NAMES),
        ([], [], NAMES),
        ("norm", None, (NAMES[1], NAMES[3])),
        (r"^blk\.0\.", None, (NAMES[1], NAMES[2])),
        (["token", "attn_q"], None, (NAMES[0], NAMES[2])),
        (["attn_q", "token"], None, (NAMES[0], NAMES[2])),
        (None, "blk", (NAMES[0],)),
        (None, ["norm", "token"], (NAMES[2],)),
        ("blk", r"blk\.1", (NAMES[1], NAMES[2])),
        (iter(["norm"]), iter([r"\.0\."]), (NAMES[3],)),
    ],
)
def test_select(path, include, exclude, expected):
    got = open_model(path).select(include, exclude)
    assert tuple(t.name for t in got) == expected


@pytest.mark.parametrize(
    ("include", "exclude"), [("absent", None), (None, "."), ("norm", "norm"), (["a^", "b^"], None)]
)
def test_selection_that_matches_nothing(path, include, exclude):
    with pytest.raises(errors.SelectionError) as caught:
        open_model(path).select(include, exclude)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    for regex in filter(None, [*([include] if isinstance(include, str) else include or []), exclude]):
        assert repr(regex) in message
    assert NAMES[0] in message


@pytest.mark.parametrize("regex", ["(", "[", "*", "(?P<a>"])
def test_malformed_regex(path, regex):
    for arguments in ((regex, None), (None, regex), (["norm", regex], None)):
        with pytest.raises(errors.SelectionError) as caught:
            open_model(path).select(*arguments)
        assert caught.value.exit_code == 2
        assert repr(regex) in str(caught.value)


def test_selecting_everything_of_nothing(path):
    path.write_bytes(gguf_bytes([key_value(b"k", U8, b"\1")]))
    assert open_model(path).select(None, None) == ()
    with pytest.raises(errors.SelectionError):
        open_model(path).select("a", None)


def test_selection_message_is_printable(path):
    path.write_bytes(file_of(("\x1b[31m",)))
    with pytest.raises(errors.SelectionError) as caught:
        open_model(path).select("absent\u202e", None)
    assert str(caught.value).isprintable()


# --- names


@pytest.mark.parametrize(
    ("name", "role", "group"),
    [
        ("blk.3.attn_norm.weight", "attn_norm", "blk.*.attn_norm.weight"),
        ("blk.31.ffn_down.weight", "ffn_down", "blk.*.ffn_down.weight"),
        ("blk.0.ffn_gate_inp.weight", "ffn_gate_inp", "blk.*.ffn_gate_inp.weight"),
        ("blk.0.attn_q.bias", "attn_q", "blk.*.attn_q.bias"),
        ("blk.1.ssm_a", "ssm_a", "blk.*.ssm_a"),
        ("output_norm.weight", "output_norm", "output_norm.weight"),
        ("token_embd.weight", "token_embd", "token_embd.weight"),
        ("v.blk.7.ln1.bias", "ln1", "v.blk.*.ln1.bias"),
        ("rope_freqs.weight", "rope_freqs", "rope_freqs.weight"),
        (
            "model.layers.12.self_attn.q_proj.weight",
            "self_attn.q_proj",
            "model.layers.*.self_attn.q_proj.weight",
        ),
        (
            "model.layers.3.mlp.experts.7.down_proj.weight",
            "down_proj",
            "model.layers.*.mlp.experts.*.down_proj.weight",
        ),
        ("model.embed_tokens.weight", "model.embed_tokens", "model.embed_tokens.weight"),
        ("lm_head.weight", "lm_head", "lm_head.weight"),
        ("", "", ""),
    ],
)
def test_role_and_group(name, role, group):
    got = Tensor(name, "F32", (8,), 0, 32, 8)
    assert (got.role, got.group) == (role, group)
