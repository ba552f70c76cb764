"""Quality against size, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from truebits.errors import MissingExtra
from truebits.experiments.experiment import Candidate


def draw(found: Sequence[Candidate], path: Path) -> None:
    """Write a PNG: mean KL divergence over bits per weight, a point for each format.

    Formats that change nothing are drawn at the bottom: zero has no place on a logarithmic axis.

    Raises
    ------
    MissingExtra
    """
    if find_spec("matplotlib") is None:
        raise MissingExtra("drawing", "plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    means = [one.evaluation.divergence.mean for one in found]
    least = min((mean for mean in means if mean > 0), default=1e-9) / 10
    for one, mean in zip(found, means, strict=True):
        axes.errorbar(one.bits, max(mean, least), yerr=one.evaluation.divergence.error, fmt="o", capsize=3)
        axes.annotate(one.to, (one.bits, max(mean, least)), textcoords="offset points", xytext=(6, 4))
    axes.margins(0.15)
    axes.set(yscale="log", xlabel="bits per weight", ylabel="mean KL divergence, nats per token")
    axes.grid(True, which="both", alpha=0.3)
    figure.savefig(path, dpi=150)
