"""The undo log: what was written comes back, and what is no whole record is told of."""

import os
import random

import pytest

from truebits.errors import Refused
from truebits.rewriting.undolog import END, HEAD, BadUndoFile, UndoLog

RECORD = {"operation": {"verb": "x"}, "files": [{"part": 0}, {"part": 1}], "undo": {"before": {"0": "a", "1": "b"}}}
CHUNKS = [(0, 128, b"a" * 64, b"A" * 64), (1, 0, b"b", b"B"), (0, 1 << 40, bytes(1_000), b"c" * 1_000)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "undo"


def written(path, chunks=CHUNKS, finish=True):
    with UndoLog.open(path, RECORD, finishing=False) as log:
        for part, offset, old, new in chunks:
            log.append(part, offset, old, new)
        if finish:
            log.finish()
    return path


def read(path):
    """Return what the records of a log say, and its contents."""
    with UndoLog.read(path) as log:
        assert log.record == RECORD
        contents = log.contents()
        raw = path.read_bytes()
        return [(one.part, one.offset, raw[one.at : one.at + one.length]) for one in contents.records], contents


EXPECTED = [(part, offset, old) for part, offset, old, _ in CHUNKS]


@pytest.mark.parametrize("count", range(len(CHUNKS) + 1))
def test_what_was_recorded_is_read(path, count):
    records, contents = read(written(path, CHUNKS[:count]))
    assert records == EXPECTED[:count]
    assert (contents.damaged, contents.promised) == ([], count)


def test_without_its_end_nothing_is_promised(path):
    assert read(written(path, finish=False))[1].promised is None


@pytest.mark.parametrize("cut", range(1, END.size + 1))
def test_an_end_that_is_cut_short_is_damage(path, cut):
    os.truncate(written(path), path.stat().st_size - cut)
    records, contents = read(path)
    assert records == EXPECTED
    assert contents.promised is None
    assert sum(one.nbytes for one in contents.damaged) == END.size - cut


@pytest.mark.parametrize("at", [0, 7, HEAD.size - 1, HEAD.size, HEAD.size + 63])
@pytest.mark.parametrize("which", range(3))
def test_a_damaged_record_is_stepped_over(path, which, at):
    written(path)
    with UndoLog.read(path) as log:
        records = log.contents().records
    place = records[which].at - HEAD.size + min(at, HEAD.size + records[which].length - 1)
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    got, contents = read(path)
    assert got == EXPECTED[:which] + EXPECTED[which + 1 :]
    assert [one.nbytes for one in contents.damaged] == [HEAD.size + records[which].length]
    assert contents.promised == 3


def test_any_damage_behind_the_head_gives_records_that_were_written(path):
    """Old bytes are never invented, whatever is spoiled."""
    raw, choose = written(path).read_bytes(), random.Random(1)
    with UndoLog.read(path) as log:
        start = log.start
    for _ in range(150):
        data = bytearray(raw)
        for _ in range(choose.randint(1, 4)):
            at = choose.randrange(start, len(data))
            data[at : at + choose.randint(0, 40)] = choose.randbytes(choose.randint(0, 40))
        path.write_bytes(data)
        assert set(read(path)[0]) <= set(EXPECTED)


def test_finishing_goes_on_at_the_end(path):
    written(path, CHUNKS[:2], finish=False)
    with UndoLog.open(path, RECORD, finishing=True) as log:
        log.append(*CHUNKS[2])
        log.finish()
    records, contents = read(path)
    assert (records, contents.promised) == (EXPECTED, 3)


def test_finishing_another_rewrite_is_refused(path):
    with pytest.raises(Refused, match="is not there"):
        UndoLog.open(path, RECORD, finishing=True)
    written(path, finish=False)
    with pytest.raises(Refused, match="undo file of another rewrite"):
        UndoLog.open(path, RECORD | {"operation": {}}, finishing=True)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"TBUN", b"TBUNDO2\n\x99\0\0\0half"])
def test_what_a_stopped_run_left_is_begun_anew(path, content):
    path.write_bytes(content)
    assert read(written(path))[0] == EXPECTED


@pytest.mark.parametrize("content", [b"x", b"TBUNDO1\n", b"TBUNDO2\n\1\0\0\0" + b"x" * 50])
def test_a_file_of_somebody_else_is_kept(path, content):
    path.write_bytes(content)
    with pytest.raises(Refused, match="exists; name an undo file that does not"):
        written(path)
    assert path.read_bytes() == content


def test_a_used_log_is_kept(path):
    raw = written(path).read_bytes()
    with pytest.raises(Refused):
        written(path)
    assert path.read_bytes() == raw


def test_a_head_alone_is_used_again(path):
    UndoLog.open(path, RECORD, finishing=False).__exit__()
    assert read(written(path))[0] == EXPECTED


def test_what_is_no_file_is_kept(path, tmp_path):
    for make in (lambda: path.symlink_to(tmp_path / "absent"), lambda: os.mkfifo(path), path.mkdir):
        make()
        with pytest.raises(Refused):
            written(path)
        path.rmdir() if path.is_dir() else path.unlink()


def test_an_unused_log_goes_and_a_used_one_stays(path):
    log = UndoLog.open(path, RECORD, finishing=False)
    log.discard()
    assert not path.exists()
    log.__exit__()
    with UndoLog.open(path, RECORD, finishing=False) as log:
        log.append(*CHUNKS[0])
        log.discard()
    assert path.exists()


def test_every_damaged_byte_of_the_head_is_found(path):
    raw = written(path, CHUNKS[:1]).read_bytes()
    with UndoLog.read(path) as log:
        start = log.start
    for at in range(start):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(BadUndoFile, match="not an undo file of truebits"):
            UndoLog.read(path)
    for size in range(start):
        path.write_bytes(raw[:size])
        with pytest.raises(BadUndoFile):
            UndoLog.read(path)


def test_no_room_leaves_nothing(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("truebits.rewriting.undolog.write_all", full)
    with pytest.raises(OSError, match="No space"):
        UndoLog.open(path, RECORD, finishing=False)
    assert not path.exists()
