import contextlib
import errno
import fcntl
import itertools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import truebits as tb
from gguf_bytes import U16, key_value, scalar, tensor
from gguf_bytes import gguf as gguf_bytes
from truebits.errors import Refused, UsageError, VerificationFailed
from truebits.files.mapping import FileChanged
from truebits.files.model import open_model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.rewriting import durable
from truebits.rewriting import outputs as outputs_module
from truebits.rewriting.copy import BLOCK_BYTES, check_copy, digest, flush_and_verify, others, pieces, write_copy
from truebits.rewriting.durable import FICLONE, write_all
from truebits.rewriting.outputs import NewFile, new_files, outputs

TOP_HALF = np.uint32(0xFFFF0000)


def model_bytes(contents, keys=()):
    """Return a GGUF file of (name, type id, values, bytes) tensors, each padded to 32 bytes."""
    infos, data = [], b""
    for name, type_id, values, content in contents:
        infos.append(tensor(name, (values,), type_id, len(data)))
        data += content + bytes(-len(content) % 32)
    return gguf_bytes(list(keys), infos, data)


def example(cut=False):
    """A model of 5 small blocks: odd sizes, a tensor that no change is needed in, quantized ones around."""
    random = np.random.default_rng(5)
    norm = random.integers(0, 1 << 32, 1001, np.uint32)
    weights = random.integers(0, 1 << 32, 2003, np.uint32)
    exact = random.integers(0, 1 << 16, 1500, np.uint32) << np.uint32(16)
    if cut:
        norm, weights = norm & TOP_HALF, weights & TOP_HALF
    return model_bytes(
        [
            (b"first", 8, 640, random.bytes(680)),
            (b"norm", 0, 1001, norm.tobytes()),
            (b"exact", 0, 1500, exact.tobytes()),
            (b"middle", 8, 320, random.bytes(340)),
            (b"weights", 0, 2003, weights.tobytes()),
            (b"last", 8, 640, random.bytes(680)),
        ]
    )


def cut_to_top_half(piece, words):
    changed = int(np.count_nonzero(words & ~TOP_HALF))
    words &= TOP_HALF
    return changed


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(example())
    return path


def f32(model):
    return [tensor for tensor in model.tensors if tensor.type == "F32"]


def copied(path, change=cut_to_top_half):
    """Copy a model with `change`; return the copy's bytes, the count and the progress."""
    model, out, steps = open_model(path), path.with_name("out.gguf"), []
    with new_files([out]) as (file,):
        changed = write_copy(model.parts[0], file.descriptor, f32(model), change, steps.append)
    return out.read_bytes(), changed, steps


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def raising(number):
    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


# --- a new file


def test_new_file_has_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new"
    with new_files([path]) as (file,):
        write_all(file.descriptor, b"half", 0)
        assert not path.exists()
        write_all(file.descriptor, b"whole", 4)
    assert path.read_bytes() == b"halfwhole"
    assert names(tmp_path) == ["new"]


def test_new_file_is_on_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    events, fsync, link = [], os.fsync, os.link
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda fd: (events.append(("fsync", os.fstat(fd).st_ino)), fsync(fd)))
        patched.setattr(os, "link", lambda *paths, **how: (events.append("named"), link(*paths, **how)))
        with new_files([tmp_path / "new"]) as (file,):
            write_all(file.descriptor, b"x", 0)
    expected = [("fsync", (tmp_path / "new").stat().st_ino), "named", ("fsync", tmp_path.stat().st_ino)]
    assert events == expected


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_mode_of_a_new_file_is_the_umasks(tmp_path, umask, expected):
    before = os.umask(umask)
    try:
        with new_files([tmp_path / "new"]):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o7777 == expected


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o444, 0o755])
def test_mode_of_a_replaced_file_stays(tmp_path, mode):
    path = tmp_path / "old"
    path.write_bytes(b"old")
    path.chmod(mode)
    with new_files([path], force=True) as (file,):
        write_all(file.descriptor, b"new", 0)
    assert path.stat().st_mode & 0o7777 == mode
    assert path.read_bytes() == b"new"


