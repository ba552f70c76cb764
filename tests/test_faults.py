"""A seeded campaign on the writer: calls to the operating system that fail, damaged undo files and markers.

Each seed draws a model, what is done with it, and what goes wrong. Whatever it is, no value is lost, and what the
writer says of it is true.
"""

import errno
import json
import os
import random
import shutil

import numpy as np
import pytest

import truebits as tb
from models import model_bytes
from safetensors_bytes import safetensors
from truebits.errors import LONGEST_MESSAGE, TruebitsError
from truebits.rewriting import durable
from truebits.rewriting.beside import marker_path

TOP_HALF = np.uint32(0xFFFF0000)
CALLS = (
    *("open", "pwrite", "pread", "fsync", "fdatasync", "posix_fallocate", "copy_file_range", "fchmod", "fstat"),
    *("link", "unlink", "replace", "rename", "mkdir", "rmdir"),
)
FAULTS = (OSError(errno.ENOSPC, "No space left"), OSError(errno.EIO, "I/O error"), KeyboardInterrupt(), MemoryError())
KINDS = ("new file", "new folder", "in place", "undo")
CALLS_OF_A_RUN = 45
EACH_CALL = 2 * len(KINDS) * CALLS_OF_A_RUN


class Model:
    """A small model in a folder of its own, and what it becomes.

    Attributes
    ----------
    path : Path
        The file, or the folder, that is opened.
    before, after : dict of str to bytes
        Contents of its files by name.
    """

    def __init__(self, folder, draw, kind):
        words = np.random.default_rng(draw.getrandbits(32)).standard_normal
        tensors = [words(draw.randint(1, 4000)).astype(np.float32).view(np.uint32) for _ in range(draw.randint(1, 4))]
        self.folder = folder / "at"
        self.folder.mkdir()
        if kind == "new folder":
            self.path = self.folder / "model"
            self.path.mkdir()
            self.before, self.after = ({**self._shards(of), "config.json": b"{}"} for of in (tensors, cut(tensors)))
        else:
            self.path = self.folder / "model.gguf"
            self.before, self.after = ({"model.gguf": gguf_of(of)} for of in (tensors, cut(tensors)))
        for name, content in self.before.items():
            (self.files / name).write_bytes(content)

    @property
    def files(self):
        return self.path if self.path.is_dir() else self.folder

    def _shards(self, tensors):
        count = len(tensors)
        return {
            f"model-{number:05d}-of-{count:05d}.safetensors": safetensors(
                {f"t{number}": ("F32", (words.size,), words.tobytes())}
            )
            for number, words in enumerate(tensors, 1)
        }

    def contents(self):
        return {name: (self.files / name).read_bytes() for name in self.before}

    def check_mixed(self):
        """Every value is its old or its new one."""
        for name, content in self.contents().items():
            old, new = self.before[name], self.after[name]
            assert len(content) == len(old)
            got, old, new = (np.frombuffer(data[: len(data) // 4 * 4], np.uint32) for data in (content, old, new))
            assert ((got == old) | (got == new)).all()


def gguf_of(tensors):
    return model_bytes([(f"t{number}", 0, words.size, words.tobytes()) for number, words in enumerate(tensors)])


def cut(tensors):
    return [words & TOP_HALF for words in tensors]


class Faulty:
    """Lets one call to the operating system, by its number, raise; `hit` is its name once it did."""

    def __init__(self, monkeypatch, number, fault):
        self.left, self.fault, self.hit = number, fault, None
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name, call):
        def wrapped(*arguments, **keywords):
            self.left -= 1
            if self.left == 0:
                self.hit = name
                raise self.fault
            return call(*arguments, **keywords)

        return wrapped


def said(action, *expected):
    """Do it; return the exception, which is one of ours on one line, of the system, or what was expected."""
    try:
        action()
    except (TruebitsError, OSError, *expected) as caught:
        error = caught
    else:
        return None
    if isinstance(error, TruebitsError):
        assert "\n" not in str(error)
        assert len(str(error)) <= LONGEST_MESSAGE
    return error


def fail_once(folder, seed, monkeypatch):
    """Let one call fail in one kind of work; return which, and None where it was done before that call.

    Seeds in a row go through the kinds, with files that have a name before they are whole and without, and the calls.
    """
    draw = random.Random(seed)
    kind, is_named, number = KINDS[seed % 4], seed // 4 % 2, seed // 8 % CALLS_OF_A_RUN + 1
    model, out, undo_file = Model(folder, draw, kind), None, None
    if kind.startswith("new"):
        out = model.folder / ("out" if kind == "new folder" else "out.gguf")
        work = lambda: tb.truncate(model.path, out, bits=16)  # noqa: E731
    else:
        undo_file = model.folder / "undo"
        again = lambda: tb.truncate(model.path, bits=16, in_place=True, undo_file=undo_file)  # noqa: E731
        work = again
        if kind == "undo":
            again()
            work = lambda: tb.undo(model.path, undo_file)  # noqa: E731
    with monkeypatch.context() as patched:
        if is_named:
            patched.delattr(os, "O_TMPFILE")
        faulty = Faulty(patched, number, draw.choice(FAULTS))
        error = said(work, KeyboardInterrupt, MemoryError)
    left = durable.left_behind()
    durable.provisional.clear()
    if out is not None:
        assert model.contents() == model.before
        is_there = out.exists()
        assert is_there or error is not None
        if is_there:
            got = {name: (out / name if out.is_dir() else out).read_bytes() for name in model.before}
            assert got == model.after
        stray = set(model.folder.iterdir()) - {out, model.path}
        assert stray == set(left)
        assert not stray or faulty.hit in ("unlink", "rmdir", "fstat", "open")
        return faulty.hit
    model.check_mixed()
    if error is None:
        assert model.contents() == (model.before if kind == "undo" else model.after)
    if kind == "in place":
        again()
        assert model.contents() == model.after
    tb.undo(model.path, undo_file)
    assert model.contents() == model.before
    assert not marker_path(model.path).exists()
    return faulty.hit


def damage(data, draw):
    """Cut bytes, put in others, flip bits or append."""
    data = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(5):
            case 0:
                del data[at:]
            case 1 if data:
                data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
            case 2:
                data[at : at + draw.randrange(200)] = draw.randbytes(draw.randrange(200))
            case 3:
                del data[at : at + draw.randrange(500)]
            case _:
                data += bytes(draw.randrange(5000))
    return bytes(data)


def damage_undo_file(folder, seed):
    """Undo with a damaged undo file: all is as it was and proved so, or nothing was written, unless it was forced."""
    draw = random.Random(seed)
    model = Model(folder, draw, "undo")
    undo_file = model.folder / "undo"
    tb.truncate(model.path, bits=16, in_place=True, undo_file=undo_file)
    whole = undo_file.read_bytes()
    undo_file.write_bytes(damage(whole, draw))
    force, undone = draw.random() < 0.3, []
    error = said(lambda: undone.append(tb.undo(model.path, undo_file, force=force)))
    model.check_mixed()
    if error is not None:
        assert model.contents() == model.after
        assert not marker_path(model.path).exists()
    elif not force:
        assert undone[0].is_proved
    if undone:
        assert undone[0].is_proved == (model.contents() == model.before)
    undo_file.write_bytes(whole)
    tb.undo(model.path, undo_file, force=True)
    assert model.contents() == model.before


def damage_marker(folder, seed):
    """Run a rewrite, and its undoing, beside a marker that is damaged or another's: nothing is lost."""
    draw = random.Random(seed)
    model = Model(folder, draw, "in place")
    undo_file, marker = model.folder / "undo", marker_path(model.path)
    tb.truncate(model.path, bits=16, in_place=True, undo_file=undo_file)
    if draw.random() < 0.2:
        marker.write_bytes(draw.choice([b"[" * 100_000, b"null", b"", b'{"operation": ' + b"9" * 5_000 + b"}"]))
    else:
        record = {"operation": {"verb": "truncate", "bits": 16, "tensors": ["t0"]}, "files": [], "undo": None}
        marker.write_bytes(damage(json.dumps(record).encode(), draw))
    for work in (
        lambda: tb.truncate(model.path, bits=15, in_place=True),
        lambda: tb.undo(model.path, undo_file),
        lambda: tb.undo(model.path, undo_file, force=True),
    ):
        assert said(work) is not None
        assert model.contents() == model.after
        assert marker.exists()


@pytest.fixture
def seed_in(tmp_path, small_blocks):
    """Give a campaign its seeds: a folder for each, removed where nothing was found."""

    def run(campaign, seeds, *more):
        results = []
        for seed in seeds:
            folder = tmp_path / str(seed)
            folder.mkdir()
            try:
                results.append(campaign(folder, seed, *more))
            except Exception as error:
                error.add_note(f"seed {seed}")
                raise
            shutil.rmtree(folder)
        return results

    return run


def seeds(quick, long):
    return pytest.mark.parametrize("seeds", [range(quick), pytest.param(range(quick, long), marks=pytest.mark.slow)])


@seeds(EACH_CALL, 5 * EACH_CALL)
def test_a_call_that_fails(seed_in, monkeypatch, seeds):
    hit = seed_in(fail_once, seeds, monkeypatch)
    assert len(set(hit) - {None}) >= 10


@seeds(20, 1_500)
def test_damaged_undo_files(seed_in, seeds):
    seed_in(damage_undo_file, seeds)


@seeds(20, 1_500)
def test_damaged_markers(seed_in, seeds):
    seed_in(damage_marker, seeds)
