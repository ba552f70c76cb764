import contextlib
import hashlib
import json
import shutil
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import truebits as tb
from gguf_bytes import gguf as gguf_bytes
from gguf_bytes import tensor
from stopping import stopped
from truebits.errors import ModelFileError, Refused, TruebitsError, Unfinished
from truebits.files.model import open_model
from truebits.rewriting import copy as rewrite
from truebits.rewriting.beside import marker_path
from truebits.rewriting.undolog import HEAD, LENGTH, MAGIC, RECORD, BadUndoFile, Damage, UndoLog
from words import assert_same_bits

F32, F16, Q8_0 = 0, 1, 8
TOP_HALF = np.uint32(0xFFFF0000)

pytestmark = pytest.mark.usefixtures("small_blocks")


def example(cut=False, seed=0, name=b"first", bits=16):
    """A model with F32 tensors of 6 small blocks among others; no value is NaN, so a cut is a mask."""
    generator = np.random.default_rng(1)
    quantized, half = generator.bytes(680), generator.bytes(66)
    generator = np.random.default_rng(seed)
    arrays = [generator.normal(size=size).astype(np.float32).view(np.uint32) for size in (5000, 1001)]
    first, second = [words >> np.uint32(bits) << np.uint32(bits) if cut else words for words in arrays]
    infos, data = [], b""
    for tensor_name, type_id, values, content in [
        (b"quantized", Q8_0, 640, quantized),
        (name, F32, first.size, first.tobytes()),
        (b"half", F16, 33, half),
        (b"second", F32, second.size, second.tobytes()),
    ]:
        infos.append(tensor(tensor_name, (values,), type_id, len(data)))
        data += content + bytes(-len(content) % 32)
    return gguf_bytes([], infos, data)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(example())
    return path


@pytest.fixture
def undo_file(tmp_path):
    return tmp_path / "undo"


def truncate(path, undo_file=None, bits=16, **arguments):
    return tb.truncate(path, bits=bits, in_place=True, undo_file=undo_file, **arguments)


def interrupt(monkeypatch, path, undo_file, writes=2):
    with stopped(monkeypatch, path, writes), pytest.raises(Unfinished):
        truncate(path, undo_file)
    assert path.read_bytes() not in (example(), example(cut=True))


def assert_file(path, expected):
    """The file has these bytes, and no rewrite of it is unfinished."""
    assert_same_bits(np.frombuffer(path.read_bytes(), np.uint8), np.frombuffer(expected, np.uint8))
    assert not marker_path(path).exists()


# --- it restores


def test_undo_of_a_finished_rewrite(path, undo_file):
    truncate(path, undo_file)
    log = undo_file.read_bytes()
    assert_file(path, example(cut=True))
    got = tb.undo(path, undo_file)
    assert_file(path, example())
    first, second = (open_model(path).tensors[i] for i in (1, 3))
    assert got.nbytes == first.nbytes + second.nbytes
    assert got.chunks == len(list(rewrite.pieces([first, second])))
    assert got.operation == {"verb": "truncate", "bits": 16, "tensors": ["first", "second"]}
    assert undo_file.read_bytes() == log
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["model.gguf", "undo"]


def test_undo_of_a_selection(path, undo_file):
    truncate(path, undo_file, select="second")
    assert tb.undo(path, undo_file).nbytes == 4 * 1001
    assert_file(path, example())


@pytest.mark.parametrize("writes", range(7))
def test_undo_of_an_interrupted_rewrite(path, undo_file, monkeypatch, writes):
    interrupt(monkeypatch, path, undo_file, writes)
    assert tb.undo(path, undo_file).chunks == writes + 1
    assert_file(path, example())


@pytest.mark.parametrize("writes", range(7))
def test_undo_of_a_rewrite_that_was_interrupted_and_finished(path, undo_file, monkeypatch, writes):
    interrupt(monkeypatch, path, undo_file, writes)
    truncate(path, undo_file)
    assert_file(path, example(cut=True))
    tb.undo(path, undo_file)
    assert_file(path, example())