def test_existing_file_is_refused(tmp_path):
    path = tmp_path / "old"
    path.write_bytes(b"old")
    with pytest.raises(Refused, match="--force"), new_files([path]):
        pytest.fail("the body ran")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["old"]


def test_dangling_symlink_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(Refused), new_files([tmp_path / "link"]):
        pytest.fail("the body ran")
    assert names(tmp_path) == ["link"]


def test_file_that_appears_meanwhile_is_refused(tmp_path):
    path = tmp_path / "new"
    with pytest.raises(Refused), new_files([path]):
        path.write_bytes(b"somebody else's")
    assert path.read_bytes() == b"somebody else's"
    assert names(tmp_path) == ["new"]


def test_force_replaces_a_symlink_and_not_what_it_points_to(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"target")
    link.symlink_to(target)
    with new_files([link], force=True) as (file,):
        write_all(file.descriptor, b"new", 0)
    assert (target.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"target", b"new", False)


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("force", [False, True])
def test_error_leaves_nothing_behind(tmp_path, error, force):
    path = tmp_path / "new"
    if force:
        path.write_bytes(b"old")
    with pytest.raises(error), new_files([path], force) as (file,):  # noqa: PT012
        write_all(file.descriptor, b"half", 0)
        raise error
    assert names(tmp_path) == ["new"] * force
    assert not force or path.read_bytes() == b"old"


def test_failed_fsync_is_final(tmp_path, monkeypatch):
    calls = []

    def fail(descriptor):
        calls.append(descriptor)
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="I/O error"), new_files([tmp_path / "new"]):
            pass
    assert len(calls) == 1
    assert names(tmp_path) == []


def test_failed_fsync_while_verifying_is_raised(monkeypatch):
    monkeypatch.setattr(os, "fsync", raising(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        flush_and_verify([0], lambda: None)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.ENOSYS])
def test_where_nothing_can_be_renamed_the_destination_is_not_touched(tmp_path, monkeypatch, number):
    path = tmp_path / "old"
    path.write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", raising(number))
        with pytest.raises(OSError, match=os.strerror(number)), new_files([path], force=True) as (file,):
            write_all(file.descriptor, b"new", 0)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize("name", ["x" * 250, "ü" * 125, "x" * 255])
def test_long_names(tmp_path, name):
    with new_files([tmp_path / name]) as (file,):
        write_all(file.descriptor, b"x", 0)
    assert names(tmp_path) == [name]


def test_name_that_is_too_long_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="too long"), new_files([tmp_path / ("x" * 256)]):
        pass
    assert names(tmp_path) == []


@pytest.fixture(params=["nameless", "named"])
def names_of_outputs(request, monkeypatch):
    """Write as where every file can be nameless at first, and as where none can."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE")
    return request.param


def test_where_no_file_can_be_nameless_it_has_a_provisional_name(tmp_path, names_of_outputs):
    path = tmp_path / "new"
    with new_files([path]) as (file,):
        write_all(file.descriptor, b"whole", 0)
        assert len(names(tmp_path)) == (names_of_outputs == "named")
        assert [left.parent for left in durable.left_behind()] == [tmp_path] * (names_of_outputs == "named")
    assert (path.read_bytes(), names(tmp_path), durable.left_behind()) == (b"whole", ["new"], [])


@pytest.mark.parametrize("has_renameat2", [True, False])
def test_a_name_that_appears_in_the_last_moment_is_not_replaced(tmp_path, monkeypatch, names_of_outputs, has_renameat2):
    """Between the look and the naming."""
    path = tmp_path / "new"
    monkeypatch.setattr(outputs_module, "check_absent", lambda *_: None)
    if not has_renameat2:
        monkeypatch.setattr(durable, "_c", lambda: None)
    with pytest.raises(Refused, match="appeared meanwhile"), new_files([path]):
        path.write_bytes(b"somebody else's")
    assert path.read_bytes() == b"somebody else's"
    assert names(tmp_path) == ["new"]


def test_of_a_set_that_cannot_be_named_whole_nothing_stays(tmp_path, names_of_outputs):
    paths = [tmp_path / name for name in "abc"]
    with pytest.raises(Refused), new_files(paths):
        paths[2].write_bytes(b"somebody else's")
    assert names(tmp_path) == ["c"]


def test_a_nameless_file_that_cannot_be_linked_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", raising(errno.EPERM))
    path = tmp_path / "new"
    with new_files([path]) as (file,):
        write_all(file.descriptor, b"whole", 0)
    assert (path.read_bytes(), names(tmp_path)) == (b"whole", ["new"])


def test_temporary_file_follows_no_link(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f".{bytes(6).hex()}.truebits").symlink_to(victim)
    monkeypatch.setattr(os, "urandom", bytes)
    with pytest.raises(FileExistsError), new_files([tmp_path / "new"]):
        pytest.fail("the body ran")
    assert victim.read_bytes() == b"precious"


SLOW_TRUNCATE = """
import os, sys, time
import truebits as tb
def pwrite(*arguments):
    print("writing", flush=True)
    time.sleep(1)
    return write(*arguments)
