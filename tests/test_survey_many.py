"""A survey of many models: memory stays flat, and a kill in the middle costs no model that was done.

``TRUEBITS_SURVEY_MODELS=2000`` makes it as long as docs/scale.md tells of.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import truebits as tb

pytest.importorskip("pyarrow")
resource = pytest.importorskip("resource")

MODELS = int(os.environ.get("TRUEBITS_SURVEY_MODELS", "300"))

SURVEY = """
import os, resource, signal, sys
import truebits as tb
import truebits_native as native

native.expect_work("profiles", 1 << 40)  # Numba is loaded at the first model, not in the middle
folder, out, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen = []

def progress(done, of):
    seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    if done == last:
        os.kill(os.getpid(), signal.SIGKILL)

tb.survey(folder, out=out, progress=progress)
print(len(seen), seen[len(seen) // 4], seen[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.slow
def test_many_models_in_flat_memory_killed_in_the_middle(tmp_path):
    folder, out = tmp_path / "models", tmp_path / "out"
    folder.mkdir()
    for number in range(MODELS):
        precision = ("bf16", "f32", "fp16")[number % 3]
        tb.synth(folder / f"{number:04}.gguf", size=1 << 17, tensors=20, precision=precision, seed=number)

    def run(last):
        command = [sys.executable, "-c", SURVEY, str(folder), str(out), str(last)]
        return subprocess.run(command, capture_output=True, text=True)

    assert run(MODELS // 3).returncode == -signal.SIGKILL
    done = run(0)
    assert done.returncode == 0, done.stderr
    models, early, late, peak = map(int, done.stdout.split())
    assert models == MODELS - MODELS // 3, "what was done is not done again"
    assert late - early <= 16
    assert peak - early <= 64, "MiB, with the tables merged"
    found = tb.read_survey(out)
    assert (found.models, found.failed) == (MODELS, 0)
    assert {row["came_from"]: row["models"] for row in found.stored_as("F32")} == {
        name: len(range(at, MODELS, 3)) for at, name in enumerate(("bf16", "f32", "fp16"))
    }