def test_undo_of_a_rewrite_that_was_interrupted_again_and_again(path, undo_file, monkeypatch):
    for writes in (1, 0, 0, 2):
        interrupt(monkeypatch, path, undo_file, writes)
    tb.undo(path, undo_file)
    assert_file(path, example())


def test_undo_twice(path, undo_file):
    truncate(path, undo_file)
    assert tb.undo(path, undo_file) == tb.undo(path, undo_file)
    assert_file(path, example())


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("writes", [0, 1, 2])
def test_interrupted_undo_runs_again(path, undo_file, monkeypatch, finished, writes):
    if finished:
        truncate(path, undo_file)
    else:
        interrupt(monkeypatch, path, undo_file, 4)
    with stopped(monkeypatch, path, writes), pytest.raises((KeyboardInterrupt, Unfinished)):
        tb.undo(path, undo_file)
    assert marker_path(path).exists()
    assert path.read_bytes() != example()
    tb.undo(path, undo_file)
    assert_file(path, example())


def test_interrupted_undo_of_a_finished_rewrite_stops_a_new_one(path, undo_file, monkeypatch):
    truncate(path, undo_file)
    with stopped(monkeypatch, path, 1), pytest.raises((KeyboardInterrupt, Unfinished)):
        tb.undo(path, undo_file)
    before = path.read_bytes()
    with pytest.raises(Unfinished):
        truncate(path, bits=8)
    assert path.read_bytes() == before


def test_rewrite_after_undo(path, undo_file):
    truncate(path, undo_file)
    tb.undo(path, undo_file)
    truncate(path, undo_file.with_name("undo2"), bits=8)
    assert_file(path, example(cut=True, bits=8))
    tb.undo(path, undo_file.with_name("undo2"))
    assert_file(path, example())


def test_two_rewrites_are_undone_in_reverse(path, undo_file):
    second = undo_file.with_name("undo2")
    truncate(path, undo_file, bits=8)
    truncate(path, second, bits=16)
    with pytest.raises(Refused, match="changed after"):
        tb.undo(path, undo_file)
    assert_file(path, example(cut=True))
    tb.undo(path, second)
    assert_file(path, example(cut=True, bits=8))
    tb.undo(path, undo_file)
    assert_file(path, example())


def test_undo_of_a_moved_model(path, undo_file):
    truncate(path, undo_file)
    moved = path.with_name("moved.gguf")
    shutil.copyfile(path, moved)
    path.unlink()
    tb.undo(moved, undo_file)
    assert_file(moved, example())


def test_undo_refuses_what_truncate_refuses(path, undo_file):
    truncate(path, undo_file)
    link = path.with_name("link.gguf")
    link.symlink_to(path)
    with pytest.raises(Refused, match="--allow symlink"):
        tb.undo(link, undo_file)
    assert_file(path, example(cut=True))
    tb.undo(link, undo_file, allow=["symlink"])
    assert_file(path, example())


# --- the undo file


@pytest.mark.parametrize("content", [b"old", MAGIC + LENGTH.pack(2) + b"{}" + bytes(33)])
def test_existing_undo_file_is_refused_before_anything_is_written(path, undo_file, content):
    undo_file.write_bytes(content)
    with pytest.raises(Refused, match="undo"):
        truncate(path, undo_file)
    assert undo_file.read_bytes() == content
    assert_file(path, example())


def test_dangling_link_is_refused_as_undo_file(path, undo_file):
    undo_file.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(Refused):
        truncate(path, undo_file)
    assert_file(path, example())
    assert not path.with_name("elsewhere").exists()


def test_undo_file_that_is_the_model_is_refused(path):
    with pytest.raises(Refused):
        truncate(path, path)
    assert_file(path, example())


