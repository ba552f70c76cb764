"""Pictures: what is drawn is what was measured, labels do not overlap, and who cannot draw is told why."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner

import truebits as tb
from converter import write_safetensors
from extras import NEEDS_EVAL
from truebits import data
from truebits.cli.app import app
from truebits.report import plot

pytest.importorskip("matplotlib")


def cells(figure, number=0):
    """Return a heat map's values, NaN where there is none."""
    return np.ma.filled(figure.axes[number].images[0].get_array(), np.nan)


def test_a_heat_map_has_each_tensor_s_figure_in_its_place():
    report = tb.scan(data.MODEL_Q8_0)
    got = cells(report.plot())
    expected = {
        (0, "attn_norm"): 16,
        (1, "ffn_up"): 8.5,
        (2, "output_norm"): 16,
        (2, "attn_norm"): None,
    }
    axes = report.plot().axes[0]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "no layer"]
    for (row, column), number in expected.items():
        value = got[row, columns.index(column)]
        assert np.isnan(value) if number is None else value == number


def test_another_figure_is_drawn_where_it_is_asked_for():
    found = tb.diff(data.MODEL, data.MODEL_Q8_0)
    got = cells(found.plot("RMS error"))
    expected = sorted(one.difference.rms for one in found.tensors)
    assert sorted(got[~np.isnan(got)]) == pytest.approx(expected)
    with pytest.raises(tb.UsageError, match=r"no figure 'RMS'.*'SNR dB', 'RMS error'"):
        found.plot("RMS")


def test_a_picture_of_many_experts_has_bounds(tmp_path):
    value = np.ones(8, np.float32)
    names = [f"model.layers.{layer}.mlp.experts.{expert}.w" for layer in range(3) for expert in range(300)]
    write_safetensors(tmp_path / "m.safetensors", dict.fromkeys(names, value))
    figure = tb.scan(tmp_path / "m.safetensors").plot()
    assert max(figure.get_size_inches()) < 30
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert (len(labels), labels[:2]) == (60, ["mlp.experts.0.w", "mlp.experts.5.w"])
    assert cells(figure).shape == (3, 300)


def test_tensors_without_layers_are_bars(tmp_path):
    rng = np.random.default_rng(0)
    write_safetensors(tmp_path / "m.safetensors", {name: rng.standard_normal(64).astype(np.float32) for name in "abc"})
    (axes,) = tb.scan(tmp_path / "m.safetensors").plot().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "b", "a"]
    assert [bar.get_width() for bar in axes.patches] == [32, 32, 32]


def test_names_are_no_formulas(tmp_path):
    values = np.ones((8, 8), np.float32)
    write_safetensors(tmp_path / "$x^$.safetensors", {r"blk.0.$\frac{$.weight": values, "blk.1.$.weight": values})
    figure = tb.scan(tmp_path / "$x^$.safetensors").plot()
    figure.draw_without_rendering()
    assert r"\$x^\$.safetensors" in figure.get_suptitle()


def test_where_there_is_nothing_to_draw_it_is_said():
    with pytest.raises(tb.UsageError, match="nothing to draw: passed"):
        tb.check(data.MODEL).plot()


@NEEDS_EVAL
def test_a_sweep_is_quality_against_size():
    found = tb.sweep_experiment(
        data.MODEL_Q8_0, ["bf16", "int4"], "norm", text=data.HELDOUT, chunks=2, rounds=0, answer_tokens=4
    )
    figure = found.plot()
    (axes,) = figure.axes
    assert figure.get_suptitle().splitlines() == [
        "model-q8_0.gguf in 2 formats · truebits experiment-sweep",
        "heldout.txt, 2 chunks of 512 tokens",
    ]
    assert [text.get_text() for text in axes.texts] == ["bf16: 0", "int4:block32"]
    assert axes.get_yscale() == "log"


def test_labels_of_a_picture_do_not_overlap():
    figure = plot._empty((8, 5))
    axes = figure.add_subplot()
    points = [(8.0, 1e-3), (8.0, 1.1e-3), (8.1, 1e-3), (8.2, 1.05e-3), (16.0, 1e-6), (4.0, 1e-1)]
    axes.plot(*zip(*points, strict=True), "o")
    axes.set(yscale="log")
    axes.margins(0.15)
    plot._label(figure, axes, points, ["fp8_e4m3fn", "int8:block32", "q8_0", "mxfp8", "bf16", "int4"])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent().extents for text in axes.texts]
    assert len(boxes) == len(points)
    assert not [(i, j) for i in range(6) for j in range(i) if plot._meet(boxes[i], boxes[j])]


@pytest.mark.parametrize(("name", "start"), [("p.png", b"\x89PNG"), ("p.SVG", b"<?xml"), ("p.pdf", b"%PDF")])
def test_the_command_draws(tmp_path, name, start):
    done = CliRunner().invoke(app, ["scan", str(data.MODEL), "--plot", str(tmp_path / name)])
    assert done.exit_code == 0
    assert (tmp_path / name).read_bytes().startswith(start)


def test_what_commands_refuse(tmp_path, monkeypatch):
    def refused(*arguments):
        return str(CliRunner().invoke(app, ["scan", *map(str, arguments)]).exception)

    assert re.search(r"ends in \.png, \.svg, \.pdf", refused(data.MODEL, "--plot", tmp_path / "p.gguf"))
    assert "--plot is for one model" in refused(data.MODEL, data.MODEL_Q8_0, "--plot", tmp_path / "p.png")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "truebits[plot]" in refused(data.MODEL, "--plot", tmp_path / "p.png")
    assert "truebits[html]" in refused(data.MODEL, "--html", tmp_path / "p.html")
    assert not list(tmp_path.iterdir())
