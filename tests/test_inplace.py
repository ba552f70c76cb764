import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import truebits as tb
from gguf_bytes import U16, alignment, key_value, scalar, tensor
from gguf_bytes import gguf as gguf_bytes
from models import model_bytes, names
from stopping import SMALL_BLOCK, stopped
from truebits.errors import Refused, Unfinished, VerificationFailed
from truebits.files.mapping import FileChanged
from truebits.files.model import open_model
from truebits.rewriting import copy as rewrite
from truebits.rewriting import durable
from truebits.rewriting.beside import marker_path
from truebits.rewriting.inplace import ALLOWANCES, locked
from truebits.rewriting.marker import read_marker, set_marker
from truebits.rewriting.truncate import Cut
from words import assert_same_bits, mixed

F32, F16, Q8_0 = 0, 1, 8
BITS = 16
TOP_HALF = np.uint32(0xFFFF0000)


def example(cut=False, seed=0, sizes=(5000, 1001), keys=()):
    """A model with every kind of neighbour around its F32 tensors; no value is NaN, so a cut is a mask."""
    generator = np.random.default_rng(seed)
    arrays = [generator.normal(size=size).astype(np.float32).view(np.uint32) for size in sizes]
    first, second = [words & TOP_HALF if cut else words for words in arrays]
    return model_bytes(
        [
            ("quantized", Q8_0, 640, generator.bytes(680)),
            ("first", F32, first.size, first.tobytes()),
            ("half", F16, 33, generator.bytes(66)),
            ("second", F32, second.size, second.tobytes()),
            ("last", Q8_0, 64, generator.bytes(68)),
        ],
        keys,
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(example())
    return path


def truncate(path, **arguments):
    return tb.truncate(path, in_place=True, **{"bits": BITS, **arguments})


def assert_same_file(got, expected):
    assert_same_bits(np.frombuffer(got, np.uint8), np.frombuffer(expected, np.uint8))


def assert_untouched(path, before, *others):
    assert path.read_bytes() == before
    assert names(path.parent) == sorted([path.name, *others])


def interrupt(monkeypatch, path, writes=2, **arguments):
    """Begin a rewrite and stop it: what is left is neither the old file nor the new one."""
    with stopped(monkeypatch, path, writes), pytest.raises(Unfinished) as caught:
        truncate(path, **arguments)
    assert path.read_bytes() not in (example(), example(cut=True))
    return caught.value


# --- what it changes


@pytest.mark.parametrize("undo_file", [None, "undo"])
def test_only_selected_values_change(path, small_blocks, undo_file):
    before = path.stat()
    got = truncate(path, undo_file=undo_file and path.with_name(undo_file))
    assert got.written
    assert_same_file(path.read_bytes(), example(cut=True))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mode) == (before.st_ino, before.st_size, before.st_mode)
    assert names(path.parent) == ["model.gguf", *["undo"] * bool(undo_file)]


def test_short_writes(path, small_blocks, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: write(fd, data[:1000], offset))
    truncate(path, undo_file=path.with_name("undo"))
    assert_same_file(path.read_bytes(), example(cut=True))
    tb.undo(path, path.with_name("undo"))
    assert_same_file(path.read_bytes(), example())


def test_chunks_that_do_not_change_are_not_written(tmp_path, small_blocks, monkeypatch):
    path = tmp_path / "model.gguf"
    words = np.zeros(4 * SMALL_BLOCK, np.uint32)
    words[2500] = 0x3F800001
    path.write_bytes(model_bytes([("t", F32, words.size, words.tobytes())]))
    write, written = os.pwrite, []
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: written.append((at, len(data))) or write(fd, data, at))
    truncate(path)
    value = open_model(path).tensors[0].offset + 4 * 2500
    on_model = [(at, length) for at, length in written if at]
    assert len(on_model) == 1
    assert on_model[0][0] <= value < sum(on_model[0])
    assert on_model[0][1] <= SMALL_BLOCK