def test_used_undo_file_is_refused(path, undo_file):
    truncate(path, undo_file)
    tb.undo(path, undo_file)
    log = undo_file.read_bytes()
    with pytest.raises(Refused):
        truncate(path, undo_file)
    assert undo_file.read_bytes() == log
    assert_file(path, example())


def test_undo_file_of_a_run_that_was_stopped_before_it_wrote_is_used_again(path, undo_file, monkeypatch):
    """Bytes are summed up after the undo file is made and before the first write: minutes, on a large model."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("truebits.rewriting.inplace.others", stop)
        with pytest.raises(KeyboardInterrupt):
            truncate(path, undo_file)
    assert_file(path, example())
    truncate(path, undo_file)
    assert_file(path, example(cut=True))
    tb.undo(path, undo_file)
    assert_file(path, example())


def cut_last_record(path, undo_file, cut_off):
    """Leave what a crash leaves: the last record is not whole, so its chunk was not overwritten."""
    with UndoLog.read(undo_file) as log:
        *_, last = log.contents().records
    log, data = undo_file.read_bytes(), bytearray(path.read_bytes())
    data[last.offset : last.offset + last.length] = log[last.at : last.at + last.length]
    path.write_bytes(data)
    undo_file.write_bytes(log[: last.at - HEAD.size + cut_off])


@pytest.mark.parametrize("cut_off", [1, 27, 28, 100, 4000])
def test_record_cut_short_is_ignored(path, undo_file, monkeypatch, cut_off):
    interrupt(monkeypatch, path, undo_file, writes=3)
    cut_last_record(path, undo_file, cut_off)
    assert tb.undo(path, undo_file).chunks == 3
    assert_file(path, example())


@pytest.mark.parametrize("cut_off", [1, 27, 28, 100, 4000])
def test_finishing_goes_on_behind_the_last_whole_record(path, undo_file, monkeypatch, cut_off):
    interrupt(monkeypatch, path, undo_file, writes=3)
    cut_last_record(path, undo_file, cut_off)
    truncate(path, undo_file)
    assert_file(path, example(cut=True))
    tb.undo(path, undo_file)
    assert_file(path, example())


@pytest.mark.parametrize("at", [*range(HEAD.size), HEAD.size + 5, -1])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_damaged_record_is_named_and_the_others_are_restored_on_request(path, undo_file, which, at):
    truncate(path, undo_file)
    with UndoLog.read(undo_file) as log:
        records = log.contents().records
    rotten = records.pop(which)
    start, stop = rotten.at - HEAD.size, rotten.at + rotten.length
    rotted(undo_file, stop - 1 if at < 0 else start + at)
    with UndoLog.read(undo_file) as log:
        got = log.contents()
    assert (got.records, got.damaged, got.promised) == (records, [Damage(start, stop - start)], len(records) + 1)
    told = str(assert_refused(path, undo_file, Refused))
    assert f"the undo file is damaged at byte {start}" in told
    assert "--force" in told
    got = tb.undo(path, undo_file, force=True)
    assert (got.chunks, got.is_proved) == (len(records), False)
    expected = bytearray(example())
    lost = slice(rotten.offset, rotten.offset + rotten.length)
    expected[lost] = example(cut=True)[lost]
    assert_file(path, bytes(expected))


def rotted(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    file.write_bytes(data)


@pytest.mark.parametrize("kept", ["a record less", "half a record", "no record", "no end mark"])
def test_an_undo_file_that_is_cut_short_restores_nothing_and_says_so(path, undo_file, kept):
    truncate(path, undo_file)
    with UndoLog.read(undo_file) as log:
        *_, last = log.contents().records
        start = log.start
    log = undo_file.read_bytes()
    length = {"no record": start, "a record less": last.at - HEAD.size, "half a record": last.at + 9}
    undo_file.write_bytes(log[: length.get(kept, last.at + last.length)])
    if kept == "no end mark":  # the records prove themselves
        assert tb.undo(path, undo_file).is_proved
        assert_file(path, example())
    else:
        assert "cut short" in str(assert_refused(path, undo_file, Refused)) or kept == "half a record"


def test_finishing_never_shortens_the_undo_file(path, undo_file, monkeypatch):
    """A flipped bit in the first record is no reason to drop the good ones behind it."""
    interrupt(monkeypatch, path, undo_file, writes=3)
    before = undo_file.stat().st_size
    with UndoLog.read(undo_file) as log:
        rotten = log.contents().records[0]
    rotted(undo_file, rotten.at)
    truncate(path, undo_file)
    assert undo_file.stat().st_size > before
    assert "damaged" in str(assert_refused(path, undo_file, Refused))
    assert tb.undo(path, undo_file, force=True).chunks == len(list(rewrite.pieces(open_model(path).tensors[1::2]))) - 1


def test_an_undo_file_that_is_named_as_the_marker_is_refused(path):
    with pytest.raises(Refused, match="take another"):
        truncate(path, marker_path(path))
    assert not marker_path(path).exists()
    assert_file(path, example())


@pytest.mark.parametrize("kind", ["empty", "piece", "half", "zeros"])
def test_a_torn_head_of_a_rewrite_that_changed_nothing_is_begun_anew(path, undo_file, kind):
    truncate(path, undo_file.with_name("other"), select="second", dry_run=False)
    with UndoLog.read(undo_file.with_name("other")) as log:
        head = undo_file.with_name("other").read_bytes()[: log.start]
    path.write_bytes(example())
    undo_file.write_bytes({"empty": b"", "piece": head[:5], "half": head[:100], "zeros": bytes(len(head))}[kind])
    truncate(path, undo_file)
    tb.undo(path, undo_file)
    assert_file(path, example())


def test_finishing_with_another_undo_file_is_refused(path, undo_file, monkeypatch):
    other = path.with_name("other.gguf")
    other.write_bytes(example(name=b"other"))
    truncate(other, undo_file.with_name("undo2"))
    interrupt(monkeypatch, path, undo_file)
    before = path.read_bytes()
    with pytest.raises(Refused, match="undo"):
        truncate(path, undo_file.with_name("undo2"))
    assert path.read_bytes() == before
    truncate(path, undo_file)
    assert_file(path, example(cut=True))


@pytest.mark.parametrize(("began", "finished"), [("undo", None), ("undo", "undo2"), (None, "undo")])
def test_undo_never_claims_more_than_it_restores(path, monkeypatch, began, finished):
    """A run that finishes with another undo file, or none, leaves none that holds all old bytes."""

    def named(name):
        return name and path.with_name(name)

    interrupt(monkeypatch, path, named(began))
    try:
        truncate(path, named(finished))
    except TruebitsError:
        truncate(path, named(began))
        finished = began
    assert_file(path, example(cut=True))
    for name in {began: None, finished: None}:
        if name is not None:
            with contextlib.suppress(TruebitsError):
                tb.undo(path, named(name))
                assert_file(path, example())


# --- undo files that are refused


def assert_refused(path, undo_file, error=BadUndoFile, force=False):
    before, files = path.read_bytes(), sorted(path.parent.iterdir())
    with pytest.raises(error) as caught:
        tb.undo(path, undo_file, force=force)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == files
    return caught.value


@pytest.mark.parametrize("content", [b"", b"TBUNDO2", b"TBUNDO2\n", b"TBUNDO1\n" + bytes(100), b"GGUF" + bytes(100)])
def test_file_that_is_no_undo_file(path, undo_file, content):
    undo_file.write_bytes(content)
    got = assert_refused(path, undo_file)
    assert (got.code, got.exit_code, got.path) == ("E_UNDO", 3, undo_file)
    assert isinstance(got, ModelFileError)


def test_undo_file_that_is_missing(path, undo_file):
    assert_refused(path, undo_file, FileNotFoundError)


def test_undo_file_of_another_model(path, undo_file, tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(example(name=b"other"))
    truncate(other, undo_file)
    for force in (False, True):
        assert "size or header differ" in str(assert_refused(path, undo_file, Refused, force))


def test_undo_file_of_a_model_with_the_same_header(path, undo_file, tmp_path):
    """Two fine-tunes differ only in their values."""
    other = tmp_path / "other.gguf"
    other.write_bytes(example(seed=9))
    truncate(other, undo_file)
    truncate(path)
    assert_refused(path, undo_file, Refused)


def test_undo_file_of_an_interrupted_model_with_the_same_header(path, undo_file, tmp_path, monkeypatch):
    """Both are unfinished, so neither's chunks say to which model they belong."""
    other, others_undo_file = tmp_path / "other.gguf", tmp_path / "undo2"
    other.write_bytes(example(seed=9))
    with stopped(monkeypatch, other, 2), pytest.raises(Unfinished):
        truncate(other, others_undo_file)
    interrupt(monkeypatch, path, undo_file)
    assert_refused(path, others_undo_file, TruebitsError)
    with pytest.raises(TruebitsError):
        truncate(path, others_undo_file)
    tb.undo(path, undo_file)
    assert_file(path, example())
    tb.undo(other, others_undo_file)
    assert_file(other, example(seed=9))