write, os.pwrite = os.pwrite, pwrite
tb.truncate(sys.argv[1], sys.argv[2], bits=16)
"""


def test_ctrl_c_leaves_nothing_behind(path):
    command = [sys.executable, "-c", SLOW_TRUNCATE, path, path.with_name("out.gguf")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "writing\n"
        assert names(path.parent) == ["model.gguf"]
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
    assert names(path.parent) == ["model.gguf"]
    assert path.read_bytes() == example()


# --- where the output goes


def test_output_of_one_file(path):
    assert outputs(open_model(path), path.with_name("out.gguf")) == [path.with_name("out.gguf")]


@pytest.mark.parametrize("kind", ["same", "dot", "up", "symlink", "hardlink", "relative"])
def test_output_that_is_the_input_is_refused(path, kind, monkeypatch):
    monkeypatch.chdir(path.parent)
    (path.parent / "folder").mkdir()
    (path.parent / "symlink").symlink_to(path)
    (path.parent / "hardlink").hardlink_to(path)
    out = {
        "same": path,
        "dot": path.parent / "." / path.name,
        "up": path.parent / "folder" / ".." / path.name,
        "relative": path.relative_to(path.parent),
    }.get(kind, path.parent / kind)
    with pytest.raises(UsageError, match="--in-place"):
        outputs(open_model(path), out)


def write_shards(folder, count):
    paths = [folder / f"set-{number + 1:05d}-of-{count:05d}.gguf" for number in range(count)]
    for number, shard in enumerate(paths):
        keys = [key_value(b"split.no", U16, scalar(U16, number)), key_value(b"split.count", U16, scalar(U16, count))]
        shard.write_bytes(model_bytes([(b"t%d" % number, 0, 8, bytes(32))], keys))
    return paths


def test_outputs_of_a_shard_set(tmp_path):
    model = open_model(write_shards(tmp_path, 3)[1])
    expected = [tmp_path / f"new-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert outputs(model, expected[0]) == expected


@pytest.mark.parametrize("name", ["new.gguf", "new-00001-of-00002.gguf", "new-1-of-3.gguf", "new-00001-of-00003"])
def test_output_of_a_shard_set_is_named_like_one(tmp_path, name):
    with pytest.raises(UsageError, match="NAME-00001-of-00003"):
        outputs(open_model(write_shards(tmp_path, 3)[0]), tmp_path / name)


def test_one_of_the_outputs_is_one_of_the_inputs(tmp_path):
    shards = write_shards(tmp_path, 3)
    (tmp_path / "new-00002-of-00003.gguf").hardlink_to(shards[2])
    with pytest.raises(UsageError, match="new-00002-of-00003"):
        outputs(open_model(shards[0]), tmp_path / "new-00001-of-00003.gguf")


# --- pieces


def joined(found):
    """Join (start, stop) ranges that touch."""
    ranges = []
    for start, stop in found:
        if ranges and ranges[-1][1] == start:
            ranges[-1][1] = stop
        else:
            ranges.append([start, stop])
    return [tuple(pair) for pair in ranges]


def test_pieces_end_at_multiples_of_the_block():
    norm = Tensor("norm", "F32", (4,), 96, 16, 4)
    long = Tensor("long", "F32", (), 128, 3 * BLOCK_BYTES, 0)
    got = [(piece.tensor.name, piece.start, piece.stop) for piece in pieces([long, norm])]
    expected = [
        ("norm", 96, 112),
        ("long", 128, BLOCK_BYTES),
        ("long", BLOCK_BYTES, 2 * BLOCK_BYTES),
        ("long", 2 * BLOCK_BYTES, 3 * BLOCK_BYTES),
        ("long", 3 * BLOCK_BYTES, 3 * BLOCK_BYTES + 128),
    ]
    assert got == expected


def test_empty_tensor_has_no_piece():
    assert list(pieces([Tensor("empty", "F32", (0,), 96, 0, 0)])) == []


@settings(max_examples=200, deadline=None)
@given(
    start=st.integers(0, 3 * BLOCK_BYTES),
    values=st.integers(0, 2 * BLOCK_BYTES),
    type=st.sampled_from(sorted(FLOAT_BYTES)),
    near=st.integers(-16, 16),
)
def test_pieces_cover_a_tensor_in_whole_values(start, values, type, near):
    """At any byte offset: GGUF can align tensors to 1 or 2 bytes, so a value can lie across a block's end."""
    item = FLOAT_BYTES[type]
    if near % 2:
        start = max(0, start - start % BLOCK_BYTES + near)
    tensor = Tensor("t", type, (values,), start, values * item, values)
    most = values * item // BLOCK_BYTES + 2
    found = list(itertools.islice(pieces([tensor]), most + 1))
    assert len(found) <= most, f"{len(found)} pieces, the last is {found[-1].start} to {found[-1].stop}"
    assert joined((piece.start, piece.stop) for piece in found) == [(start, start + values * item)] * (values > 0)
    for piece in found:
        assert piece.stop > piece.start
        assert (piece.stop - piece.start) % item == 0
        assert piece.stop - piece.start < BLOCK_BYTES + item
        assert start % item or piece.stop % BLOCK_BYTES == 0 or piece is found[-1]


