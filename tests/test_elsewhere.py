"""Reading, and writing new files, where the operating system lacks what Linux has: as macOS and Windows do.

What they lack is taken away from Python's modules before truebits is imported.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

import truebits as tb
from truebits import data

LACKS = {
    "macos": """
fcntl.F_FULLFSYNC = 51
real = fcntl.fcntl
fcntl.fcntl = lambda fd, what, *arg: os.fsync(fd) if what == 51 else real(fd, what, *arg)
for name in ("F_SETLEASE", "F_OFD_SETLK"):
    delattr(fcntl, name)
take(os, "sched_getaffinity", "posix_fallocate", "copy_file_range", "O_TMPFILE", "memfd_create", "fdatasync")
take(mmap, "MADV_HUGEPAGE")
""",
    "windows": """
sys.modules["fcntl"] = None
take(os, "sched_getaffinity", "posix_fallocate", "copy_file_range", "O_TMPFILE", "memfd_create", "fdatasync", "fchmod")
take(os, "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "pwrite", "pread")
take(mmap, *[name for name in vars(mmap) if name.startswith(("MADV_", "MAP_", "PROT_"))])
take(signal, "SIGHUP", "SIGKILL", "pthread_sigmask")
""",
}

RUN = """
import fcntl, mmap, os, signal, sys
def take(module, *names):
    for name in names:
        delattr(module, name)
system = sys.argv.pop(1)
{lacks}
from truebits.cli import main
main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tb.synth(tmp_path_factory.mktemp("elsewhere") / "model.gguf", size=1 << 18)


def run(system, folder, *arguments):
    command = [sys.executable, "-c", RUN.format(lacks=LACKS[system]), system, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("system", LACKS)
def test_reading_and_new_files(model, tmp_path, system):
    out, manifest = tmp_path / "out.gguf", tmp_path / "manifest.json"
    for arguments, code in [
        (["show", model], 0),
        (["scan", model], 0),
        (["truncate", model, out, "--bits", 16], 0),
        (["truncate", model, out, "--bits", 16], 5),
        (["truncate", model, out, "--bits", 16, "--force"], 0),
        (["diff", model, out], 1),
        (["trace", model, out], 0),
    ]:
        done = run(system, tmp_path, *arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    done = run(system, tmp_path, "scan", model, "--fingerprint", "--json")
    manifest.write_text(done.stdout)
    assert run(system, tmp_path, "verify", model, manifest).returncode == 0
    assert run(system, tmp_path, "verify", out, manifest).returncode == 1
    assert tb.scan(out).totals()["F32"].low_zero(16) == 1 << 16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "out.gguf"]


@pytest.mark.parametrize("system", LACKS)
def test_all_that_writes_a_new_file(tmp_path, system):
    shipped, out = data.MODEL, tmp_path / "out.gguf"
    for verb, *options in (
        ("fakequant", "--to", "fp8_e4m3fn"),
        ("fakequant", "--to", "q8_0", "--dequantize"),
        ("dequantize", "--to", "bf16"),
        ("shrink",),
    ):
        source = shipped.with_name("model-q8_0.gguf") if {"dequantize", "--dequantize"} & {verb, *options} else shipped
        done = run(system, tmp_path, verb, source, out, *options, "--force")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (verb, options, done.stderr)
    done = run(system, tmp_path, "experiment", shipped, "--bits", 16)
    assert done.returncode == 0, done.stderr


def test_in_place_is_refused_where_files_cannot_be_locked(model, tmp_path):
    before = model.read_bytes()
    done = run("windows", tmp_path, "truncate", model, "--bits", 16, "--in-place")
    assert (done.returncode, model.read_bytes()) == (5, before)
    assert "in place works on Linux and macOS" in done.stderr


@pytest.mark.parametrize("package", ["truebits", "truebits_native"])
def test_a_big_endian_machine_is_refused_at_import(package):
    code = f"import sys; sys.byteorder = 'big'; import {package}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.rstrip().endswith("it does not run on a big-endian machine")