def test_undo_while_another_rewrite_is_unfinished(path, undo_file, monkeypatch):
    truncate(path, undo_file, bits=8)
    with stopped(monkeypatch, path, 2), pytest.raises(Unfinished):
        truncate(path, undo_file.with_name("undo2"), bits=16)
    got = assert_refused(path, undo_file, Unfinished, force=True)
    assert got.exit_code == 6
    tb.undo(path, undo_file.with_name("undo2"))
    tb.undo(path, undo_file)
    assert_file(path, example())


def test_model_that_was_changed_since(path, undo_file):
    truncate(path, undo_file)
    second = open_model(path).tensors[3]
    data = bytearray(path.read_bytes())
    data[second.offset] ^= 1
    path.write_bytes(data)
    assert "--force" in str(assert_refused(path, undo_file, Refused))
    tb.undo(path, undo_file, force=True)
    assert_file(path, example())


def test_change_outside_the_rewritten_chunks_stays(path, undo_file):
    truncate(path, undo_file, select="first")
    second = open_model(path).tensors[3]
    data, expected = bytearray(path.read_bytes()), bytearray(example())
    data[second.offset] ^= 1
    expected[second.offset] ^= 1
    path.write_bytes(data)
    assert "changed since" in str(assert_refused(path, undo_file, Refused))
    assert not tb.undo(path, undo_file, force=True).is_proved
    assert_file(path, bytes(expected))