def test_tensor_across_a_block_that_no_value_ends_at():
    tensor = Tensor("t", "F32", (2,), BLOCK_BYTES - 2, 8, 2)
    found = list(itertools.islice(pieces([tensor]), 3))
    assert joined((piece.start, piece.stop) for piece in found) == [(BLOCK_BYTES - 2, BLOCK_BYTES + 6)]


# --- copy with changes


def test_copy(path, small_blocks):
    got, changed, steps = copied(path)
    before, after = (np.frombuffer(data, np.uint8) for data in (example(), example(cut=True)))
    assert got == example(cut=True)
    assert changed == 1001 + 2003
    assert changed >= np.count_nonzero(before != after) / 2
    assert sum(steps) == len(got)
    assert path.read_bytes() == example()


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def test_copy_without_copy_file_range(path, small_blocks, monkeypatch, number):
    monkeypatch.setattr(os, "copy_file_range", raising(number))
    assert copied(path)[:2] == (example(cut=True), 3004)


@pytest.mark.parametrize("most", [0, 1000])
def test_copy_file_range_that_copies_little(path, small_blocks, monkeypatch, most):
    copy = os.copy_file_range
    monkeypatch.setattr(os, "copy_file_range", lambda a, b, n, *at: copy(a, b, min(n, most), *at) if most else 0)
    assert copied(path)[:2] == (example(cut=True), 3004)


