"""The first screen of `scan`: findings first, then what the weights are, in lines that no terminal wraps."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios

import gguf
import ml_dtypes
import numpy as np
import pytest

import truebits as tb
from models import finish
from safetensors_bytes import safetensors
from truebits import data
from truebits.report import grouping, screen
from truebits.report.table import percent
from truebits.report.text import conclusion

RNG = np.random.default_rng(7)
PLAIN = RNG.standard_normal((64, 256)).astype(np.float32)


def write(path, tensors, name="a model"):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    for key, (array, type) in tensors.items():
        writer.add_tensor(key, array, raw_dtype=type)
    finish(writer)
    return path


@pytest.fixture
def mixed(tmp_path):
    """Give a model of BF16 norms, F32 and Q8_0 matrices, one with a NaN, and long and hostile names."""
    lost = PLAIN.copy()
    lost[3, 5] = np.nan
    bf16 = (PLAIN[0].view(np.uint32) & 0xFFFF0000).view(np.float32)
    q8 = gguf.quants.quantize(PLAIN, gguf.GGMLQuantizationType.Q8_0)
    tensors = {f"blk.{i}.attn_norm.weight": (bf16, None) for i in range(12)}
    tensors |= {f"blk.{i}.ffn_up.weight": (q8, gguf.GGMLQuantizationType.Q8_0) for i in range(12)}
    tensors |= {"token_embd.weight": (PLAIN, None), "lost.weight": (lost, None)}
    tensors |= {"x" * 60 + "\x1b[31m": (PLAIN, None)}
    return write(tmp_path / "model.gguf", tensors, "n" * 300)


FLOATS = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}


@pytest.mark.parametrize("type", FLOATS)
def test_small_floats_without_scales_are_what_their_type_says(tmp_path, type):
    values = PLAIN.astype(FLOATS[type])
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors({"a.weight": (type, values.shape, values.tobytes())}))
    report = tb.scan(path)
    format = FLOATS[type].__name__.replace("float8", "fp8")
    text = "\n".join(line for _, line in screen.lines(report))
    assert report["a.weight"].origin.format == format
    assert f"the {type} tensor: {format.upper()}; the storage type itself" in text
    assert "scale" not in text
    assert "scale" not in conclusion(report)


def test_what_is_multiplied_by_a_power_of_two_is_said_to_be(tmp_path):
    for scale, expected in (1, False), (2.0**-9, True):
        values = PLAIN.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(scale)
        told = [
            line for _, line in screen.lines(tb.scan(write(tmp_path / "m.gguf", {"a.weight": (values, None)})), 300)
        ]
        assert [("power of two" in line) for line in told if "FP8" in line] == [expected, expected]


def test_what_is_not_read_stands_by_its_reason(tmp_path):
    path = tmp_path / "m.safetensors"
    tensors = {type: (type, (8,), bytes(8)) for type in ("BOOL", "U8", "I8")}
    path.write_bytes(safetensors({**tensors, "w": ("F32", (2,), bytes(8))}))
    told = screen.read(tb.scan(path))
    assert "1 BOOL tensor not read: whole numbers, no weights; " in told
    assert told.endswith("1 U8, 1 I8 tensors not read: no reader for this type.")


def test_nothing_is_said_of_what_was_not_read(tmp_path):
    path = write(tmp_path / "m.gguf", {"a.weight": (np.arange(64), None)})
    assert screen.calm(tb.scan(path)) == "nothing of it was read: nothing can be said of its weights"
    assert screen.calm(tb.scan(write(tmp_path / "vocabulary.gguf", {}))) == ""


def scan(*arguments, **environment):
    command = [sys.executable, "-m", "truebits", "scan", *map(str, arguments)]
    clean = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize("blocks", [None, True, False])
@pytest.mark.parametrize("by_tensor", [False, True])
def test_no_line_is_wider_than_the_terminal(mixed, blocks, by_tensor):
    report = tb.scan(mixed, blocks=blocks)
    for width in (20, 60, 80, 100, 200):
        lines = [line for _, line in screen.lines(report, width, by_tensor)]
        assert max(map(len, lines)) <= width
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(("width", "expected"), [(80, 80), (200, 100)])
def test_the_command_asks_the_terminal(mixed, width, expected):
    got = scan(mixed, COLUMNS=str(width))
    assert got.returncode == 0
    assert expected - 20 < max(map(len, got.stdout.splitlines())) <= expected
    assert "\x1b" not in got.stdout


def test_findings_stand_first(mixed):
    lines = scan(mixed).stdout.split("\n")
    first = next(i for i, line in enumerate(lines) if line.startswith("error: "))
    assert "lost.weight: 1 NaN, the first at 773 (row 3)" in lines[first]
    assert first < next(i for i, line in enumerate(lines) if line.startswith("type "))
    assert "no NaN" not in "".join(lines)


@pytest.mark.parametrize("options", [(), ("--by-tensor",)])
def test_errors_are_said_again_at_the_end(mixed, options):
    last = scan(mixed, *options).stdout.split("\n\n")[-1]
    assert last.startswith("Wrong: ")
    assert "1 NaN" in last.split("Read: ")[0]


def test_a_row_for_each_type_and_origin(mixed):
    table = grouping.groups(tb.scan(mixed))
    got = {(row[0], row[4]): (row[1], row[5]) for row in table.rows}
    assert got["Q8_0", "direct"] == (12, "12 x ffn_up")
    assert got["F32", "bf16"] == (12, "12 x attn_norm")
    assert got["F32", "f32"][0] == 3


def test_what_was_read_by_sample_says_so(tmp_path):
    path = write(
        tmp_path / "a.gguf", {"a.weight": (np.zeros((1024, 18 * 64), np.uint8), gguf.GGMLQuantizationType.Q4_0)}
    )
    sampled, whole, none = (scan(path, *options).stdout for options in ((), ("--blocks",), ("--no-blocks",)))
    assert "1 quantized tensor by sample, 3.1 % of the values (--blocks: all" in sampled
    assert "every value looked at is zero" in sampled
    assert "by sample" not in whole
    assert "1 Q4_0 tensor not read: quantized, read with --blocks" in none


def test_where_nobody_looked_what_matrices_were_before_the_last_line_says_how(mixed, tmp_path):
    norms = write(tmp_path / "norms.gguf", {"a.weight": (PLAIN[0], None)})
    got = [scan(*arguments).stdout.splitlines()[-1] for arguments in ((mixed,), (mixed, "--blocks"), (norms,))]
    assert ["More: --blocks" in line for line in got] == [True, False, False]


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_for_terminals(mixed, environment, coloured):
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (60, 80))
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    command = [sys.executable, "-m", "truebits", "scan", str(mixed)]
    seen = b""
    with subprocess.Popen(command, env={**clean, **environment}, stdout=terminal):
        while b"More:" not in seen:
            seen += os.read(main, 1 << 16)
    os.close(terminal)
    os.close(main)
    assert (b"\x1b[31m" in seen) == coloured


def test_many_models_are_a_line_each_and_a_broken_one_is_one(tmp_path, mixed):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b.gguf").write_bytes(data.MODEL.read_bytes())
    (folder / "a.gguf").write_bytes(b"GGUF\x03")
    got = scan(mixed, folder)
    lines = got.stdout.splitlines()
    assert [line.split(" · ")[0].split(": ")[0] for line in lines] == [
        str(mixed), str(folder / "a.gguf"), str(folder / "b.gguf")
    ]  # fmt: skip
    assert got.returncode == 3
    documents = [json.loads(line) for line in scan(mixed, str(folder / "*.gguf"), "--json").stdout.splitlines()]
    assert [one["schema"] for one in documents] == ["truebits.scan/1"] * 3
    assert ["error" in one for one in documents] == [False, True, False]


def test_a_pattern_that_matches_nothing_is_told(tmp_path):
    got = scan(tmp_path / "*.gguf")
    assert got.returncode == 2
    assert "matches no file" in got.stderr


def test_output_json_is_json(mixed):
    assert scan(mixed, "-o", "json").stdout == scan(mixed, "--json").stdout
    assert json.loads(scan(mixed, "-o", "json").stdout)["schema"] == "truebits.scan/1"


def test_every_word_of_the_tables_is_explained(mixed):
    report = tb.scan(mixed)
    for table in (grouping.groups(report), grouping.tensors(report)):
        assert set(table.columns) <= set(grouping.COLUMNS)
    told = scan(mixed, "--explain").stdout
    assert all(f"\n{word}: " in told for word in grouping.COLUMNS)


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (0, 5, "0 %"), (5, 5, "100 %"), (0, 0, "-"), (1, 3, "33.33 %"),
        (17, 1_000_000, "0.002 %"), (999_983, 1_000_000, "99.998 %"), (1, 10**9, "1e-07 %"),
    ],
)  # fmt: skip
def test_a_share_is_never_rounded_to_none_or_all(part, whole, expected):
    assert percent(part, whole) == expected


def test_a_model_without_tensors(tmp_path):
    got = scan(write(tmp_path / "empty.gguf", {}))
    assert got.returncode == 0
    assert "no tensors" in got.stdout