# --- hostile undo files


def record_bytes(part, offset, content, length=None, new_crc=0):
    """Return a record whose checksums are right."""
    fields = (RECORD, part, len(content) if length is None else length, offset, new_crc)
    return HEAD.pack(*fields, zlib.crc32(content, zlib.crc32(HEAD.pack(*fields, 0)))) + content


def forge(undo_file, *records, **changes):
    """Keep the head of a real undo file, but for `changes`, and replace its records."""
    with UndoLog.read(undo_file) as log:
        body = json.dumps({**log.record, **changes}).encode()
    undo_file.write_bytes(head_bytes(body) + b"".join(records))


def head_bytes(body, length=None):
    head = MAGIC + LENGTH.pack(len(body) if length is None else length) + body
    return head + hashlib.sha256(head).digest()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "where",
    ["header", "magic", "quantized", "before first", "behind first", "over padding", "end", "behind", "far", "all"],
)
def test_record_that_reaches_outside_the_float_tensors(path, undo_file, where, force):
    truncate(path, undo_file)
    quantized, first, _, second = open_model(path).tensors
    size = path.stat().st_size
    offset, length = {
        "magic": (0, 4),
        "header": (24, 8),
        "quantized": (quantized.offset, 8),
        "before first": (first.offset - 4, 8),
        "behind first": (first.offset + first.nbytes - 4, 8),
        "over padding": (second.offset + second.nbytes - 4, 5),
        "end": (size - 4, 8),
        "behind": (size, 8),
        "far": (2**64 - 8, 8),
        "all": (0, size),
    }[where]
    forge(undo_file, record_bytes(0, first.offset, bytes(8)), record_bytes(0, offset, bytes(length)))
    got = assert_refused(path, undo_file, force=force)
    assert f"bytes {offset} to {offset + length}" in str(got)


