"""The command line, by running it."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import termios
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

import truebits as tb
from running import run


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return tb.synth(tmp_path_factory.mktemp("full") / "full.gguf", size=1 << 18)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return tb.synth(tmp_path_factory.mktemp("exact") / "exact.gguf", size=1 << 18, precision="bf16")


def test_help_names_every_exit_code_and_is_quick():
    done = run("--help")
    assert done.returncode == 0
    for code in (*range(9), 70, 130):
        assert f"{code} " in done.stdout.split("Exit codes:")[1]


@pytest.mark.parametrize("command", ["--help", "show", "scan"])
def test_small_work_imports_no_numba(command, exact):
    arguments = [command] if command == "--help" else [command, str(exact)]
    code = (
        "import sys; sys.argv = ['truebits', *sys.argv[1:]]\n"
        "from truebits.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'numba', 'gguf', 'tqdm'} | ({'numpy'} if sys.argv[1] in ('--help', 'show') else set())\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_show_json(full):
    document = json.loads(run("show", full, "--json").stdout)
    assert document["schema"] == "truebits.show/1"
    assert document["architecture"] == "llama"
    expected = [(tensor.name, tensor.type, list(tensor.shape), tensor.offset) for tensor in tb.open(full).tensors]
    got = [(one["name"], one["type"], one["shape"], one["offset"]) for one in document["tensors"]]
    assert got == expected


def test_scan_json_is_the_contract(full):
    document = json.loads(run("scan", full, "--json").stdout)
    assert document["schema"] == "truebits.scan/1"
    report = tb.scan(full)
    for one in document["tensors"]:
        profile = report[one["name"]]
        assert one["values"] == profile.values
        assert one["low_zero"] == {str(k): profile.low_zero(k) for k in range(1, 32)}
        assert one["fits"]["bf16"] == profile.fits("bf16")
        assert {"nan", "inf", "zero", "subnormal", "origin", "shape", "type"} <= set(one)
        assert one["origin"]["format"] == "f32"
    assert document["total"]["low_zero"]["16"] == sum(report[name].low_zero(16) for name in report)
    assert [group["name"] for group in document["groups"]] == ["blk.*.attn_norm.weight", "blk.*.ffn_up.weight"]


def test_scan_low_bits_only_agrees_with_scan(full):
    fast = json.loads(run("scan", full, "--low-bits-only", "--bits", 12, "--json").stdout)
    whole = json.loads(run("scan", full, "--json").stdout)
    assert [one["low_zero"]["12"] for one in fast["tensors"]] == [one["low_zero"]["12"] for one in whole["tensors"]]
    assert fast["total"]["low_zero"]["12"] == whole["total"]["low_zero"]["12"]


def test_scan_csv_has_counts(exact):
    header, *rows = run("scan", exact, "-o", "csv", "--by-tensor").stdout.splitlines()
    assert len(rows) == 2
    first = dict(zip(header.split(","), rows[0].split(","), strict=True))
    assert first["low_16_zero"] == first["values"] == first["exact_bf16"]


def test_bits_view_shows_the_words_of_the_file(full):
    name = "blk.0.attn_norm.weight"
    tensor = next(tensor for tensor in tb.open(full).tensors if tensor.name == name)
    words = np.frombuffer(full.read_bytes(), "<u4", tensor.values, tensor.offset)
    lines = run("scan", full, "--bits-view", name).stdout.splitlines()[1:]
    assert len(lines) == 8
    for line in lines:
        index, value, digits, sign, exponent, high, low = line.split()
        word = int(words[int(index)])
        assert int(digits, 16) == word
        assert int(sign + exponent + high + low, 2) == word
        assert len(low) == 16
        assert float(value) == pytest.approx(float(words[int(index) : int(index) + 1].view(np.float32)[0]), rel=1e-8)


def test_truncate_where_nothing_changes_says_why_and_writes_nothing(exact, tmp_path):
    out = tmp_path / "out.gguf"
    done = run("truncate", exact, out, "--bits", 16)
    assert done.returncode == 0
    assert "all 65,536 values have their low 16 bits zero: they already are BF16" in done.stdout
    assert not out.exists()


def test_dry_run_equals_the_rewrite(full, tmp_path):
    out = tmp_path / "out.gguf"
    planned = json.loads(run("truncate", full, out, "--bits", 16, "--dry-run", "--json").stdout)
    assert planned["written"] is False
    assert not out.exists()
    done = json.loads(run("truncate", full, out, "--bits", 16, "--json").stdout)
    assert done["written"] is True
    assert planned["changed"] == done["changed"] > 0
    assert planned["tensors"] == done["tensors"]


def test_in_place_and_back(full, tmp_path):
    model, log = tmp_path / "model.gguf", tmp_path / "undo"
    model.write_bytes(full.read_bytes())
    assert run("truncate", model, "--bits", 16, "--in-place", "--undo-file", log).returncode == 0
    assert model.read_bytes() != full.read_bytes()
    assert run("undo", model, "--undo-file", log).returncode == 0
    assert model.read_bytes() == full.read_bytes()


def refusals(folder: Path, full: Path) -> list[tuple[list, int, str]]:
    """Arguments, exit code, and what the one line on stderr must name."""
    (folder / "empty.gguf").touch()
    (folder / "page.gguf").write_text("<!DOCTYPE html><html>")
    (folder / "cut.gguf").write_bytes(full.read_bytes()[:3000])
    (folder / "there.gguf").touch()
    os.mkfifo(folder / "fifo.gguf")
    (folder / "link.gguf").symlink_to(full)
    (folder / "folder").mkdir()
    return [
        (["scan", "missing.gguf"], 4, "missing.gguf"),
        (["scan", "folder"], 4, "folder"),
        (["scan", "fifo.gguf"], 4, "fifo.gguf"),
        (["scan", "empty.gguf"], 3, "E_EMPTY at byte 0"),
        (["scan", "page.gguf"], 3, "HTML"),
        (["scan", "cut.gguf"], 3, "E_BOUNDS at byte"),
        (["scan", full, "-l", "nothing_like_it"], 2, "nothing_like_it"),
        (["scan", full, "-l", "("], 2, "regular expression"),
        (["scan", full, "--bits-view", "no.such"], 2, "no.such"),
        (["scan", full, "--low-bits-only", "--bits", "32"], 2, "1 to 31"),
        (["truncate", full, "out.gguf", "--bits", "0"], 2, "1 to 31"),
        (["truncate", full, "out.gguf", "--bits", "32"], 2, "1 to 31"),
        (["truncate", full, full, "--bits", "16"], 2, "--in-place"),
        (["truncate", full, "--bits", "16"], 2, "--in-place"),
        (["truncate", full, "out.gguf", "--bits", "16", "--undo-file", "u"], 2, "--in-place"),
        (["truncate", full, "there.gguf", "--bits", "16"], 5, "--force"),
        (["truncate", "link.gguf", "--bits", "16", "--in-place"], 5, "--allow symlink"),
        (["truncate", full, "no/such/folder.gguf", "--bits", "16"], 4, "no/such"),
        (["undo", full, "--undo-file", "page.gguf"], 3, "E_UNDO"),
        (["undo", full, "--undo-file", "missing"], 4, "missing"),
        (["scan", "a/" * 3000], 4, "File name too long"),
        (["synth", "there.gguf"], 5, "--force"),
        (["synth", "new.gguf", "--precision", "bf17"], 2, "bf16"),
        (["synth", "new.gguf", "--size", "many"], 2, "many"),
    ]


def test_bad_input_gets_one_line_and_its_exit_code(full, tmp_path):
    for arguments, code, named in refusals(tmp_path, full):
        before = {path.name for path in tmp_path.iterdir()}
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == code, (arguments, done.stderr)
        assert named in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 or "Usage:" in done.stderr, done.stderr
        assert {path.name for path in tmp_path.iterdir()} == before


def test_names_from_files_reach_the_terminal_escaped(tmp_path):
    path = tmp_path / "evil.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("\x1b[31mred\u202e", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for arguments in (
        ["show", path, "--by-tensor"],
        ["scan", path, "--by-tensor", "--wide"],
        ["scan", path, "--json"],
        ["scan", path, "-l", "x"],
    ):
        done = run(*arguments)
        printed = done.stdout + done.stderr
        assert "\x1b" not in printed, arguments
        assert "\u202e" not in printed, arguments
        assert "x1b[31mred" in printed or "u001b[31mred" in printed, arguments


def test_odd_layout_warns_a_reader_and_stops_a_writer(full, tmp_path):
    path = tmp_path / "odd.gguf"
    path.write_bytes(full.read_bytes() + b"trailing" * 8)
    shown = run("scan", path)
    assert shown.returncode == 0
    assert "warning" in shown.stderr
    assert "E_UNEXPLAINED" in shown.stderr
    written = run("truncate", path, tmp_path / "out.gguf", "--bits", 16)
    assert written.returncode == 5
    assert "E_UNEXPLAINED" in written.stderr
    in_place = run("truncate", path, "--bits", 16, "--in-place")
    assert in_place.returncode == 5
    assert "--allow layout" in in_place.stderr


def test_a_reader_that_stops_reading_is_no_error(full):
    command = f"{sys.executable} -m truebits scan {full} --json --by-tensor | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


def writes_into(process, folder):
    """Tell whether a process has written to a file of this folder, which need not have a name yet."""
    opened = Path(f"/proc/{process}/fd").iterdir()
    return any(str(folder) in str(file.readlink()) and file.stat().st_size for file in opened if file.is_symlink())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_writing_leaves_nothing(number, tmp_path):
    out = tmp_path / "big.gguf"
    command = [sys.executable, "-m", "truebits", "synth", str(out), "--size", "4GiB"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not writes_into(child.pid, tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(number)
    _, message = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted" in message
    assert list(tmp_path.iterdir()) == []


def test_progress_shows_on_a_terminal_only(tmp_path):
    path = tb.synth(tmp_path / "model.gguf", size=1 << 20)
    code = (
        "import truebits.report.progress as progress, truebits.cli.app as cli, truebits.precision.scan\n"
        "import sys; progress.PATIENCE = -1\n"
        f"sys.argv = ['truebits', 'scan', {str(path)!r}]\n"
        "cli.main()\n"
    )
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=terminal, text=True)
    os.close(terminal)
    seen = os.read(main, 1 << 16).decode()
    os.close(main)
    assert done.returncode == 0
    assert "scan" in seen
    assert "/1.05M" in seen
    assert run("scan", path).stderr == ""


def test_a_written_file_has_the_usual_mode(full, tmp_path):
    out = tmp_path / "out.gguf"
    assert run("truncate", full, out, "--bits", 16).returncode == 0
    before = os.umask(0)
    os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~before


def test_demo_tells_the_whole_story(tmp_path):
    done = run("demo", "--keep", tmp_path / "kept")
    assert done.returncode == 0, done.stderr
    assert "Nothing changes: all 92,160 values have their low 16 bits zero: they already are BF16" in done.stdout
    assert "45 F32" in done.stdout
    assert "Written to bf16.gguf" in done.stdout
    digests = done.stdout.split("SHA-256 before ")[1].split("\n")[0]
    before, truncated, restored = (part.split()[-1].strip(".,") for part in ("x " + digests).split(","))
    assert before == restored != truncated
    assert (tmp_path / "kept" / "bf16.gguf").exists()
    assert "B: the same checkpoint by another way: 5 of 5 rounded to BF16." in done.stdout
    assert "2 of 2 tensors hold values of Q4_0" in done.stdout


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        ("KeyError('x' * 5_000)", 70, "truebits: a bug of ours (TRUEBITS_TRACEBACK=1 shows where): KeyError: 'xxx"),
        ("MemoryError()", 4, "truebits: out of memory"),
        ("SystemExit(9)", 9, ""),
        ("shared.NotVerified()", 7, ""),
        ("shared.Different()", 1, ""),
        ("errors.EvaluationFailed('llama.cpp died')", 8, "truebits: llama.cpp died"),
    ],
)
def test_each_way_to_end_has_its_exit_code(full, raised, code, line):
    """An exception of any kind, raised in the middle of a scan."""
    program = (
        "import sys\n"
        "from truebits import errors\n"
        "from truebits.cli import app, shared\n"
        "from truebits.precision import scan\n"
        "def fail(*args, **kwargs):\n"
        f"    raise {raised}\n"
        "scan.scan = fail\n"
        f"sys.argv = ['truebits', 'scan', {str(full)!r}]\n"
        "app.main()\n"
    )
    got = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert got.returncode == code, got.stderr
    assert got.stderr.startswith(line)
    assert len(got.stderr) <= 1_000
    assert "Traceback" not in got.stderr
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"TRUEBITS_TRACEBACK": "1"}
    )
    assert told.returncode == code
    assert ("Traceback" in told.stderr) == (code == 70)