def test_failing_copy_file_range_is_an_error(path, monkeypatch):
    monkeypatch.setattr(os, "copy_file_range", raising(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        copied(path)
    assert names(path.parent) == ["model.gguf"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV])
def test_copy_where_room_cannot_be_reserved(path, small_blocks, monkeypatch, number):
    monkeypatch.setattr(os, "posix_fallocate", raising(number))
    monkeypatch.setattr(os, "copy_file_range", raising(errno.EXDEV))
    assert copied(path)[:2] == (example(cut=True), 3004)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_found_out_before_anything_is_written(path, monkeypatch, number):
    monkeypatch.setattr(os, "posix_fallocate", raising(number))
    monkeypatch.setattr(os, "pwrite", lambda *_: pytest.fail("something was written"))
    monkeypatch.setattr(os, "copy_file_range", lambda *_: pytest.fail("something was written"))
    with pytest.raises(OSError, match=os.strerror(number)):
        copied(path)
    assert names(path.parent) == ["model.gguf"]


def test_short_writes(path, small_blocks, monkeypatch):
    write, calls = os.pwrite, []
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: calls.append(at) or write(fd, data[:1000], at))
    monkeypatch.setattr(os, "copy_file_range", raising(errno.EXDEV))
    assert copied(path)[:2] == (example(cut=True), 3004)
    assert len(calls) >= len(example()) / 1000


def clone(descriptor, request, source):
    """Do what FICLONE does, where the file system can."""
    assert request == FICLONE
    os.write(descriptor, os.pread(source, os.fstat(source).st_size, 0))


def test_clone_writes_only_what_changes(path, small_blocks, monkeypatch):
    write, written = os.pwrite, []
    monkeypatch.setattr(fcntl, "ioctl", clone)
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: pytest.fail("a clone has its room"))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: written.append((at, at + len(data))) or write(fd, data, at))
    got, changed, steps = copied(path)
    assert (got, changed, sum(steps)) == (example(cut=True), 3004, len(got))
    tensors = {tensor.name: tensor for tensor in open_model(path).tensors}
    expected = [(t.offset, t.offset + t.nbytes) for t in (tensors["norm"], tensors["weights"])]
    assert joined(written) == expected


@pytest.mark.parametrize("kind", ["touched", "longer", "other bytes"])
def test_source_that_changes_meanwhile(path, kind):
    def change(piece, words):
        if kind == "touched":
            os.utime(path, ns=(0, 0))
        elif kind == "longer":
            with path.open("ab") as file:
                file.write(b"x")
        else:
            with path.open("r+b") as file:
                file.seek(100)
                file.write(b"x")
            os.utime(path, ns=(1, 1))
        return cut_to_top_half(piece, words)

    with pytest.raises(FileChanged):
        copied(path, change)
    assert names(path.parent) == ["model.gguf"]


# --- a full disk


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large.gguf"
    words = np.random.default_rng(0).integers(0, 1 << 32, 1 << 19, np.uint32)
    path.write_bytes(model_bytes([(b"t", 0, words.size, words.tobytes())]))
    return path


@pytest.mark.parametrize("reserve", [True, False])
@pytest.mark.parametrize("old", [None, b"old"])
def test_full_disk(large, tiny_disk, monkeypatch, reserve, old):
    before, out = large.read_bytes(), tiny_disk / "out.gguf"
    if old is not None:
        out.write_bytes(old)
    if not reserve:
        monkeypatch.setattr(os, "posix_fallocate", raising(errno.EOPNOTSUPP))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        tb.truncate(large, out, bits=16, force=True)
    assert names(tiny_disk) == ["out.gguf"] * (old is not None)
    assert old is None or out.read_bytes() == old
    assert large.read_bytes() == before


LIMITED = """
import errno, os, resource, sys
import truebits as tb
source, out, reserve = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
if reserve == "no":
    def posix_fallocate(*_):
        raise OSError(errno.EOPNOTSUPP, "no")
    os.posix_fallocate = posix_fallocate
try:
    tb.truncate(source, out, bits=16)
except OSError as error:
    print(errno.errorcode[error.errno], error.filename == out)
"""


