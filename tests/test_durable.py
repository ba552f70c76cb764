"""What a writer asks of the operating system."""

import errno
import os

import pytest

from models import names
from stopping import raising
from truebits.errors import Refused
from truebits.rewriting import durable
from truebits.rewriting import outputs as outputs_module
from truebits.rewriting.durable import write_all
from truebits.rewriting.outputs import new_files


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
