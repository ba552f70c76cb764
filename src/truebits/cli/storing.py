"""Subcommands that write the same values in other types: dequantize, shrink."""

from __future__ import annotations

from pathlib import Path

import click

from truebits.cli.options import JSON, MODEL, SELECTION, STYLE, THREADS, options
from truebits.cli.shared import echo_sentences, open_model
from truebits.errors import printable


@click.command()
@options(
    MODEL,
    click.argument("out", type=click.Path(path_type=Path)),
    click.option("--to", type=click.Choice(("f32", "f16", "bf16")), default="f32", show_default=True),
    click.option("--force", is_flag=True, help="Replace OUT if it exists."),
    THREADS,
    JSON,
)
def dequantize(model: Path, out: Path, to: str, force: bool, threads: int | None, as_json: bool) -> None:
    """Write quantized tensors as the values that they stand for.

    A GGUF becomes the GGUF OUT; a quantized checkpoint (FP8, MXFP4, GPTQ, AWQ, bitsandbytes, MLX, ...) one safetensors
    file. F32 holds the values exactly; F16 and BF16 round them to nearest. What is not quantized stays as it is.
    """
    from truebits.report import json, table
    from truebits.report.progress import progress_bar
    from truebits.rewriting.dequantize import dequantize as dequantize_model

    opened = open_model(model)
    with progress_bar("dequantize") as progress:
        done = dequantize_model(opened, out, to=to, force=force, threads=threads, progress=progress)
    if as_json:
        click.echo(json.document("dequantize", done.content()))
        return
    sizes = f"{table.nbytes(done.bytes_before)} became {table.nbytes(done.bytes_after)}"
    echo_sentences(f"{printable(str(out))}: {done.summary}; {sizes}.")


@click.command()
@options(
    MODEL,
    click.argument("out", type=click.Path(path_type=Path), required=False),
    click.option("--all", "everything", is_flag=True, help="Also norms, and what else llama.cpp wants in F32."),
    click.option(
        "--allow",
        multiple=True,
        type=click.Choice(("rounding",)),
        help="F16 and BF16 values that were blocks or FP8, and rounded, become these: finer by that rounding.",
    ),
    click.option("--dry-run", is_flag=True, help="Find and prove all of it; write nothing."),
    click.option("--force", is_flag=True, help="Replace OUT if it exists."),
    SELECTION,
    click.option("--by-tensor", is_flag=True, help="One row per tensor, not per group."),
    THREADS,
    JSON,
    STYLE,
)
def shrink(
    model: Path,
    out: Path | None,
    everything: bool,
    allow: tuple[str, ...],
    dry_run: bool,
    force: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    by_tensor: bool,
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Write the same values in fewer bytes: every tensor in the narrowest type that holds them.

    F32 becomes BF16 or F16 where every value is exact in it, in safetensors also FP8. In GGUF a matrix that holds
    nothing but the levels of Q8_0, Q5_1, Q5_0, Q4_1, Q4_0, MXFP4 or NVFP4 becomes these blocks again; in a folder one
    of FP8 codes times scales becomes these, and config.json says so. The hash of all values is the same before and
    after. --dry-run says beforehand what is to be saved.
    """
    from truebits.report import json
    from truebits.report import shrink as told
    from truebits.report.progress import progress_bar
    from truebits.report.table import terminal_width
    from truebits.rewriting.shrink import shrink as shrink_model

    opened = open_model(model)
    with progress_bar("shrink") as progress:
        found = shrink_model(
            opened,
            out,
            include,
            exclude,
            keep_f32=not everything,
            allow=allow,
            dry_run=dry_run,
            force=force,
            threads=threads,
            progress=progress,
        )
    if as_json:
        click.echo(json.result(found))
        return
    table = told.types(found, by_tensor).render(style, terminal_width())
    click.echo(table if style != "text" else "\n\n".join(told.story(found, table, dry_run)))
