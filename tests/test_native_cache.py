"""Machine code on disk: never stale, never believed when damaged, never a reason to fail."""

import os
import random
import subprocess
import sys

import pytest

from native_child import child, copied
from truebits_native import cache

pytestmark = pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="nothing is compiled")

COUNT = """
compiled = []
native.dispatch.on_compile = compiled.append
print(native.low_zero_count(np.arange(1 << 17, dtype=np.uint32), 16), len(compiled))
"""
"""Prints the count, and how many kernels were compiled for it."""

EXTREMES = """
words = np.array([0x3F800000, 0x40000000], np.uint32)
print(native.extremes(words, np.array([0]), np.array([2]))[1][0])
"""


@pytest.fixture
def filled(tmp_path):
    """A cache that holds one kernel."""
    assert child(COUNT, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["2", "1"]
    return tmp_path


def entries(folder):
    return sorted(folder.rglob(f"*{cache.SUFFIX}"))


def test_a_kernel_is_compiled_once(filled):
    (entry,) = entries(filled)
    before = entry.stat().st_ino
    assert child(COUNT, NUMBA_CACHE_DIR=str(filled)).split() == ["2", "0"]
    assert entry.stat().st_ino == before


@pytest.mark.parametrize("changed", ["kernels/rounding.py", "types.py"])
def test_a_constant_that_another_file_changes_is_seen(tmp_path, changed):
    """`scaling.find_extremes` takes INFINITY from `rounding`, which Numba's own stamp does not see."""
    package, kept = copied(tmp_path), str(tmp_path / "cache")
    assert child(EXTREMES, tmp_path, NUMBA_CACHE_DIR=kept) == "2.0\n"
    file = package / changed
    text = file.read_text().replace("INFINITY = np.uint32(0x7F800000)", "INFINITY = np.uint32(0x40000000)")
    file.write_text(text + "# another line\n")
    expected = "2.0\n" if changed == "types.py" else "nan\n"
    before = [entry.read_bytes() for entry in entries(tmp_path)]
    assert child(EXTREMES, tmp_path, NUMBA_CACHE_DIR=kept) == expected
    assert [entry.read_bytes() for entry in entries(tmp_path)] != before


def flipped(content, seed):
    at = random.Random(seed).randrange(8 * len(content))
    return content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "a page of zeros": lambda content: content[:4096] + bytes(4096) + content[8192:],
    "longer": lambda content: content + b"\0",
    "another file": lambda content: b"cos\nsystem\n(S'touch x'\ntR." * 99,
    "no pickle": lambda content: content[: 2 * cache.DIGEST] + b"\x80",
    **{f"bit {seed}": lambda content, seed=seed: flipped(content, seed) for seed in range(3)},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_compiled_anew(filled, damage):
    (entry,) = entries(filled)
    expected = entry.read_bytes()
    entry.write_bytes(DAMAGES[damage](expected))
    assert child(COUNT, NUMBA_CACHE_DIR=str(filled)).split() == ["2", "1"]
    assert child(COUNT, NUMBA_CACHE_DIR=str(filled)).split() == ["2", "0"]


def test_every_bit_of_an_entry_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    cache.save("one", b"key", b"machine code")
    (entry,) = entries(tmp_path)
    sound = entry.read_bytes()
    assert cache.load("one", b"key")[0] == b"machine code"
    for bit in range(8 * len(sound)):
        entry.write_bytes(sound[: bit // 8] + bytes([sound[bit // 8] ^ 1 << bit % 8]) + sound[bit // 8 + 1 :])
        assert cache.load("one", b"key") is None, bit


def test_an_entry_under_another_s_name_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    cache.save("one", b"key", b"machine code")
    (entry,) = entries(tmp_path)
    cache.save("one", b"other key", b"other code")
    (other,) = set(entries(tmp_path)) - {entry}
    other.write_bytes(entry.read_bytes())
    assert cache.load("one", b"other key") is None
    assert cache.holds("one")
    assert not cache.holds("on")


@pytest.mark.parametrize("what", ["a folder", "a pipe", "not readable"])
def test_an_entry_that_cannot_be_read_is_compiled_anew(filled, what):
    (entry,) = entries(filled)
    entry.unlink()
    if what == "a folder":
        (entry / "x").mkdir(parents=True)
    elif what == "a pipe":
        os.mkfifo(entry)
    else:
        entry.symlink_to(entry)
    assert child(COUNT, NUMBA_CACHE_DIR=str(filled)).split() == ["2", "1"]


def test_no_folder_can_be_written(tmp_path):
    """Files stand where folders would be made: that stops root too, which no permission does."""
    package, file = copied(tmp_path), tmp_path / "file"
    file.write_bytes(b"")
    (package / "__pycache__").write_bytes(b"")
    below = str(file / "below")
    for environment in ({"NUMBA_CACHE_DIR": below}, {"NUMBA_CACHE_DIR": "", "XDG_CACHE_HOME": below, "HOME": below}):
        assert child(COUNT, tmp_path, **environment).split() == ["2", "1"]


def test_a_full_disk(tiny_disk):
    (tiny_disk / "full").write_bytes(bytes((1 << 20) - 16_384))
    assert child(COUNT, NUMBA_CACHE_DIR=str(tiny_disk)).split() == ["2", "1"]
    assert not [file for file in tiny_disk.rglob("*") if file.is_file() and file.name != "full"]


def test_a_limit_on_the_size_of_files(tmp_path):
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n" + COUNT
    assert child(code, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["2", "1"]
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_without_a_folder_of_its_own_it_is_kept_beside_the_sources(tmp_path):
    package = copied(tmp_path)
    assert child(COUNT, tmp_path, NUMBA_CACHE_DIR="").split() == ["2", "1"]
    assert [entry.parent for entry in entries(tmp_path)] == [package / "__pycache__"]


def test_kernels_that_somebody_compiled_for_all_are_used(tmp_path):
    """The package's folder is read where it cannot be written: the home folder takes what it lacks."""
    package, home = copied(tmp_path), {"NUMBA_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path / "home")}
    child(COUNT, tmp_path, **home)
    (entry,) = entries(package)
    entry.rename(tmp_path / entry.name)
    (package / "__pycache__").rmdir()
    (package / "__pycache__").write_bytes(b"")
    assert child(COUNT, tmp_path, **home).split() == ["2", "1"]
    assert child(COUNT, tmp_path, **home).split() == ["2", "0"]
    assert len(entries(tmp_path / "home")) == 1


@pytest.mark.parametrize("threads", ["abc", "", "0", "-3", "1000000"])
def test_the_number_of_numba_s_own_threads_is_nobody_s_business(filled, threads):
    assert child(COUNT, NUMBA_CACHE_DIR=str(filled), NUMBA_NUM_THREADS=threads).split() == ["2", "0"]


@pytest.mark.slow
def test_all_kernels_compile_ahead_of_time(tmp_path):
    def run():
        command = [sys.executable, "-m", "truebits_native"]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    first, second = run(), run()
    assert first.count(": compiled") == second.count(": from the cache") == len(entries(tmp_path))
    assert str(tmp_path) in second


def test_commands_say_that_a_kernel_is_compiled_and_libraries_do_not(tmp_path):
    code = """
import contextlib, io
from truebits.report.progress import progress_bar
def said(context):
    with contextlib.redirect_stderr(io.StringIO()) as printed, context:
        native.profile(np.zeros(9, np.uint32))
        return printed.getvalue()
print(said({}))
"""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    bar = 'progress_bar("scan")'
    assert child(code.format(bar), **environment) == "compiling a kernel, once for this machine: about 1 s\n\n"
    assert child(code.format(bar), **environment) == "\n"
    (entry,) = entries(tmp_path)
    entry.unlink()
    assert child(code.format("contextlib.nullcontext()"), **environment) == "\n"
