"""Subcommands that write a model: truncate, fakequant, undo, synth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from truebits.cli.options import ALLOW, DEQUANTIZE, IN_PLACE, JSON, MODEL, SELECTION, STYLE, THREADS, options
from truebits.cli.shared import NotVerified, echo_sentences, open_model
from truebits.errors import printable
from truebits.files.types import FLOAT_BYTES
from truebits.report.table import terminal_width

STORAGE = click.Choice(list(FLOAT_BYTES), case_sensitive=False)

SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


@click.command()
@options(
    MODEL,
    click.argument("out", type=click.Path(path_type=Path), required=False),
    click.option("--bits", type=int, required=True, help="Low bits to set to zero, 1 to 31; 16 leaves BF16."),
    SELECTION,
    IN_PLACE,
    THREADS,
    JSON,
    STYLE,
)
def truncate(
    model: Path,
    out: Path | None,
    bits: int,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    in_place: bool,
    undo_file: Path | None,
    dry_run: bool,
    force: bool,
    allow: tuple[str, ...],
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Cut low bits of F32 values.

    The result is the new file OUT, or MODEL itself with --in-place.

    Writes nothing where nothing would change; --dry-run says beforehand what will.
    """
    from truebits.report import json, text
    from truebits.report.progress import progress_bar
    from truebits.rewriting.truncate import truncate as truncate_model

    opened = open_model(model)
    with progress_bar("truncate") as progress:
        result = truncate_model(
            opened,
            out,
            bits=bits,
            select=include,
            exclude=exclude,
            in_place=in_place,
            undo_file=undo_file,
            force=force,
            allow=allow,
            dry_run=dry_run,
            threads=threads,
            progress=progress,
        )
    if as_json:
        click.echo(json.result(result))
        return
    click.echo(text.changes(result).render(style, terminal_width()))
    if style == "text":
        echo_sentences("", text.rewritten(result))


