"""The whole story, told."""

from __future__ import annotations

from running import run


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
