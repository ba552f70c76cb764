"""Model -> report: what precision each tensor really has, what was read, and what is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate

from truebits.files.model import Model, Regexes, open_model
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES, WHOLE_NUMBERS
from truebits.precision.batches import Progress
from truebits.precision.counting import Counts, floating, profiles
from truebits.precision.coverage import NO_WEIGHTS, NOT_SELECTED, Coverage
from truebits.precision.report import Report
from truebits.quantizers.weights import meaning_of
from truebits_native.types import LAYOUTS as BLOCK_LAYOUTS

LEFT_OUT = "quantized, read with --blocks"


def scan(
    source: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    blocks: bool | None = None,
    rows: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    counts: Counts | None = None,
) -> Report:
    """Count exponents and trailing zeros of a model's floating-point tensors, and look at its quantized ones.

    Parameters
    ----------
    source : Model or path-like
    select, exclude : regex or regexes, optional
        Searched for in tensor names; `exclude` wins.
    blocks : bool, optional
        None: look at a sample of each block-quantized tensor, 2,048 blocks in 64 runs. True: read the scales of all
        their blocks, which alone can tell that no NaN hides there, and look for what floating-point matrices were
        dequantized from. False: leave them out.
    rows : bool
        Find where in tensors the precision changes: rows that are exact in a narrower format than others.
    threads : int, optional
        All cores if not given. The result does not depend on it.
    progress : callable, optional
        Called with bytes done and bytes in all.
    counts : Counts, optional
        Of the unquantized tensors, where their words were counted elsewhere.

    Returns
    -------
    Report

    Raises
    ------
    SelectionError
        The selection has no F32, F16, BF16 or F64 tensor, and (but for ``blocks=False``) none of a block type.
    ModelFileError, OSError
        As `open`; and if the file changes meanwhile.
    """
    from truebits.precision.symptoms import findings_of

    of = meaning_of(open_model(source))
    model, architecture = of.model, of.model.architecture
    selected = model.select(select, exclude)
    types = FLOAT_BYTES if blocks is False else (*FLOAT_BYTES, *BLOCK_LAYOUTS)
    quantized = [of.quantized[tensor.name] for tensor in selected if tensor.name in of.quantized]
    kept = floating(selected, types, asked=bool(select or exclude) and not quantized)
    plain = [tensor for tensor in kept if tensor.type in FLOAT_BYTES]
    packed = [tensor for tensor in kept if tensor.type in BLOCK_LAYOUTS and (blocks or not model.is_remote)]
    model.expect(kept if blocks else plain)
    counting, dequantizing, reading = _stages(
        progress, plain, [one.tensor for one in quantized], packed if blocks else []
    )
    found = profiles(model, plain, architecture, threads, counting, counts)
    if quantized:
        from truebits.precision.meant import meant_profiles

        found |= meant_profiles(model, quantized, threads, dequantizing)
        found = {one.name: found[one.name] for one in selected if one.name in found}
    report = Report(model, found, architecture)
    if blocks or packed:
        from truebits.precision.sampling import read_blocks, sample_blocks

        looked = read_blocks(model, plain, packed, threads, reading) if blocks else (sample_blocks(model, packed), {})
        report = replace(report, blocks=looked[0], made_from=looked[1])
    if rows:
        from truebits.precision.rows import mixed_rows

        report = replace(report, rows=mixed_rows(model, [one for one in found.values() if one.is_plain], threads))
    report = replace(report, coverage=_coverage(report, selected, of.not_read))
    return replace(report, findings=findings_of(report))


def _stages(progress: Progress | None, *stages: Sequence[Tensor]) -> list[Progress]:
    """Return what each stage of the work reports to: bytes done of its own, which come after those of the earlier."""
    sizes = [sum(tensor.nbytes for tensor in stage) for stage in stages]

    def moved(before: int, done: int, _: int) -> None:
        if progress is not None:
            progress(before + done, sum(sizes))

    return [partial(moved, before) for before in accumulate([0, *sizes[:-1]])]


def _coverage(report: Report, selected: Sequence[Tensor], not_read: Mapping[str, str]) -> Coverage:
    """Say what a scan has read, and why not the rest."""
    names = {tensor.name for tensor in selected}
    others = (tensor for tensor in report.model.tensors if tensor.name not in report.tensors)
    return Coverage.merge(
        [
            Coverage.of_whole([one.tensor for one in report.tensors.values()]),
            *(
                _read(report, tensor, not_read) if tensor.name in names else Coverage.of_tensor(tensor, NOT_SELECTED)
                for tensor in others
            ),
        ]
    )


def _read(report: Report, tensor: Tensor, not_read: Mapping[str, str]) -> Coverage:
    if tensor.name in report.blocks:
        return report.blocks[tensor.name].coverage
    return Coverage.of_tensor(tensor, not_read.get(tensor.name) or _why_not(tensor))


def _why_not(tensor: Tensor) -> str:
    if tensor.type in WHOLE_NUMBERS:
        return NO_WEIGHTS
    if tensor.type in BLOCK_LAYOUTS:
        return LEFT_OUT
    return "unknown type" if tensor.opaque else "no reader for this type"
