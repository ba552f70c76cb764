"""Pictures: quality against size, and which tensors matter."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from truebits.errors import MissingExtra, printable
from truebits.experiments.experiment import Candidate
from truebits.experiments.sensitivity import Sensitivity

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NO_LAYER = "no layer"


def draw(found: Sequence[Candidate], path: Path) -> None:
    """Write a PNG: mean KL divergence over bits per weight, a point for each format.

    Formats that change nothing are drawn at the bottom: zero has no place on a logarithmic axis.

    Raises
    ------
    MissingExtra
    """
    seen = [(one.to, one.bits, one.evaluation) for one in found if one.evaluation is not None]
    figure = _figure((8, 5))
    axes = figure.add_subplot()
    divergences = [evaluation.divergence for _, _, evaluation in seen]
    least = min((one.mean for one in divergences if one.mean > 0), default=1e-9) / 10
    points = [(bits or 0.0, max(one.mean, least)) for (_, bits, _), one in zip(seen, divergences, strict=True)]
    for (bits, mean), one in zip(points, divergences, strict=True):
        axes.errorbar(bits, mean, yerr=one.error, fmt="o", capsize=3)
    axes.margins(0.15)
    axes.set(yscale="log", xlabel="bits per weight of the whole model", ylabel="mean KL divergence, nats per token")
    axes.grid(True, which="both", alpha=0.3)
    first = seen[0][2]
    _title(figure, first.base, "what each format does to the predictions", first.settings)
    _label(figure, axes, points, [to for to, _, _ in seen])
    figure.savefig(path, dpi=150)


def draw_sensitivity(found: Sensitivity, path: Path) -> None:
    """Write a PNG: a heat map of layer and tensor for each format, mean KL divergence as colour.

    Raises
    ------
    MissingExtra
    """
    rows, columns, cells = _cells(found)
    figure = _figure((3.5 + 0.5 * len(columns), 1.8 + (0.8 + 0.3 * len(rows)) * len(found.formats)))
    from matplotlib.colors import LogNorm

    all_axes = figure.subplots(len(found.formats), 1, squeeze=False, sharex=True)[:, 0]
    for axes, to in zip(all_axes, found.formats, strict=True):
        grid = np.array([[cells.get((to, row, column), np.nan) for column in columns] for row in rows])
        seen = grid[grid > 0]
        norm = LogNorm(seen.min() if seen.size else 1e-9, seen.max() if seen.size else 1.0)
        image = axes.imshow(np.where(grid > 0, grid, np.nan), norm=norm, cmap="viridis", aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_title(to, fontsize="medium")
        figure.colorbar(image, ax=axes, label="mean KL")
    _title(figure, found.model, f"what each {found.by} does alone, nats per token", found.settings)
    figure.savefig(path, dpi=150)


def _cells(found: Sensitivity) -> tuple[list[str], list[str], dict[tuple[str, str, str], float]]:
    """Place effects by format, layer and role; what belongs to no layer stands in a row of its own."""
    placed = {}
    for effect in found.effects:
        words = printable(effect.group).removesuffix(".weight").split(".")
        number = next((i for i, word in enumerate(words) if word.isdigit() or word == "*"), None)
        layer = NO_LAYER if number is None else ".".join(words[: number + 1])
        role = ".".join(words if number is None else words[number + 1 :]) or "all"
        placed[effect.to, layer, role] = effect.kl
    rows, columns = (list(dict.fromkeys(key[i] for key in placed)) for i in (1, 2))
    return sorted(rows, key=lambda row: row == NO_LAYER), columns, placed


def _figure(size: tuple[float, float]) -> Figure:
    if find_spec("matplotlib") is None:
        raise MissingExtra("drawing", "plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _title(figure: Figure, model: str, what: str, settings: dict[str, Any]) -> None:
    """Say what is drawn, of which model, on which text."""
    names = (printable(Path(name).name).replace("$", r"\$") for name in (model, settings["text"]))
    model_name, text = names
    figure.suptitle(
        f"{model_name}: {what}\n{text}, {settings['chunks']:,} chunks of {settings['n_ctx']:,} tokens",
        fontsize="medium",
    )


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
