"""The page of a report: one file, drawn without an error, which no name from a file can run in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape

import gguf
import numpy as np
import pytest

import truebits as tb
from truebits import data
from truebits.report import page

pytest.importorskip("jinja2")

CHROMIUM = shutil.which("chromium")
HOSTILE = "</script><script>document.title='owned'</script>\"'><img src=x onerror=\"document.title='owned'\">"

PROBE = """<script>
const probe = {};
probe.heat = document.querySelectorAll("#heat .cell").length;
probe.rows = document.querySelectorAll("#table tbody tr").length;
const filter = document.getElementById("filter");
filter.value = "ffn_up"; filter.dispatchEvent(new Event("input"));
probe.filtered = document.querySelectorAll("#table tbody tr").length;
filter.value = ""; filter.dispatchEvent(new Event("input"));
document.querySelectorAll("thead button")[2].click();
const thirds = () => [...document.querySelectorAll("#table tbody tr td:nth-child(3)")];
const numbers = () => thirds().map(cell => +cell.textContent.replaceAll(",", ""));
probe.ascending = numbers();
document.querySelectorAll("thead button")[2].click();
probe.descending = numbers();
const cell = document.querySelector("#heat .cell");
if (cell) { cell.click(); probe.picture = document.getElementById("picture").width; }
probe.title = document.title;
const answer = Object.assign(document.createElement("pre"), { id: "probe", textContent: JSON.stringify(probe) });
document.body.replaceChildren(answer);
</script></body>"""


def write(path, names, rng, rows=8):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(HOSTILE)
    for name in names:
        writer.add_tensor(name, rng.standard_normal((rows, 64)).astype(np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def browse(html, folder):
    """Let a real browser run the page, and what asks it; return the answers and what its console said."""
    path = folder / "page.html"
    path.write_text(html.replace("</body>", PROBE))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, env=environment)
    (answer,) = re.findall(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(unescape(answer)), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_draws_it_without_an_error(tmp_path):
    report = tb.scan(data.MODEL)
    got, console = browse(page.render(report), tmp_path)
    assert console == []
    assert got["rows"] == len(report)
    assert got["heat"] == sum(name.startswith("blk.") for name in report)
    assert got["filtered"] == sum("ffn_up" in name for name in report)
    assert got["ascending"] == sorted(one.values for one in report.values())
    assert got["descending"] == got["ascending"][::-1]
    assert got["picture"] == 240


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_no_name_from_a_file_runs(tmp_path):
    path = write(tmp_path / "evil.gguf", [f"blk.0.{HOSTILE[:50]}", "a\x1b[31m"], np.random.default_rng(0))
    got, console = browse(page.render(tb.scan(path)), tmp_path)
    assert console == []
    assert got["title"].startswith("</script><script>")
    assert got["rows"] == 2


def test_what_is_embedded_cannot_end_its_script(tmp_path):
    path = write(tmp_path / "evil.gguf", [f"blk.0.{HOSTILE[:50]}"], np.random.default_rng(0))
    html = page.render(tb.scan(path))
    assert html.count("<script") == html.count("</script>") == 2
    assert "<img" not in html


def test_a_thousand_tensors_are_under_two_megabytes(tmp_path):
    names = [f"blk.{layer}.part{part}.weight" for layer in range(100) for part in range(10)]
    path = write(tmp_path / "many.gguf", names, np.random.default_rng(0), rows=64)
    html = page.render(tb.scan(path))
    assert len(html.encode()) < 2_000_000
    assert not re.search(r"https?://", html)


@pytest.mark.parametrize("make", [lambda: tb.diff(data.MODEL, data.MODEL_Q8_0), lambda: tb.check(data.MODEL)])
def test_every_result_has_a_page(make):
    result = make()
    assert page.render(result).startswith("<!doctype html>")


@pytest.mark.parametrize("command", [["scan"], ["diff", str(data.MODEL)], ["trace", str(data.MODEL)]])
def test_the_command_writes_it(tmp_path, command):
    from click.testing import CliRunner

    from truebits.cli.app import app

    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, [*command, str(data.MODEL), "--html", str(out)])
    assert done.exit_code == 0
    assert out.read_text().startswith("<!doctype html>")