@pytest.mark.parametrize("part", [1, 7, 2**16 - 1])
def test_record_of_a_part_that_is_not_there(path, undo_file, part):
    truncate(path, undo_file)
    offset = open_model(path).tensors[1].offset
    forge(undo_file, record_bytes(0, offset, bytes(8)), record_bytes(part, offset, bytes(8)))
    assert_refused(path, undo_file, force=True)


@pytest.mark.parametrize("force", [False, True])
def test_record_of_a_part_the_head_does_not_name(path, undo_file, force):
    truncate(path, undo_file)
    forge(undo_file, record_bytes(0, open_model(path).tensors[1].offset, bytes(8)), files=[])
    assert_refused(path, undo_file, TruebitsError, force)


@pytest.mark.parametrize("length", [2**32 - 1, 65 << 20, 5000])
def test_record_longer_than_the_file_is_ignored(path, undo_file, length):
    truncate(path, undo_file)
    forge(undo_file, record_bytes(0, open_model(path).tensors[1].offset, bytes(8), length))
    assert_refused(path, undo_file, Refused)
    assert tb.undo(path, undo_file, force=True).chunks == 0
    assert_file(path, example(cut=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"files": [{}]},
        {"files": [3]},
        {"files": 3},
        {"files": None},
        {"files": "part"},
        {"files": [{"part": 1}]},
        {"files": [{"part": -1}]},
        {"files": [{"part": "0"}]},
        {"files": [{"part": [0]}]},
        {"files": [{"part": 0.0}]},
        {"files": [{"part": True}]},
        {"files": [{"part": 0}]},
        {"files": [{"part": 0, "size": 1, "header": "../../etc/passwd"}]},
        {"operation": None},
        {"operation": 3},
        {"operation": ["x"]},
    ],
)
def test_hostile_head(path, undo_file, changes):
    truncate(path, undo_file)
    forge(undo_file, record_bytes(0, open_model(path).tensors[1].offset, bytes(8)), **changes)
    assert_refused(path, undo_file, TruebitsError)


@pytest.mark.parametrize("head", [b"[]", b"3", b'"x"', b"null", b"{}", b"{", b"\xff", b"[" * 100_000, b'{"files": []}'])
@pytest.mark.parametrize("length", [None, 2**32 - 1])
def test_head_that_is_no_rewrite(path, undo_file, head, length):
    undo_file.write_bytes(head_bytes(head, length))
    assert_refused(path, undo_file, TruebitsError, force=True)


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.integers(0, 30_000),
    force=st.booleans(),
)
def test_damaged_undo_file_touches_float_tensors_at_most(tmp_path_factory, edits, length, force):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path, undo_file = folder / "model.gguf", folder / "undo"
    path.write_bytes(example())
    truncate(path, undo_file)
    log = bytearray(undo_file.read_bytes())
    for at, value in edits:
        log[at] = value
    undo_file.write_bytes(log[: max(length, 1)] if length < 25_000 else log)
    with contextlib.suppress(TruebitsError):
        tb.undo(path, undo_file, force=force)
    got, before, after = (np.frombuffer(data, np.uint8) for data in (path.read_bytes(), example(), example(cut=True)))
    assert ((got == before) | (got == after)).all()
