"""Pictures of results: heat maps of layer x tensor, bars where there are no layers, quality against size."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from truebits.errors import MissingExtra, UsageError
from truebits.report.heatmap import Grid, grid
from truebits.report.table import cut
from truebits.report.tensors import Tensors, is_logarithmic, tensors
from truebits.report.told import told
from truebits.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from truebits.experiments.experiment import ExperimentSweep

MOST_BARS, MOST_LABELS = 40, 60
"""Tensors that bars are drawn of, where there are no layers: those with the largest figures; labels of an axis."""

TITLE_COLUMNS = 90
LONGEST_LABEL = 40


def figure(result: Result, of: str | None = None) -> Figure:
    """Draw a result.

    Parameters
    ----------
    result : Result
    of : str, optional
        Which figure: a column of the table that the result's page has. The first that there is, if not given; of a
        sweep, mean KL divergence over bits per weight.

    Returns
    -------
    matplotlib.figure.Figure
        Which a notebook shows.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    UsageError
        There is no such figure, or none at all.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtra("A picture", "plot")
    if of is None and (sweep := _as_sweep(result)):
        return _scatter(sweep)
    found = tensors(result)
    drawn = [name for name in found.figures if any(one is not None for one in found.column(name).values())]
    if of is not None and of not in drawn:
        raise UsageError(f"there is no figure {of!r} to draw; there are {', '.join(map(repr, drawn)) or 'none'}")
    if not drawn:
        raise UsageError(f"there is nothing to draw: {result.summary}")
    chosen = [of] if of is not None else drawn if found.each else drawn[:1]
    return _heat_maps(result, found, chosen)


def write(result: Result, path: Path) -> None:
    """Write a result's picture: a PNG, SVG or PDF, by the file's name."""
    figure(result).savefig(path, dpi=150)


def _heat_maps(result: Result, found: Tensors, names: Sequence[str]) -> Figure:
    """Draw a heat map for each figure; bars, where tensors have no layers."""
    placed = grid(str(row[0]) for row in found.table.rows)
    rows, columns = len(placed.layers), len(placed.roles)
    bars = min(MOST_BARS, len(placed.places))
    tall = 0.25 * min(max(rows, 4), MOST_LABELS) if placed.has_layers else 0.25 * bars
    wide = max(6.5, 2.5 + 0.4 * min(columns, MOST_LABELS)) if placed.has_layers else 8
    drawing = _empty((wide, 2.4 + (tall + 0.7) * len(names)))
    draw = _heat_map if placed.has_layers else _bars
    all_axes = drawing.subplots(len(names), 1, squeeze=False, sharex=placed.has_layers)[:, 0]
    for axes, name in zip(all_axes, names, strict=True):
        draw(drawing, axes, found.column(name), placed)
        axes.set_title(_plain(name), fontsize="medium")
    _title(drawing, result)
    return drawing