@pytest.mark.parametrize("reserve", ["yes", "no"])
def test_limit_of_file_size(large, reserve):
    before = large.read_bytes()
    command = [sys.executable, "-c", LIMITED, large, large.with_name("out.gguf"), reserve]
    got = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert (got.stdout, got.stderr) == ("EFBIG True\n", "")
    assert names(large.parent) == ["large.gguf"]
    assert large.read_bytes() == before


# --- comparing what must not change


@pytest.fixture
def small(tmp_path):
    """A model whose F32 tensor has other bytes around it: header, Q8_0, padding, Q8_0, padding."""
    path = tmp_path / "small.gguf"
    path.write_bytes(model_bytes([(b"a", 8, 32, bytes(34)), (b"w", 0, 9, bytes(36)), (b"b", 8, 32, bytes(34))]))
    return path


@contextlib.contextmanager
def flipped(path, at):
    """Flip the lowest bit of a byte."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
        file.flush()
        yield
        file.seek(at)
        file.write(bytes([byte]))


def invert(piece, words):
    words ^= np.uint32(0xFFFFFFFF)
    return words.size


def is_inverted(piece, before, after):
    return np.array_equal(before ^ np.uint32(0xFFFFFFFF), after)


def test_check_copy_finds_every_flipped_byte(small, small_blocks):
    model, copy = open_model(small), small.with_name("copy.gguf")
    (tensor,) = f32(model)
    expected = bytearray(small.read_bytes())
    invert(None, np.frombuffer(expected, "<u4", tensor.values, tensor.offset))
    copy.write_bytes(expected)
    check_copy(model.parts[0], NewFile(copy, -1, copy), [tensor], is_inverted)
    for at in range(copy.stat().st_size):
        with flipped(copy, at), pytest.raises(VerificationFailed, match=r"not the input|not as planned"):
            check_copy(model.parts[0], NewFile(copy, -1, copy), [tensor], is_inverted)


@pytest.mark.parametrize("size", [-1, 1])
def test_check_copy_finds_another_size(small, size):
    model, copy = open_model(small), small.with_name("copy.gguf")
    copy.write_bytes(small.read_bytes()[:size] if size < 0 else small.read_bytes() + bytes(size))
    with pytest.raises(VerificationFailed, match="expected"):
        check_copy(model.parts[0], NewFile(copy, -1, copy), f32(model), is_inverted)


def digest_of_others(path, tensors):
    with path.open("rb") as file:
        return digest(file.fileno(), others(tensors, path.stat().st_size))


def test_digest_of_others_finds_every_flipped_byte(small, small_blocks):
    tensors = f32(open_model(small))
    (tensor,) = tensors
    expected = digest_of_others(small, tensors)
    for at in range(small.stat().st_size):
        with flipped(small, at):
            got = digest_of_others(small, tensors)
            assert (got == expected) == (tensor.offset <= at < tensor.offset + tensor.nbytes), at


def test_digest_of_others_finds_words_that_changed_places(tmp_path):
    """A sum and an xor do not."""
    path, words = tmp_path / "words", [bytes([n]) * 8 for n in range(4)]
    path.write_bytes(b"".join(words))
    expected = digest_of_others(path, [])
    path.write_bytes(b"".join([words[1], words[0], *words[2:]]))
    assert digest_of_others(path, []) != expected


NO_THREADS = """
import sys, threading
import truebits as tb
def start(*arguments, **named):
    raise RuntimeError("can't start new thread")
threading._start_new_thread = start
tb.truncate(sys.argv[1], sys.argv[2], bits=16)
tb.truncate(sys.argv[1], bits=16, in_place=True, undo_file=sys.argv[3])
print(tb.fingerprint(sys.argv[1]).whole == tb.fingerprint(sys.argv[2]).whole)
tb.undo(sys.argv[1], sys.argv[3])
"""


def test_where_no_thread_can_be_started_the_work_is_done_all_the_same(path):
    arguments = [path, path.with_name("out.gguf"), path.with_name("undo")]
    done = subprocess.run([sys.executable, "-c", NO_THREADS, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert path.with_name("out.gguf").read_bytes() == example(cut=True)
    assert path.read_bytes() == example()
