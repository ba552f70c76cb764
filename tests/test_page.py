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
from click.testing import CliRunner

import truebits as tb
from extras import NEEDS_EVAL
from models import finish
from truebits import data
from truebits.cli.app import app
from truebits.report import page

pytest.importorskip("jinja2")

CHROMIUM = shutil.which("chromium")
QUICK = {"text": data.HELDOUT, "chunks": 2, "rounds": 0, "answer_tokens": 4}
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
const line = document.querySelector("#table tbody tr[tabindex]");
const counts = document.getElementById("counts");
counts.hidden = true;
if (line) line.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
probe.byKey = !counts.hidden;
probe.title = document.title;
probe.points = document.querySelectorAll("#points circle").length;
probe.labels = [...document.querySelectorAll("#points text")].map(one => one.textContent);
probe.told = [...document.querySelectorAll("section.told h2")].map(one => one.textContent);
probe.figures = [...document.querySelectorAll("#metric option")].map(one => one.textContent);
const answer = Object.assign(document.createElement("pre"), { id: "probe", textContent: JSON.stringify(probe) });
document.body.replaceChildren(answer);
</script></body>"""


def write(path, names, rng, rows=8):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(HOSTILE)
    for name in names:
        writer.add_tensor(name, rng.standard_normal((rows, 64)).astype(np.float32))
    finish(writer)
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
    assert got["heat"] == len(report)
    assert got["filtered"] == sum("ffn_up" in name for name in report)
    assert got["ascending"] == sorted(one.values for one in report.values())
    assert got["descending"] == got["ascending"][::-1]
    assert got["picture"] == 240
    assert got["byKey"]


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


@NEEDS_EVAL
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_sweep_is_drawn_with_a_point_for_each_format(tmp_path):
    found = tb.sweep_experiment(data.MODEL, ["bf16", "int4", "int4:block256"], **QUICK)
    got, console = browse(page.render(found), tmp_path)
    assert console == []
    assert (got["points"], got["told"]) == (2, ["What each format does"])
    assert {"bf16", "int4:block32"} <= set(got["labels"])
    assert got["figures"] == ["SNR dB, bf16", "SNR dB, int4:block32"]
    assert got["heat"] == got["rows"] == 21


@NEEDS_EVAL
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_an_experiment_tells_its_story(tmp_path):
    done = tb.experiment(data.MODEL, "blk", to="int4", **QUICK)
    html = page.render(done)
    got, console = browse(html, tmp_path)
    assert console == []
    assert got["told"][-4:] == [
        "What was measured, before against after",
        "How the text was predicted",
        "What was answered",
        "What proves it",
    ]
    assert got["rows"] == len(done.diff.tensors)
    assert got["figures"] == ["differ %", "SNR dB", "RMS error", "max abs", "max rel", "max ulp"]
    assert f"{done.evaluation.divergence.mean:.3e} +- " in html
    assert "nats per token" in html.split("<section")[0]


@NEEDS_EVAL
def test_a_sensitivity_is_a_heat_map_for_each_format():
    found = tb.sensitivity(data.MODEL, r"blk\.0\.ffn", to=["int4", "q8_0"], text=data.HELDOUT, chunks=2, n_ctx=128)
    got = json.loads(re.search(r'id="data">(.*?)</script>', page.render(found))[1])
    names = ["int4:block32", "q8_0"]
    assert [name for name, _ in got["figures"]] == [
        f"{of}, {to}" for of in ("KL per MB saved", "mean KL") for to in names
    ]
    expected = {(one.group, one.to): one.kl for one in found.effects}
    columns = {to: got["columns"].index(f"mean KL, {to}") for to in names}
    assert {(row[0], to): row[i] for row in got["rows"] for to, i in columns.items()} == expected


@pytest.mark.parametrize(
    ("make", "verdict"),
    [
        (lambda: tb.diff(data.MODEL, data.MODEL_Q8_0), "Different: 21 of 21 tensors"),
        (lambda: tb.check(data.MODEL), "passed: "),
        (lambda: tb.siblings([data.MODEL, data.MODEL_Q8_0]), "B: the same checkpoint by another way"),
        (lambda: tb.rank([data.MODEL_Q8_0], data.MODEL), "model-q8_0.gguf is off by"),
        (lambda: tb.experiment(data.MODEL_Q8_0, bits=16), "Not one bit of the model can change"),
        (lambda: tb.fingerprint(data.MODEL), "model.gguf"),
    ],
)
def test_every_result_has_a_page_and_the_verdict_first(make, verdict):
    html = page.render(make())
    assert html.startswith("<!doctype html>")
    assert verdict in html.split("<section")[0]


@pytest.mark.parametrize(
    "command", [["scan"], ["diff", str(data.MODEL)], ["trace", str(data.MODEL)], ["experiment", "--bits", "16"]]
)
def test_the_command_writes_it(tmp_path, command):
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, [*command, str(data.MODEL), "--html", str(out)])
    assert done.exit_code in (0, 1)
    assert out.read_text().startswith("<!doctype html>")
    assert CliRunner().invoke(app, [*command, str(data.MODEL), "--html", str(out)]).exit_code == done.exit_code


def test_a_page_replaces_nothing_but_a_page(tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(data.MODEL.read_bytes())
    for out, reason in ((model, "no page"), (tmp_path / "nowhere/page.html", "no such folder")):
        done = CliRunner().invoke(app, ["scan", str(model), "--html", str(out)])
        assert isinstance(done.exception, tb.UsageError)
        assert reason in str(done.exception)
    assert model.read_bytes() == data.MODEL.read_bytes()