# --- refusals


@pytest.fixture
def elsewhere():
    """Run code in another process, on a file, until the test ends."""
    with contextlib.ExitStack() as stack:

        def call(code, path):
            program = f"import fcntl, os, struct, sys\npath = sys.argv[1]\n{code}\nprint(flush=True)\nsys.stdin.read()"
            command = [sys.executable, "-c", program, path]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.enter_context(child)
            assert child.stdout.readline() == b"\n"

        yield call


@pytest.fixture
def symlink(path):
    link = path.with_name("link.gguf")
    link.symlink_to(path)
    return link


def test_symlink(path, symlink):
    with pytest.raises(Refused, match="--allow symlink") as caught:
        truncate(symlink)
    assert caught.value.exit_code == 5
    assert_untouched(path, example(), "link.gguf")
    truncate(symlink, allow=["symlink"])
    assert symlink.is_symlink()
    assert_untouched(path, example(cut=True), "link.gguf")


def test_hard_link(path):
    other = path.with_name("other.gguf")
    other.hardlink_to(path)
    with pytest.raises(Refused, match="--allow hardlink"):
        truncate(path)
    assert_untouched(path, example(), "other.gguf")
    truncate(path, allow=["hardlink"])
    assert path.samefile(other)
    assert_untouched(path, example(cut=True), "other.gguf")


