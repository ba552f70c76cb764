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
from gguf_bytes import U16, key_value, scalar
from models import model_bytes, names
from stopping import raising
from truebits.errors import UsageError, VerificationFailed
from truebits.files.mapping import FileChanged
from truebits.files.model import open_model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.rewriting.copy import BLOCK_BYTES, check_copy, digest, flush_and_verify, others, pieces, write_copy
from truebits.rewriting.durable import FICLONE
from truebits.rewriting.outputs import NewFile, new_files, outputs

TOP_HALF = np.uint32(0xFFFF0000)


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
            ("first", 8, 640, random.bytes(680)),
            ("norm", 0, 1001, norm.tobytes()),
            ("exact", 0, 1500, exact.tobytes()),
            ("middle", 8, 320, random.bytes(340)),
            ("weights", 0, 2003, weights.tobytes()),
            ("last", 8, 640, random.bytes(680)),
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


def test_failed_fsync_while_verifying_is_raised(monkeypatch):
    monkeypatch.setattr(os, "fsync", raising(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        flush_and_verify([0], lambda: None)


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
        _, errors = child.communicate(timeout=60)
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
        shard.write_bytes(model_bytes([(f"t{number}", 0, 8, bytes(32))], keys))
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
    path.write_bytes(model_bytes([("t", 0, words.size, words.tobytes())]))
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
    path.write_bytes(model_bytes([("a", 8, 32, bytes(34)), ("w", 0, 9, bytes(36)), ("b", 8, 32, bytes(34))]))
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
from truebits_native import pool
def start(*arguments, **named):
    raise RuntimeError("can't start new thread")
threading._start_new_thread = pool.start_new_thread = start
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