@click.command()
@options(
    MODEL,
    click.argument("out", type=click.Path(path_type=Path), required=False),
    click.option("--to", metavar="FORMAT", help="bf16, fp8_e4m3fn, e5m7, int8, int4:row:affine, mxfp4, q4_0, ..."),
    click.option(
        "--rule", "rules", multiple=True, metavar="REGEX=FORMAT", help="FORMAT may be `keep`; first match wins."
    ),
    click.option(
        "--rules", "rules_file", type=click.Path(path_type=Path), help="File of rules, one per line, after --rule."
    ),
    click.option("--sweep", metavar="FORMAT,...", help="Write nothing: measure what each format would do."),
    click.option(
        "--rounding", type=click.Choice(("nearest", "truncate", "stochastic")), default="nearest", show_default=True
    ),
    click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Of stochastic rounding; default 0."),
    click.option(
        "--overflow",
        type=click.Choice(("saturate", "inf")),
        help="Default: Inf where the format has it, except when truncating.",
    ),
    click.option("--flush-subnormals", is_flag=True, help="Subnormals of the format become zero."),
    DEQUANTIZE,
    SELECTION,
    IN_PLACE,
    click.option("--by-tensor", is_flag=True, help="One row per tensor, not per group."),
    THREADS,
    JSON,
    STYLE,
)
def fakequant(
    model: Path,
    out: Path | None,
    to: str | None,
    rules: tuple[str, ...],
    rules_file: Path | None,
    sweep: str | None,
    rounding: str,
    seed: int | None,
    overflow: str | None,
    flush_subnormals: bool,
    dequantize: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    in_place: bool,
    undo_file: Path | None,
    dry_run: bool,
    force: bool,
    allow: tuple[str, ...],
    by_tensor: bool,
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Make values what they would be after a round trip through FORMAT.

    The result is the new file OUT, or MODEL itself with --in-place; tensors keep their type.

    \b
    floating point  bf16 fp16 tf32 fp8_e4m3fn fp8_e5m2 fp8_e4m3fnuz fp8_e5m2fnuz fp8_e3m4
                    fp6_e2m3fn fp6_e3m2fn fp4_e2m1fn, and any eXmY
    whole numbers   int2 .. int16, then :blockN (default :block32), :row or :tensor,
                    :affine, :mse
    shared scales   mxfp8 mxfp8_e5m2 mxfp6 mxfp6_e3m2 mxfp4 nvfp4
    ggml's types    q8_0 q4_0 q4_1 q5_0 q5_1 tq1_0 tq2_0 ggml_mxfp4, and with the extra
                    `eval` q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs

    ggml's types leave norms and biases, as llama.cpp does, unless a --rule names them.
    """  # noqa: D301
    from truebits.errors import UsageError
    from truebits.numbers.rounding import Rounding

    if seed is not None and rounding != "stochastic":
        raise UsageError("--seed is for --rounding stochastic")
    how = Rounding(rounding, seed or 0, overflow, flush_subnormals)
    chosen: dict[str, Any] = {"select": include, "exclude": exclude, "rounding": how, "threads": threads}
    chosen["dequantize"] = dequantize
    if sweep is not None:
        if out or to or rules or rules_file or in_place or undo_file or dry_run:
            raise UsageError("--sweep writes nothing: it goes with a selection and with --rounding, not with an output")
        _sweep(model, sweep, chosen, as_json, style)
        return
    from truebits.report import figures, json, text
    from truebits.report.progress import progress_bar
    from truebits.rewriting.fakequant import fakequant as fakequant_model
    from truebits.rewriting.rules import read_rules

    all_rules = [*rules, *(read_rules(rules_file) if rules_file else ())]
    opened = open_model(model)
    writing: dict[str, Any] = {"in_place": in_place, "undo_file": undo_file, "force": force, "allow": allow}
    with progress_bar("fakequant") as progress:
        result = fakequant_model(
            opened, out, to=to, rules=all_rules, dry_run=dry_run, progress=progress, **chosen, **writing
        )
    if as_json:
        click.echo(json.result(result))
        return
    table = figures.rounded(result, by_tensor)
    if style != "text":
        click.echo(table.render(style))
        return
    click.echo(figures.brief(table).render(width=terminal_width()))
    echo_sentences("", text.rewritten(result))


def _sweep(model: Path, formats: str, options: dict[str, Any], as_json: bool, style: str) -> None:
    """Print what each of several formats would do to a model."""
    from truebits.report import figures, json, listing
    from truebits.report.progress import progress_bar
    from truebits.rewriting.trials import sweep

    opened = open_model(model)
    with progress_bar("sweep") as progress:
        found = sweep(opened, [name.strip() for name in formats.split(",")], progress=progress, **options)
    if as_json:
        click.echo(json.result(found))
        return
    table = figures.trials(found)
    if style == "text":
        echo_sentences(listing.headline(opened), figures.touched(found, opened), "", figures.nearest(found), "")
        table = table.without(figures.NOT_BRIEF)
    click.echo(table.render(style))


@click.command()
@options(
    MODEL,
    click.option("--undo-file", type=click.Path(path_type=Path), required=True, help="What the rewrite recorded."),
    click.option("--force", is_flag=True, help="Restore what can be, even if MODEL was changed since."),
    ALLOW,
    JSON,
)
def undo(model: Path, undo_file: Path, force: bool, allow: tuple[str, ...], as_json: bool) -> None:
    """Take an in-place rewrite back, finished or not."""
    from truebits.rewriting.undo import undo as undo_rewrite

    undone = undo_rewrite(model, undo_file, force=force, allow=allow)
    if as_json:
        from truebits.report.json import document

        click.echo(document("undo", {"file": str(model), **asdict(undone)}))
    else:
        restored = f"{undone.nbytes:,} bytes restored. The undo file is kept."
        if undone.is_proved:
            click.echo(f"{printable(str(model))} is as it was, by SHA-256: {restored}")
        else:
            click.echo(f"{printable(str(model))} is not what it was before the rewrite: {restored}")
    if not undone.is_proved:
        raise NotVerified


@click.command()
@options(
    click.argument("out", type=click.Path(path_type=Path)),
    click.option(
        "--like", type=click.Choice(("tinyllama",)), help="A real model's tensors, shapes, types and vocabulary size."
    ),
    click.option("--precision", help="Format that every value is exact in; default: f32, like TinyLlama: bf16."),
    click.option("--type", "type_", type=STORAGE, default="F32", show_default=True, help="Storage type."),
    click.option("--size", default="64MiB", show_default=True, help="Of the tensors together, as 64MiB or 2GB."),
    click.option("--tensors", type=click.IntRange(1), help="How many; default: as few as hold the size."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option("--force", is_flag=True, help="Replace OUT if it exists."),
    JSON,
)
def synth(
    out: Path,
    like: str | None,
    precision: str | None,
    type_: str,
    size: str,
    tensors: int | None,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Write a test model whose precision is known."""
    from truebits.experiments.synth import synth as write
    from truebits.report import listing

    write(out, like=like, precision=precision, type=type_, size=_size(size), tensors=tensors, seed=seed, force=force)
    opened = open_model(out)
    if as_json:
        click.echo("".join(listing.document(opened, opened.tensors, "synth")))
        return
    exact = precision or ("bf16" if like else "f32")
    click.echo(f"{listing.headline(opened)}\nvalues are exact in {exact}, seed {seed}")


def _size(text: str) -> int:
    """Parse ``64MiB``, ``2GB``, ``1000``."""
    digits = text.rstrip("bBiIkKmMgG")
    unit = text[len(digits) :].lower().removesuffix("b")
    if not digits.isdecimal() or unit not in SIZES:
        raise click.BadParameter(f"{text!r} is not a size like 64MiB or 2GB", param_hint="--size")
    return int(digits) * SIZES[unit]