@pytest.mark.parametrize(
    "place",
    [
        "hub/models--org--name/snapshots/0123abcd/model.gguf",
        "hub/models--org--name/blobs/0123456789abcdef",
        ".ollama/models/blobs/sha256-0123456789abcdef",
        "models/blobs/sha256:0123456789abcdef",
        "docker/models/bundles/sha256/0123/model.gguf",
    ],
)
def test_model_cache(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_bytes(example())
    with pytest.raises(Refused, match="--allow cache"):
        truncate(path)
    assert_untouched(path, example())
    truncate(path, allow=["cache"])
    assert_untouched(path, example(cut=True))


def test_link_into_a_model_cache_needs_both_flags(path, tmp_path):
    blob = tmp_path / "hub/models--org--name/blobs/0123"
    blob.parent.mkdir(parents=True)
    path.rename(blob)
    path.symlink_to(blob)
    for allow in ([], ["symlink"], ["cache"], ["symlink", "hardlink", "open", "layout"]):
        with pytest.raises(Refused):
            truncate(path, allow=allow)
    assert_untouched(blob, example())
    truncate(path, allow=["symlink", "cache"])
    assert_untouched(blob, example(cut=True))


def test_folder_that_only_looks_like_a_cache(tmp_path):
    path = tmp_path / "models--mine" / "snapshot" / "model.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(example())
    assert truncate(path).written


MAP_AND_CLOSE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
file = os.open(path, os.O_RDONLY)
mapped = libc.mmap(None, ctypes.c_size_t(4096), 1, 2, file, ctypes.c_long(0))
assert mapped != ctypes.c_void_p(-1).value
os.close(file)
"""


@pytest.mark.parametrize(
    "code",
    ["file = os.open(path, os.O_RDONLY)", "file = os.open(path, os.O_WRONLY)", MAP_AND_CLOSE],
    ids=["reads", "writes", "maps"],
)
def test_file_open_in_another_process(path, elsewhere, code):
    elsewhere(code, path)
    with pytest.raises(Refused, match="--allow open"):
        truncate(path, undo_file=path.with_name("undo"))
    assert_untouched(path, example())
    truncate(path, allow=["open"])
    assert_untouched(path, example(cut=True))


@pytest.mark.parametrize(
    "code",
    [
        "fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_SH)",
        "fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)",
        "fcntl.fcntl(os.open(path, os.O_RDWR), 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))",
        "fcntl.fcntl(os.open(path, os.O_RDWR), 37, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 0, 0, 0))",
        "fcntl.lockf(os.open(path, os.O_RDWR), fcntl.LOCK_EX)",
    ],
    ids=["flock, shared", "flock", "OFD", "OFD, shared", "POSIX"],
)
def test_lock_of_another_process(path, elsewhere, code):
    """37 is F_OFD_SETLK. No flag overrides a lock."""
    elsewhere(code, path)
    with pytest.raises(Refused, match="locked by another process"):
        truncate(path, undo_file=path.with_name("undo"), allow=ALLOWANCES)
    assert_untouched(path, example())


def test_second_writer_is_refused(path):
    part = open_model(path).parts[0]
    with locked(part, set()), pytest.raises(Refused, match="locked"):
        truncate(path, allow=["open"])
    assert_untouched(path, example())
    truncate(path)


def test_file_that_changed_since_its_header_was_read(path):
    part = open_model(path).parts[0]
    os.utime(path, ns=(1, 1))
    with pytest.raises(FileChanged), locked(part, set()):
        pytest.fail("it was locked")


def test_unaligned_values(tmp_path):
    """No flag overrides this one: a crash could leave half a value. A new file can be written."""
    path, words = tmp_path / "model.gguf", np.full(8, 0x3F812345, np.uint32)
    infos = [tensor(b"a", (1,), F16), tensor(b"w", (8,), F32, 2)]
    before = gguf_bytes([alignment(2)], infos, bytes(2) + words.tobytes(), aligned=2)
    path.write_bytes(before)
    assert open_model(path).tensors[1].offset % 4 == 2
    for allow in ([], ALLOWANCES):
        with pytest.raises(Refused, match="write a new file"):
            truncate(path, allow=allow)
        assert_untouched(path, before)
    tb.truncate(path, tmp_path / "out.gguf", bits=BITS)
    assert (tmp_path / "out.gguf").read_bytes() == before.replace(words.tobytes(), (words & TOP_HALF).tobytes())


def test_allowances_may_come_from_an_iterator(path, symlink):
    assert truncate(symlink, allow=iter(["symlink"])).written


# --- the marker


def test_interrupted(path, small_blocks, monkeypatch):
    got = interrupt(monkeypatch, path)
    assert got.exit_code == 6
    assert isinstance(got.__cause__, KeyboardInterrupt)
    assert "run the same again" in str(got)
    assert "undo" not in str(got)
    assert names(path.parent) == ["model.gguf", "model.gguf.truebits-unfinished"]
    assert open_model(path).types == {"Q8_0": 2, "F32": 2, "F16": 1}


def test_interrupted_with_an_undo_file_says_how_to_undo(path, small_blocks, monkeypatch):
    got = interrupt(monkeypatch, path, undo_file=path.with_name("undo"))
    assert f"truebits undo {path} --undo-file {path.with_name('undo')}" in str(got)


@pytest.mark.parametrize("writes", [0, 1, 3, 6])
def test_running_again_finishes(path, small_blocks, monkeypatch, writes):
    interrupt(monkeypatch, path, writes)
    truncate(path)
    assert_untouched(path, example(cut=True))


def test_running_again_and_again_finishes(path, small_blocks, monkeypatch):
    for writes in (1, 0, 2):
        interrupt(monkeypatch, path, writes)
    truncate(path)
    assert_untouched(path, example(cut=True))


def test_finishing_where_all_was_written_but_not_verified(path, small_blocks, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail_on(path, OSError(errno.EIO, "I/O error"), os.fsync))
        with pytest.raises(Unfinished, match="I/O error"):
            truncate(path)
    assert_untouched(path, example(cut=True), marker_path(path).name)
    assert truncate(path).changed == 0
    assert_untouched(path, example(cut=True))


def fail_on(path, error, call):
    """Let `call` fail on the file at `path`, by descriptor."""

    def failing(descriptor, *arguments):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            raise error
        return call(descriptor, *arguments)

    return failing


@pytest.mark.parametrize("arguments", [{"bits": 8}, {"bits": 17}, {"select": "first"}])
@pytest.mark.parametrize("undo_file", [None, "undo"])
def test_marker_of_another_rewrite(path, small_blocks, monkeypatch, arguments, undo_file):
    interrupt(monkeypatch, path)
    before, marker = path.read_bytes(), marker_path(path).read_bytes()
    with pytest.raises(Unfinished) as caught:
        truncate(path, undo_file=undo_file and path.with_name(undo_file), **arguments)
    assert caught.value.exit_code == 6
    assert '"bits": 16' in str(caught.value)
    assert_untouched(path, before, marker_path(path).name)
    assert marker_path(path).read_bytes() == marker


def test_a_marker_of_another_rewrite_names_it(path):
    marker_path(path).write_bytes(b'{"operation": 1}')
    with pytest.raises(Unfinished, match="another rewrite in place was left unfinished: 1; run that again"):
        truncate(path)
    assert_untouched(path, example(), marker_path(path).name)


def test_marker_that_is_no_file(path):
    marker = marker_path(path)
    for make in (os.mkfifo, os.mkdir, lambda marker: marker.symlink_to("elsewhere")):
        make(marker)
        with pytest.raises((OSError, Refused)):
            truncate(path)
        assert_untouched(path, example(), marker.name)
        marker.rmdir() if marker.is_dir() else marker.unlink()
    truncate(path)


@pytest.mark.parametrize("length", [235, 236, 250, 255])
def test_long_names(path, small_blocks, monkeypatch, length):
    path = path.rename(path.with_name("x" * length))
    interrupt(monkeypatch, path)
    assert len(names(path.parent)) == 2
    with pytest.raises(Unfinished):
        truncate(path, bits=8)
    truncate(path)
    assert_untouched(path, example(cut=True))


def test_two_long_names_have_two_markers(tmp_path):
    assert marker_path(tmp_path / ("x" * 250)) != marker_path(tmp_path / ("x" * 249 + "y"))


@pytest.mark.parametrize(("has_nameless_files", "has_links"), [(True, True), (True, False), (False, True)])
def test_a_marker_is_whole_and_alone(tmp_path, monkeypatch, has_nameless_files, has_links):
    opening = os.open

    def refuse_link(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def open_named(path, flags, *arguments, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE and not has_nameless_files:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return opening(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", open_named)
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_link)
    path = tmp_path / "model.gguf"
    for record in ({"operation": 1}, {"operation": 2}):  # the second finds one
        set_marker(path, record)
        assert read_marker(path) == {"operation": 1}
        assert names(tmp_path) == [marker_path(path).name]


def test_a_marker_that_gets_no_name_leaves_nothing(tmp_path, monkeypatch):
    """As after a kill just before it."""
    monkeypatch.setattr(os, "link", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        set_marker(tmp_path / "model.gguf", {"operation": 1})
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_where_no_marker_can_be_made_nothing_is_unfinished(path, monkeypatch, error):
    undo_file = path.with_name("undo")

    def fail(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(durable, "give_name", fail)
        with pytest.raises(type(error)):
            truncate(path, undo_file=undo_file)
    assert_untouched(path, example())
    truncate(path, undo_file=undo_file)
    with monkeypatch.context() as patched:
        patched.setattr(durable, "give_name", fail)
        with pytest.raises(type(error)):
            tb.undo(path, undo_file)
    assert_untouched(path, example(cut=True), "undo")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_a_marker_that_cannot_be_read_says_what_to_do(path, content):
    marker_path(path).write_bytes(content)
    with pytest.raises(Unfinished, match="cannot be read: undo it with its undo file; without one, remove the marker"):
        truncate(path)
    assert_untouched(path, example(), marker_path(path).name)


def test_rewrite_begun_through_a_symlink_is_found_through_the_file(path, symlink, small_blocks, monkeypatch):
    interrupt(monkeypatch, symlink, allow=["symlink"])
    before = path.read_bytes()
    with pytest.raises(Unfinished):
        truncate(path, bits=8)
    assert path.read_bytes() == before
    truncate(path)
    assert_untouched(path, example(cut=True), "link.gguf")


def test_a_long_list_of_tensors_fits_the_marker(tmp_path, small_blocks, monkeypatch):
    path, undo_file = tmp_path / "model.gguf", tmp_path / "undo"
    words = np.full(8, 0x3F812345, np.uint32)
    listed = [(f"{i}" + "x" * 60_000, F32, 8, words.tobytes()) for i in range(20)]
    before = model_bytes(listed)
    path.write_bytes(before)
    with stopped(monkeypatch, path, 2), pytest.raises(Unfinished):
        truncate(path, undo_file=undo_file, allow=["layout"])
    assert len(read_marker(path)["operation"]["tensors"]) == 20
    tb.undo(path, undo_file)
    assert_untouched(path, before, "undo")


class Events:
    """Records, through the functions of `os`, what happens to files: (what, inode), in order."""

    def __init__(self, monkeypatch, *watched):
        self.found, self.watched = [], watched
        for name in ("pwrite", "write", "fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self.recording(name, getattr(os, name)))

    def recording(self, name, call):
        def recorded(descriptor, *arguments):
            inode = os.fstat(descriptor).st_ino
            for watch in self.watched:
                watch(name, inode)
            self.found.append((name, inode))
            return call(descriptor, *arguments)

        return recorded


def test_marker_and_old_bits_are_on_disk_before_anything_is_overwritten(path, small_blocks, monkeypatch):
    model, marker, undo_file = path.stat().st_ino, marker_path(path), path.with_name("undo")
    folder = path.parent.stat().st_ino
    log_sizes = []

    def watch(name, inode):
        if (name, inode) == ("pwrite", model):
            before = events.found
            if ("pwrite", model) not in before:
                assert json.loads(marker.read_bytes())["operation"]["bits"] == BITS
                synced = before.index(("fsync", marker.stat().st_ino))
                assert ("fsync", folder) in before[synced:]
                created = before.index(("fsync", undo_file.stat().st_ino))
                assert ("fsync", folder) in before[created:]
            on_log = [what for what, where in before if where == undo_file.stat().st_ino]
            assert on_log[-2:] == ["pwrite", "fdatasync"]
            log_sizes.append(undo_file.stat().st_size)
        if (name, inode) == ("fsync", model):
            assert marker.exists()

    events = Events(monkeypatch, watch)
    truncate(path, undo_file=undo_file)
    assert len(log_sizes) > 5
    assert log_sizes == sorted(set(log_sizes))
    on_model = [what for what, where in events.found if where == model]
    assert on_model[-1] == "fsync"
    assert events.found[-1] == ("fsync", folder)
    assert not marker.exists()


def not_verified(*_):
    raise VerificationFailed("not as planned")


def test_marker_goes_after_verification(path, small_blocks, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Cut, "check_written", not_verified)
        with pytest.raises(VerificationFailed, match="not as planned"):
            truncate(path)
    assert marker_path(path).exists()


# --- shard sets


@pytest.fixture
def shards(tmp_path):
    paths = [tmp_path / f"set-0000{number + 1}-of-00002.gguf" for number in range(2)]
    for number, shard in enumerate(paths):
        keys = [key_value(b"split.no", U16, scalar(U16, number)), key_value(b"split.count", U16, scalar(U16, 2))]
        words = mixed(5000, number)
        words = np.where((words & 0x7F800000) == 0x7F800000, 0, words).astype(np.uint32)
        shard.write_bytes(model_bytes([(f"t{number}", F32, words.size, words.tobytes())], keys))
    return paths


@pytest.mark.parametrize("code", ["file = os.open(path, 0)", "fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_SH)"])
def test_all_shards_are_locked_before_the_first_is_written(shards, elsewhere, code):
    before = [shard.read_bytes() for shard in shards]
    elsewhere(code, shards[1])
    with pytest.raises(Refused, match="set-00002-of-00002"):
        truncate(shards[0])
    assert [shard.read_bytes() for shard in shards] == before
    assert names(shards[0].parent) == [shard.name for shard in shards]


@pytest.mark.parametrize("number", [0, 1])
def test_interrupted_shard_set(shards, small_blocks, monkeypatch, number):
    before, undo_file = [shard.read_bytes() for shard in shards], shards[0].with_name("undo")
    expected = shards[0].with_name("new") / shards[0].name
    expected.parent.mkdir()
    tb.truncate(shards[0], expected, bits=BITS)
    with stopped(monkeypatch, shards[number], 2), pytest.raises(Unfinished):
        truncate(shards[0], undo_file=undo_file)
    assert all(marker_path(shard).exists() for shard in shards)
    with pytest.raises(Unfinished):
        truncate(shards[0], bits=8)
    truncate(shards[1], undo_file=undo_file)
    assert [shard.read_bytes() for shard in shards] == [
        expected.read_bytes(),
        (expected.parent / shards[1].name).read_bytes(),
    ]
    tb.undo(shards[0], undo_file)
    assert [shard.read_bytes() for shard in shards] == before
    assert not any(marker_path(shard).exists() for shard in shards)


# --- a full disk


def fill(folder):
    """Leave no byte free on the disk of `folder`; return the file that takes the room."""
    filler = folder / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))
    return filler


def test_full_disk_does_not_stop_a_rewrite_for_ever(tiny_disk):
    """The marker cannot be written: nothing is; with room, running again does all."""
    path = tiny_disk / "model.gguf"
    path.write_bytes(example())
    filler = fill(tiny_disk)
    with pytest.raises((OSError, Unfinished)):
        truncate(path)
    assert path.read_bytes() == example()
    filler.unlink()
    truncate(path)
    assert_untouched(path, example(cut=True))


def test_no_room_for_the_undo_files_head(path, tiny_disk):
    filler, descriptors = fill(tiny_disk), len(names(Path("/proc/self/fd")))
    with pytest.raises((OSError, Unfinished)):
        truncate(path, undo_file=tiny_disk / "undo")
    assert len(names(Path("/proc/self/fd"))) == descriptors
    assert path.read_bytes() == example()
    filler.unlink()
    truncate(path, undo_file=tiny_disk / "undo")
    assert path.read_bytes() == example(cut=True)
    tb.undo(path, tiny_disk / "undo")
    assert path.read_bytes() == example()
    assert names(path.parent) == ["model.gguf", "tiny"]


@pytest.mark.parametrize("then", ["finish", "undo"])
def test_undo_file_fills_the_disk(path, tiny_disk, monkeypatch, then):
    monkeypatch.setattr(rewrite, "BLOCK_BYTES", 1 << 16)
    sizes, undo_file = (1 << 19, 1001), tiny_disk / "undo"
    before, expected = example(sizes=sizes), example(cut=True, sizes=sizes)
    path.write_bytes(before)
    with pytest.raises(Unfinished, match=os.strerror(errno.ENOSPC)):
        truncate(path, undo_file=undo_file)
    assert path.read_bytes() not in (before, expected)
    if then == "finish":
        subprocess.run(["mount", "-o", "remount,size=8M", tiny_disk], check=True)
        truncate(path, undo_file=undo_file)
        assert_same_file(path.read_bytes(), expected)
        assert not marker_path(path).exists()
    tb.undo(path, undo_file)
    assert_same_file(path.read_bytes(), before)
    assert not marker_path(path).exists()


# --- killed at any system call

KILLED_AT_EACH_CALL = """
import os, shutil, signal, sys
from pathlib import Path
import truebits as tb
from truebits.rewriting import copy as rewrite
from truebits.errors import TruebitsError
from truebits.rewriting.beside import marker_path

rewrite.BLOCK_BYTES = 4096
folder, undo_name, what = Path(sys.argv[1]), sys.argv[2] or None, sys.argv[3]
before, expected = (folder / "before").read_bytes(), (folder / "expected").read_bytes()
CALLS = ["open", "write", "pwrite", "ftruncate", "fsync", "fdatasync", "rename", "replace", "link", "unlink", "close"]

def truncate(at):
    tb.truncate(at / "model.gguf", bits=16, in_place=True, undo_file=undo_name and at / undo_name)

def undo(at):
    tb.undo(at / "model.gguf", at / undo_name)

def die_at(path, number):
    seen = 0
    def dying(name, call):
        def called(*arguments, **keywords):
            nonlocal seen
            seen += 1
            if seen == number:
                if name == "pwrite" and os.path.samestat(os.fstat(arguments[0]), path.stat()):
                    call(arguments[0], arguments[1][: len(arguments[1]) // 8 * 4], arguments[2])
                real_write(1, f"{number} {name}: ".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **keywords)
        return called
    real_write = os.write
    for name in CALLS:
        setattr(os, name, dying(name, getattr(os, name)))

def check(what, condition):
    if not condition:
        raise AssertionError(what)

def is_mixture(data):
    words = [memoryview(x)[: len(x) // 4 * 4].cast("I") for x in (data, before, expected)]
    return len(data) == len(before) and all(a in (b, c) for a, b, c in zip(*words))

def check_state(at):
    path = at / "model.gguf"
    data = path.read_bytes()
    check("a value is neither old nor new", is_mixture(data))
    if what == "truncate":
        again = at.with_name("again")
        shutil.copytree(at, again)
        truncate(again)
        check("running again does not finish it", (again / "model.gguf").read_bytes() == expected)
        check("the marker stays", not marker_path(again / "model.gguf").exists())
        shutil.rmtree(again)
    if undo_name is None:
        return
    try:
        undo(at)
    except (TruebitsError, FileNotFoundError) as error:
        check(f"it cannot be undone: {error}", data == before and not marker_path(path).exists())
    check("undo does not restore it", path.read_bytes() == before)
    check("the marker stays", not marker_path(path).exists())

for number in range(1, 1000):
    at = folder / "at"
    shutil.rmtree(at, ignore_errors=True)
    shutil.rmtree(folder / "again", ignore_errors=True)
    at.mkdir()
    (at / "model.gguf").write_bytes(before)
    if what == "undo":
        truncate(at)
    child = os.fork()
    if not child:
        die_at(at / "model.gguf", number)
        (undo if what == "undo" else truncate)(at)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        print("survived", number)
        break
    try:
        check("not killed", os.WIFSIGNALED(status))
        check_state(at)
        print("fine", flush=True)
    except (AssertionError, TruebitsError, OSError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


@pytest.mark.parametrize(("undo_name", "what"), [("", "truncate"), ("undo", "truncate"), ("undo", "undo")])
def test_killed_at_any_system_call(tmp_path, undo_name, what):
    """A process that dies leaves what running again finishes and what undo takes back."""
    (tmp_path / "before").write_bytes(example(sizes=(3000, 101)))
    (tmp_path / "expected").write_bytes(example(cut=True, sizes=(3000, 101)))
    command = [sys.executable, "-c", KILLED_AT_EACH_CALL, tmp_path, undo_name, what]
    got = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    *lines, last = got.stdout.splitlines()
    assert (got.returncode, last.split()[0]) == (0, "survived"), got.stderr
    assert len(lines) > 20
    assert [line for line in lines if not line.endswith(": fine")] == []


# --- killed at any moment

KILLED_AT_ANY_MOMENT = """
import os, sys, time
import truebits as tb

path, undo_file, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
write = os.pwrite

def pwrite(descriptor, data, offset):
    if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
        return write(descriptor, data, offset)
    written = write(descriptor, data[: 1 << 20], offset)
    print("writing", flush=True)
    time.sleep(pause)
    return written

os.pwrite = pwrite
print("started", flush=True)
tb.truncate(path, bits=16, in_place=True, undo_file=undo_file)
"""

PAUSE = 0.01


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model of 64 MiB, with its bytes before and after as words."""
    folder = tmp_path_factory.mktemp("large")
    path = folder / "model.gguf"
    sizes = (14_500_000, 2_200_000)
    old, new = (np.frombuffer(example(cut, 1, sizes), np.uint32) for cut in (False, True))
    path.write_bytes(old.tobytes())
    assert path.stat().st_size > 63 << 20
    yield SimpleNamespace(path=path, undo_file=folder / "undo", old=old, new=new, folder=folder)
    shutil.rmtree(folder)


def rewriting(large):
    """Start a rewrite in another process."""
    command = [sys.executable, "-c", KILLED_AT_ANY_MOMENT, large.path, large.undo_file, str(PAUSE)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_at(large, wait_for, delay):
    """Start a rewrite in another process, kill it `delay` seconds after it says `wait_for`; check what is left.

    Returns
    -------
    bool
        It was killed among its writes.
    """
    with rewriting(large) as child:
        if f"{wait_for}\n" in iter(child.stdout.readline, ""):
            time.sleep(delay)
        child.kill()
        child.communicate()
    assert child.returncode in (0, -signal.SIGKILL)
    assert open_model(large.path).types == {"Q8_0": 2, "F32": 2, "F16": 1}
    got = np.fromfile(large.path, np.uint32)
    assert got.shape == large.old.shape
    is_new = got == large.new
    wrong = np.flatnonzero(~is_new & (got != large.old))
    assert not wrong.size, f"{wrong.size} words are neither old nor new, the first at byte {4 * wrong[0]}"
    marked = marker_path(large.path).exists()
    assert marked or is_new.all() or (got == large.old).all()
    return marked and not is_new.all() and not (got == large.old).all()


RECOVERIES = ("finish", "undo", "again", "finish", "again", "undo")
"""What comes after each kill, in turn; again is another kill."""


def kill_and_recover(large, delays, wait_for):
    """Kill once for each delay and finish it, undo it or kill it again. Return how many kills hit a write."""
    hits = 0
    for delay, recovery in zip(delays, itertools.cycle(RECOVERIES), strict=False):
        hits += kill_at(large, wait_for, delay)
        if recovery == "again":
            continue
        if recovery == "finish":
            truncate(large.path, undo_file=large.undo_file)
            assert_same_bits(np.fromfile(large.path, np.uint32), large.new)
            assert not marker_path(large.path).exists()
        if large.undo_file.exists():
            tb.undo(large.path, large.undo_file)
        assert_same_bits(np.fromfile(large.path, np.uint32), large.old)
        large.undo_file.unlink(missing_ok=True)
        assert names(large.folder) == ["model.gguf"]
    return hits


def test_killed_while_writing(large):
    draw = random.Random(8)
    assert kill_and_recover(large, [draw.uniform(0, 0.5) for _ in range(8)], "writing") >= 6


@pytest.mark.slow
def test_killed_while_writing_often(large):
    draw = random.Random(60)
    assert kill_and_recover(large, [draw.uniform(0, 0.9) for _ in range(60)], "writing") >= 40


@pytest.mark.slow
def test_killed_at_any_time_often(large):
    draw = random.Random(61)
    with rewriting(large) as child:
        child.stdout.readline()
        begun = time.monotonic()
        child.communicate()
        whole = time.monotonic() - begun  # as long as it takes here
    tb.undo(large.path, large.undo_file)
    large.undo_file.unlink()
    assert kill_and_recover(large, [draw.uniform(0, whole) for _ in range(60)], "started") >= 10