def _heat_map(drawing: Figure, axes: Any, figures: dict[str, float | None], placed: Grid) -> None:
    from matplotlib.colors import LogNorm, Normalize

    cells = np.full((len(placed.layers), len(placed.roles)), np.nan)
    for name, number in figures.items():
        if number is not None:
            cells[placed.places[name]] = number
    seen = cells[~np.isnan(cells)]
    logarithmic = is_logarithmic(seen.tolist())
    if logarithmic:  # nothing has no place on its scale
        cells[cells == 0] = np.nan
        seen = seen[seen > 0]
    norm = (LogNorm if logarithmic else Normalize)(seen.min(), seen.max())
    axes.set_facecolor("0.93")
    image = axes.imshow(cells, norm=norm, cmap="viridis_r", aspect="auto", interpolation="none")
    (across, roles), (down, layers) = (_ticks(labels) for labels in (placed.roles, placed.layers))
    axes.set_xticks(across, roles, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(down, layers)
    axes.set_ylabel("layer")
    if max(cells.shape) <= MOST_LABELS:
        axes.set_xticks(np.arange(0.5, len(placed.roles) - 1), minor=True)
        axes.set_yticks(np.arange(0.5, len(placed.layers) - 1), minor=True)
        axes.grid(True, which="minor", color="white", linewidth=0.7)
        axes.tick_params(which="minor", length=0)
    drawing.colorbar(image, ax=axes, ticks=None if seen.min() < seen.max() else [seen.min()])


def _ticks(labels: Sequence[str]) -> tuple[range, list[str]]:
    """Return where labels stand, and as many of them as there is room for."""
    places = range(0, len(labels), -(-len(labels) // MOST_LABELS) or 1)
    return places, [_plain(labels[at]) for at in places]


def _bars(drawing: Figure, axes: Any, figures: dict[str, float | None], placed: Grid) -> None:
    told = sorted(((one, name) for name, one in figures.items() if one is not None), reverse=True)[:MOST_BARS]
    axes.barh([_plain(name) for _, name in told], [one for one, _ in told])
    axes.invert_yaxis()
    if is_logarithmic([one for one, _ in told]):
        axes.set_xscale("log")
    axes.grid(True, axis="x", alpha=0.3)


def _as_sweep(result: Result) -> ExperimentSweep | None:
    from truebits.experiments.experiment import ExperimentSweep

    return result if isinstance(result, ExperimentSweep) else None


def _scatter(found: ExperimentSweep) -> Figure:
    """Draw mean KL divergence over bits per weight, a point for each format.

    Formats that change nothing are drawn at the bottom: zero has no place on a logarithmic axis.
    """
    seen = [(one.to, one.bits or 0.0, one.evaluation.divergence) for one in found.candidates if one.evaluation]
    drawing = _empty((8, 5))
    axes = drawing.add_subplot()
    least = min((one.mean for _, _, one in seen if one.mean > 0), default=1e-9) / 10
    points = [(bits, max(one.mean, least)) for _, bits, one in seen]
    for point, (_, _, one) in zip(points, seen, strict=True):
        axes.errorbar(*point, yerr=one.error, fmt="o", capsize=3, color="C0")
    axes.margins(0.15)
    axes.set(yscale="log", xlabel="bits per weight of the whole model", ylabel="mean KL divergence, nats per token")
    axes.grid(True, which="both", alpha=0.3)
    _title(drawing, found)
    _label(drawing, axes, points, [to if one.mean else f"{to}: 0" for to, _, one in seen])
    return drawing


def _empty(size: tuple[float, float]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self) -> bytes:
            file = BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    drawing = Picture(figsize=size, layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing


def _title(drawing: Figure, result: Result) -> None:
    """Say of which model, and on which text."""
    said = told(result)
    lines = [f"{said.of} · truebits {result.verb}", *([said.measured] if said.measured else [])]
    wrapped = [part for line in lines for part in wrap(line.replace("$", r"\$"), TITLE_COLUMNS)[:3]]
    drawing.suptitle("\n".join(wrapped), fontsize="medium")


def _plain(text: str) -> str:
    """Return a text of bounded length in which no `$` begins a formula."""
    return cut(text, LONGEST_LABEL).replace("$", r"\$")


PLACES = [(x, y) for y in (6, -14, 20, -28, 34, -42) for x in (6, -6)]
"""Where a label may stand beside its point, in typographic points: to its right or left, ever further away."""


def _label(figure: Figure, axes: Any, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Name points, each where its name is clear of other names and points, as far as there is room."""
    figure.draw_without_rendering()
    dots = axes.transData.transform(points)
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots]
    for name, point in zip(names, points, strict=True):
        tries: list[tuple[int, int, Any, Any]] = []
        for x, y in PLACES:
            label = axes.annotate(
                name,
                point,
                textcoords="offset points",
                xytext=(x, y),
                ha="left" if x > 0 else "right",
                fontsize="small",
            )
            box = label.get_window_extent().extents
            clashes = sum(_meet(box, other) for other in taken)
            outside = not _inside(box, axes.get_window_extent().extents)
            tries.append((clashes + outside, len(tries), label, box))
            if not clashes + outside:
                break
        _, best, label, box = min(tries, key=lambda one: one[:2])
        for _, number, other, _ in tries:
            if number != best:
                other.remove()
        taken.append(box)


def _meet(one: Any, other: Any) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _inside(one: Any, other: Any) -> bool:
    return other[0] <= one[0] and one[2] <= other[2] and other[1] <= one[1] and one[3] <= other[3]
