import os
import pickle
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from gguf_bytes import STRING, U8, key_value, named_tensors, string, tensor
from gguf_bytes import gguf as gguf_bytes
from truebits import errors
from truebits.files.model import open_model

NAMES = ("token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.1.attn_norm.weight")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(named_tensors(NAMES, [key_value(b"general.architecture", STRING, string(b"llama"))]))
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
    path.write_bytes(named_tensors(("\x1b[31m",)))
    with pytest.raises(errors.SelectionError) as caught:
        open_model(path).select("absent\u202e", None)
    assert str(caught.value).isprintable()
