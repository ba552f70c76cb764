"""Which tensors matter, and what a recipe makes of it, in sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence

from truebits.errors import printable
from truebits.experiments.recipe import Recipe, Whole
from truebits.experiments.sensitivity import Effect, Sensitivity
from truebits.report.experiment import computed_by
from truebits.report.sections import Section
from truebits.report.table import Cell, Scientific, Table, percent
from truebits.report.tensors import MEGABYTE

NAMED = 3
"""Groups in the verdict."""


def ranked(of: Sensitivity) -> list[Section]:
    """Tell a format after the other, what matters most first."""
    sections = [Section(whole.to, [verdict(of, whole), _effects(of, of.of(whole.to))]) for whole in of.together]
    if of.left_out:
        name, why = next(iter(of.left_out.items()))
        count = len(of.left_out)
        sections.append(Section("Left out", [f"{count:,} tensor{'s' * (count > 1)}, as {printable(name)}: {why}."]))
    return [*sections, Section("Measured", [_told(of), computed_by(of.settings)])]


def verdict(of: Sensitivity, whole: Effect) -> str:
    """Say what all groups at once do, and which of them the most."""
    effects = of.of(whole.to)
    total = sum(effect.kl for effect in effects)
    most = ", ".join(f"{printable(one.group)} ({_share(one.kl, total)})" for one in effects[:NAMED])
    return (
        f"All at once move the predictions by {whole.kl:.2e} +- {whole.error:.1e} nats per token; what each {of.by} "
        f"does alone sums to {total:.2e}, most of it {most}."
    )


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def _effects(of: Sensitivity, effects: Sequence[Effect]) -> Table:
    table = Table((of.by, "values", "change", "mean KL", "+-", "same top", "KL per MB saved", ""))
    for one in effects:
        price = None if one.kl_per_bit is None else Scientific(one.kl_per_bit * MEGABYTE)
        unclear = "" if of.is_told(one) else "not told from none"
        cells: tuple[Cell, ...] = (printable(one.group), one.values, percent(one.changed, one.values))
        table.rows.append(
            (*cells, Scientific(one.kl), Scientific(one.error), f"{100 * one.top1:.2f} %", price, unclear)
        )
    return table


def _told(of: Sensitivity) -> str:
    unclear, count = len(of.unclear), len(of.effects)
    if not unclear:
        return f"Each of {count:,} effects is more than twice its error, and above the floor of {of.floor:.1e}."
    return (
        f"{unclear:,} of {count:,} effects are not told from none by {of.settings['tokens']:,} tokens: "
        "take more text, or more of it (--chunks)."
    )


def chosen(of: Recipe) -> list[Section]:
    """Tell a recipe: what it costs against the same format everywhere, then tensor by tensor."""
    table = Table(("choice", "bits", "predicted KL", "measured KL", "+-", "same top"))
    table.rows = [_whole(one) for one in sorted((of.whole, *of.uniform), key=lambda one: -one.bits)]
    formats = Table(("format", "tensors", "which"))
    for to in dict.fromkeys(of.formats.values()):
        names = [name for name, one in of.formats.items() if one == to]
        formats.rows.append((to, len(names), _some(names)))
    return [
        Section("Recipe", [kept(of), table]),
        Section("Formats", [formats]),
        Section("Measured", [computed_by(of.settings)]),
    ]


def kept(of: Recipe) -> str:
    """Say whether a recipe keeps to its budget, and what it costs."""
    met = "kept" if of.is_met else "NOT kept"
    ratio = f" ({of.whole.kl / of.whole.predicted:.2f} times the sum of its parts)" if of.whole.predicted else ""
    return (
        f"Budget of {of.budget}: {met}. {of.whole.bits:.2f} bits per weight, mean KL {of.whole.kl:.2e} +- "
        f"{of.whole.error:.1e} nats per token{ratio}. Found on {of.settings['chunks']:,} chunks of the text, "
        f"measured on the {of.settings['judged_chunks']:,} that follow."
    )


def _whole(one: Whole) -> tuple[Cell, ...]:
    divergences = (Scientific(value) for value in (one.predicted, one.kl, one.error))
    return one.to, one.bits, *divergences, f"{100 * one.top1:.2f} %"


def _some(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(printable(name).removesuffix(".weight") for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names) - most:,} more)"


def rules_file(of: Recipe) -> str:
    """Return a file for ``fakequant --rules``."""
    lines = [f"# {of.budget}: {of.whole.bits:.3f} bits per weight, mean KL {of.whole.kl:.3e} +- {of.whole.error:.1e}"]
    return "\n".join([*lines, *(f"{rule.regex}={rule.format}" for rule in of.rules())]) + "\n"


def tensor_types_file(of: Recipe) -> str:
    """Return a file for ``llama-quantize --tensor-type-file``, which knows no comments."""
    return "".join(f"{line}\n" for line in of.tensor_types())
