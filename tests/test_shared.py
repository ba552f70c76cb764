"""What all subcommands do."""

from __future__ import annotations

from running import run


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
