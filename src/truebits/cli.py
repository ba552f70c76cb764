"""The command line: one function per subcommand."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from truebits import __version__
from truebits.errors import TruebitsError, printable
from truebits.report.table import STYLES

if TYPE_CHECKING:
    from types import ModuleType

    from truebits.diff import Diff
    from truebits.files.model import Model
    from truebits.report.table import Table
    from truebits.trace import Trace

EXIT_CODES = """\b
Exit codes: 0 done, 1 difference found or gate failed, 2 wrong usage, 3 not a valid model file,
4 I/O error, 5 refused or busy, 6 an in-place rewrite was left unfinished (run again, or undo), 130 interrupted."""

STORAGE = click.Choice(("F32", "F16", "BF16", "F64"), case_sensitive=False)

SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="truebits")
def app() -> None:
    """What precision do a model file's weights truly carry, and what happens if they carry less?"""


def options(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    """Put several click options on a command, in the order given."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


MODEL = click.argument("model", type=click.Path(path_type=Path))
SELECTION = options(
    click.option(
        "-l", "--include", multiple=True, metavar="REGEX", help="Only tensors whose name it is found in; repeatable."
    ),
    click.option(
        "-L", "--exclude", multiple=True, metavar="REGEX", help="Not tensors whose name it is found in; repeatable."
    ),
)
THREADS = click.option("--threads", type=click.IntRange(1), help="Default: all cores. Results do not depend on it.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
STYLE = click.option("-o", "--output", "style", type=click.Choice(STYLES), default="text", show_default=True)
REPORT = click.option("-o", "--output", "style", type=click.Choice(("text", "md")), default="text", show_default=True)
ALLOW = click.option(
    "--allow",
    multiple=True,
    type=click.Choice(("symlink", "hardlink", "cache", "open", "layout")),
    help="Change in place what is refused otherwise; repeatable.",
)

IN_PLACE = options(
    click.option("--in-place", is_flag=True, help="Change MODEL itself."),
    click.option(
        "--undo-file", type=click.Path(path_type=Path), help="In place: keep the old bytes there, for `undo`."
    ),
    click.option("--dry-run", is_flag=True, help="Say what would change; write nothing."),
    click.option("--force", is_flag=True, help="Replace OUT if it exists."),
    ALLOW,
)


@app.command()
@options(MODEL, SELECTION, JSON, STYLE)
def show(model: Path, include: tuple[str, ...], exclude: tuple[str, ...], as_json: bool, style: str) -> None:
    """List tensors and types; reads the header only."""
    opened = _open(model)
    chosen = opened.select(include, exclude)
    if as_json:
        from truebits.report import json

        click.echo(json.show(opened, chosen))
        return
    from truebits.report import listing

    _print(listing.heading(opened), listing.tensors(opened, chosen), style)


@app.command()
@options(
    MODEL,
    SELECTION,
    click.option("--bits", type=click.IntRange(1, 63), default=16, show_default=True, help="Low bits to look at."),
    click.option("--by-tensor", is_flag=True, help="One row per tensor, not per group."),
    click.option(
        "--low-bits-only", is_flag=True, help="Only count F32 values whose low bits are zero, at memory speed."
    ),
    click.option("--bits-view", metavar="TENSOR", help="Print sample values of one tensor bit by bit."),
    click.option("--fingerprint", is_flag=True, help="Hash the values, however stored; --json: manifest for `verify`."),
    click.option(
        "--blocks", is_flag=True, help="Read block-quantized tensors too, and find what was quantized before."
    ),
    THREADS,
    JSON,
    STYLE,
)
def scan(
    model: Path,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    bits: int,
    by_tensor: bool,
    low_bits_only: bool,
    bits_view: str | None,
    fingerprint: bool,
    blocks: bool,
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Count what precision each tensor really has."""
    from truebits.errors import UsageError

    if fingerprint:
        _fingerprint(model, include, exclude, threads, as_json, style)
        return
    if blocks and (low_bits_only or bits_view is not None):
        raise UsageError("--blocks goes with the full scan, not with --low-bits-only or --bits-view")
    opened = _open(model)
    from truebits.report import listing, text
    from truebits.report.progress import progress_bar

    if bits_view is not None:
        view = text.bits_view(opened, bits_view, bits)
        if as_json:
            from truebits.report import json

            click.echo(json.bits_view(opened, bits_view, bits, view))
            return
        click.echo(view.render(style))
        return
    if low_bits_only:
        from truebits.scan import low_bits

        with progress_bar("scan") as progress:
            counts = low_bits(opened, bits, include, exclude, threads=threads, progress=progress)
        if as_json:
            from truebits.report import json

            click.echo(json.low_bits(opened, bits, counts))
            return
        _print(listing.headline(opened), text.low_bits(opened, bits, counts, by_tensor), style)
        return
    from truebits.scan import scan as scan_model

    with progress_bar("scan") as progress:
        report = scan_model(opened, include or None, exclude, blocks=blocks, threads=threads, progress=progress)
    if as_json:
        from truebits.report import json

        click.echo(json.scan(report))
        return
    rows = text.rows_of(report, by_tensor)
    if style == "csv":
        click.echo(text.counts(rows, bits).render(style))
        if blocks:
            from truebits.report import blocks as block_report

            click.echo(f"\n{block_report.counts(report, by_tensor).render(style)}")
        return
    _print(listing.headline(opened), text.precision(rows, bits), style)
    if report.tensors:
        click.echo(f"\n{text.contents(rows).render(style)}")
    conclusion = text.conclusion
    if blocks:
        from truebits.report import blocks as block_report

        click.echo(f"\n{block_report.codes(report, by_tensor).render(style)}")
        conclusion = block_report.conclusion
    if style == "text":
        click.echo(f"\n{conclusion(report)}")


def _fingerprint(
    model: Path, include: tuple[str, ...], exclude: tuple[str, ...], threads: int | None, as_json: bool, style: str
) -> None:
    """Print the fingerprint, or the hash of each tensor."""
    from click.core import ParameterSource

    from truebits.errors import UsageError

    context = click.get_current_context()
    for option in ("bits", "by_tensor", "low_bits_only", "bits_view", "blocks"):
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--{option.replace('_', '-')} says nothing of a fingerprint: leave it out")
    from truebits.fingerprint import fingerprint
    from truebits.report import identity, json
    from truebits.report.progress import progress_bar

    opened = _open(model)
    with progress_bar("fingerprint") as progress:
        found = fingerprint(opened, include, exclude, threads=threads, progress=progress)
    if as_json:
        click.echo(json.fingerprint(found))
    else:
        click.echo(identity.headline(found) if style == "text" else identity.tensors(found).render(style))


@app.command()
@options(
    MODEL,
    click.argument("manifest", type=click.Path(path_type=Path)),
    SELECTION,
    THREADS,
    JSON,
    STYLE,
)
def verify(
    model: Path,
    manifest: Path,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Check every tensor against MANIFEST; exit code 0 if all are the same, 1 if not.

    `truebits scan MODEL --fingerprint --json > MANIFEST` makes one. Floating-point tensors may be stored in
    another type, order or number of files: what counts is their values.
    """
    from truebits.report import identity, json
    from truebits.report.progress import progress_bar
    from truebits.verify import verify as verify_model

    opened = _open(model)
    with progress_bar("verify") as progress:
        found = verify_model(opened, manifest, include, exclude, threads=threads, progress=progress)
    text = json.verification(found, str(manifest)) if as_json else identity.verified(found, style)
    with _closed_pipe_is_no_error():
        click.echo(text)
    if not found.is_same:
        raise Different


@app.command()
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
    from truebits.truncate import truncate as truncate_model

    opened = _open(model)
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
    output = str(model if in_place else out) if result.written else None
    if as_json:
        click.echo(json.rewrite("truncate", str(model), output, result))
        return
    click.echo(text.changes(result).render(style))
    if style == "text":
        click.echo(f"\n{text.rewritten(result, output, in_place)}")


@app.command()
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
    r"""Make values what they would be after a round trip through FORMAT.

    The result is the new file OUT, or MODEL itself with --in-place; tensors keep their type.

    \b
    floating point  bf16 fp16 tf32 fp8_e4m3fn fp8_e5m2 fp8_e4m3fnuz fp8_e5m2fnuz fp8_e3m4
                    fp6_e2m3fn fp6_e3m2fn fp4_e2m1fn, and any eXmY
    whole numbers   int2 .. int16, then :blockN (default :block32), :row or :tensor,
                    :affine, :mse
    shared scales   mxfp8 mxfp8_e5m2 mxfp6 mxfp6_e3m2 mxfp4 nvfp4
    ggml's types    q8_0 q4_0 q4_1 q5_0 q5_1 tq1_0 tq2_0 ggml_mxfp4, and with the extra
                    `eval` q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs
    """
    from truebits.errors import UsageError

    if seed is not None and rounding != "stochastic":
        raise UsageError("--seed is for --rounding stochastic")
    manner: dict[str, Any] = {"rounding": rounding, "seed": seed or 0, "overflow": overflow}
    manner["flush_subnormals"] = flush_subnormals
    chosen: dict[str, Any] = {"select": include, "exclude": exclude, "threads": threads}
    if sweep is not None:
        if out or to or rules or rules_file or in_place or undo_file or dry_run:
            raise UsageError("--sweep writes nothing: it goes with a selection and with --rounding, not with an output")
        _sweep(model, sweep, {**manner, **chosen}, as_json, style)
        return
    from truebits.fakequant import bits_per_weight
    from truebits.fakequant import fakequant as fakequant_model
    from truebits.formats import target
    from truebits.report import figures, json, text
    from truebits.report.progress import progress_bar
    from truebits.rules import read_rules

    all_rules = [*rules, *(read_rules(rules_file) if rules_file else ())]
    opened = _open(model)
    writing: dict[str, Any] = {"in_place": in_place, "undo_file": undo_file, "force": force, "allow": allow}
    with progress_bar("fakequant") as progress:
        result = fakequant_model(
            opened, out, to=to, rules=all_rules, dry_run=dry_run, progress=progress, **manner, **chosen, **writing
        )
    output = str(model if in_place else out) if result.written else None
    tensors = {tensor.name: tensor for tensor in opened.tensors}
    bits = bits_per_weight((tensors[change.name], target(change.to)) for change in result.tensors if change.to)
    if as_json:
        click.echo(json.fakequant(str(model), output, result, bits))
        return
    click.echo(figures.rounded(result, by_tensor).render(style))
    if style == "text":
        click.echo(f"\n{text.rewritten(result, output, in_place)}")


def _sweep(model: Path, formats: str, options: dict[str, Any], as_json: bool, style: str) -> None:
    """Print what each of several formats would do to a model."""
    from truebits.fakequant import sweep
    from truebits.report import figures, json, listing
    from truebits.report.progress import progress_bar

    opened = _open(model)
    with progress_bar("sweep") as progress:
        found = sweep(opened, [name.strip() for name in formats.split(",")], progress=progress, **options)
    if as_json:
        click.echo(json.sweep(str(model), found))
        return
    _print(listing.headline(opened), figures.trials(found), style)
    for trial in found:
        if trial.problem and style == "text":
            click.echo(f"\n{trial.to}: {printable(trial.problem)}")


@app.command()
@options(
    click.argument("a", type=click.Path(path_type=Path)),
    click.argument("b", type=click.Path(path_type=Path)),
    SELECTION,
    click.option(
        "--fail-over",
        "limits",
        multiple=True,
        metavar="METRIC=VALUE",
        help="Only fail if a tensor is above: changed, max_abs, max_rel, max_ulp, mse, rms; repeatable.",
    ),
    THREADS,
    JSON,
    STYLE,
)
def diff(
    a: Path,
    b: Path,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    limits: tuple[str, ...],
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Compare two models value by value; exit code 0 if they are the same, 1 if not.

    With --fail-over it is 1 if a tensor is above a limit, missing, or not to be compared.
    """
    from truebits.diff import diff as compare
    from truebits.report import figures, json
    from truebits.report.progress import progress_bar

    gates = [_gate(limit) for limit in limits]
    ours, theirs = _open(a), _open(b)
    with progress_bar("diff") as progress:
        found = compare(ours, theirs, include or None, exclude, threads=threads, progress=progress)
    failed = [line for metric, limit in gates for line in found.over(metric, limit)]
    with _closed_pipe_is_no_error():
        if as_json:
            click.echo(json.diff(found, failed))
        else:
            _print_diff(figures, found, failed, style)
    if failed or not (gates or found.is_same):
        raise Different


def _print_diff(figures: ModuleType, found: Diff, failed: list[str], style: str) -> None:
    table = figures.diff(found)
    if table.rows:
        click.echo(table.render(style))
    if style == "text":
        places = figures.places(found)
        if places.rows:
            click.echo(f"\n{places.render(style)}\n")
        for line in [*figures.differences(found), *(f"gate failed: {line}" for line in failed)]:
            click.echo(line)


@app.command()
@options(
    click.argument("models", nargs=-1, type=click.Path(path_type=Path), metavar="GGUF SOURCE | A B [C]..."),
    SELECTION,
    click.option("--thorough", is_flag=True, help="Quantize all of a quantized tensor again, not only its start."),
    THREADS,
    JSON,
    STYLE,
)
def trace(
    models: tuple[Path, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    thorough: bool,
    threads: int | None,
    as_json: bool,
    style: str,
) -> None:
    """Compare a GGUF with the checkpoint that it was converted from, or GGUFs of one model with each other.

    SOURCE is a Hugging Face folder or a safetensors file. What the converter does (permuted heads, norms plus
    one, stacked experts) is done again, and every tensor compared bit for bit, or, if it is quantized, by
    its error. Exit code 1 if a tensor is altered, missing or extra.

    Of several GGUFs each is compared with the first: which tensors differ, and what their values went
    through. Exit code 1 if rounding and quantization do not explain a difference.
    """
    from truebits.errors import UsageError

    if len(models) < 2:
        raise UsageError("there is nothing to compare: give a GGUF and its checkpoint, or two GGUFs or more")
    opened = [_open(model) for model in models]
    if len(opened) > 2 or opened[1].format == "gguf":
        if thorough:
            raise UsageError("--thorough is for a GGUF and its checkpoint")
        _siblings(opened, {"select": include or None, "exclude": exclude, "threads": threads}, as_json, style)
        return
    from truebits.report import json, traces
    from truebits.report.progress import progress_bar
    from truebits.trace import trace as compare

    model, checkpoint = opened
    with progress_bar("trace") as progress:
        found = compare(
            model, checkpoint, include or None, exclude, thorough=thorough, threads=threads, progress=progress
        )
    with _closed_pipe_is_no_error():
        if as_json:
            click.echo(json.trace(found))
        else:
            _print_trace(traces, found, style)
    if not found.is_faithful:
        raise Different


def _siblings(models: list[Model], options: dict[str, Any], as_json: bool, style: str) -> None:
    """Print what several GGUFs are to the first of them."""
    from truebits.report import json, kin
    from truebits.report.progress import progress_bar
    from truebits.siblings import siblings

    with progress_bar("trace") as progress:
        found = siblings(models, progress=progress, **options)
    with _closed_pipe_is_no_error():
        if as_json:
            click.echo(json.siblings(found))
        elif style == "csv":
            click.echo(kin.tensors(found).render(style))
        else:
            click.echo(f"{kin.models(found).render(style)}\n\n{kin.groups(found).render(style)}")
            if style == "text":
                click.echo("\n" + "\n".join(kin.conclusions(found)))
    if not found.is_explained:
        raise Different


def _print_trace(traces: ModuleType, found: Trace, style: str) -> None:
    if style == "csv":
        click.echo(traces.tensors(found).render(style))
        return
    click.echo(traces.groups(found).render(style))
    places = traces.places(found)
    if places.rows:
        click.echo(f"\n{places.render(style)}")
    if style == "text":
        click.echo()
        for line in traces.remarks(found):
            click.echo(line)


def _gate(text: str) -> tuple[str, float]:
    """Parse ``max_abs=1e-3``."""
    from truebits.diff import check_limit

    metric, _, number = text.partition("=")
    try:
        limit = float(number)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not METRIC=VALUE", param_hint="--fail-over") from None
    check_limit(metric.strip(), limit)
    return metric.strip(), limit


class Different(Exception):
    """A difference was found, or a gate failed: exit code 1."""


EVALUATION = options(
    click.option("--prompts", type=click.Path(path_type=Path), help="File of one prompt per line."),
    click.option("--context", "n_ctx", type=int, default=512, show_default=True, help="Tokens per chunk of text."),
    click.option("--chunks", type=int, help="Only the first so many; default: all."),
    click.option("--rounds", type=int, default=5, show_default=True, help="Of the timings; 0 for none."),
    click.option("--answer-tokens", type=int, default=48, show_default=True, help="Length of an answer, at most."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the timings' bootstrap."),
)


@app.command("eval")
@options(
    click.argument("base", type=click.Path(path_type=Path)),
    click.argument("candidate", type=click.Path(path_type=Path)),
    click.option(
        "--text", type=click.Path(path_type=Path), required=True, help="File that predictions are measured on."
    ),
    EVALUATION,
    THREADS,
    JSON,
    REPORT,
)
def evaluate(
    base: Path,
    candidate: Path,
    text: Path,
    prompts: Path | None,
    threads: int | None,
    as_json: bool,
    style: str,
    **settings: Any,
) -> None:
    """Compare what two models predict, answer, and how fast they are, in llama.cpp."""
    from truebits.dialogue import read_prompts
    from truebits.evaluate import evaluate as compare
    from truebits.report.progress import progress_bar

    asked = read_prompts(prompts) if prompts else None
    models = _open(base), _open(candidate)
    with progress_bar("eval", in_bytes=False) as progress:
        found = compare(*models, text=text, prompts=asked, threads=threads, progress=progress, **settings)
    if as_json:
        from truebits.report import json

        click.echo(json.evaluation(found))
        return
    from truebits.report import story

    click.echo(story.render(story.evaluated(found), style))


@app.command()
@options(
    MODEL,
    click.option("--bits", type=int, help="Cut so many low bits of F32 values."),
    click.option("--to", metavar="FORMAT", help="Round to a format, as `fakequant` does."),
    click.option("--rule", "rules", multiple=True, metavar="REGEX=FORMAT", help="As for `fakequant`."),
    click.option("--sweep", metavar="FORMAT,...", help="Several formats, against one loaded base."),
    SELECTION,
    click.option("--text", type=click.Path(path_type=Path), help="File that predictions are measured on."),
    click.option("--out", type=click.Path(path_type=Path), help="Keep the rewritten model there."),
    click.option("--anyway", is_flag=True, help="Measure even where nothing can change."),
    click.option("--plot", type=click.Path(path_type=Path), help="With --sweep: draw quality against size, a PNG."),
    EVALUATION,
    THREADS,
    JSON,
    REPORT,
)
def experiment(
    model: Path,
    bits: int | None,
    to: str | None,
    rules: tuple[str, ...],
    sweep: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    text: Path | None,
    out: Path | None,
    anyway: bool,
    plot: Path | None,
    prompts: Path | None,
    threads: int | None,
    as_json: bool,
    style: str,
    **settings: Any,
) -> None:
    """Lower the precision, and find out what that does and why.

    Scan, plan, rewrite, diff, evaluate: one report. Where nothing can change it says so at once.
    """
    from truebits.dialogue import read_prompts
    from truebits.errors import UsageError
    from truebits.report import json, story
    from truebits.report.progress import progress_bar

    settings |= {"prompts": read_prompts(prompts) if prompts else None, "threads": threads}
    chosen: dict[str, Any] = {"select": include, "exclude": exclude}
    opened = _open(model)
    if plot and not sweep:
        raise UsageError("--plot goes with --sweep")
    if sweep is None:
        from truebits.experiment import experiment as run

        with progress_bar("experiment", in_bytes=False) as progress:
            done = run(
                opened,
                bits=bits,
                to=to,
                rules=rules,
                text=text,
                out=out,
                anyway=anyway,
                progress=progress,
                **chosen,
                **settings,
            )
        click.echo(json.experiment(done) if as_json else story.render(story.story(done), style))
        return
    if text is None or out or anyway or bits or to or rules:
        raise UsageError("--sweep takes formats and --text, and keeps no model")
    from truebits.experiment import sweep_experiment

    with progress_bar("experiment", in_bytes=False) as progress:
        names = [name.strip() for name in sweep.split(",")]
        found = sweep_experiment(opened, names, text=text, progress=progress, **chosen, **settings)
    if plot:
        from truebits.report.plot import draw

        draw(found, plot)
    click.echo(json.comparisons(str(model), found) if as_json else story.comparisons(found).render(style))


@app.command()
@options(
    MODEL,
    click.option("--undo-file", type=click.Path(path_type=Path), required=True, help="What the rewrite recorded."),
    click.option("--force", is_flag=True, help="Restore even if MODEL was changed since."),
    ALLOW,
    JSON,
)
def undo(model: Path, undo_file: Path, force: bool, allow: tuple[str, ...], as_json: bool) -> None:
    """Take an in-place rewrite back, finished or not."""
    from truebits.undo import undo as undo_rewrite

    undone = undo_rewrite(model, undo_file, force=force, allow=allow)
    if as_json:
        from truebits.report.json import document

        content = {"file": str(model), "chunks": undone.chunks, "nbytes": undone.nbytes, "operation": undone.operation}
        click.echo(document("undo", content))
        return
    click.echo(f"{printable(str(model))} is as it was: {undone.nbytes:,} bytes restored. The undo file is kept.")


@app.command()
@options(
    click.argument("out", type=click.Path(path_type=Path)),
    click.option(
        "--like", type=click.Choice(("tinyllama",)), help="A real model's tensors, shapes, types and vocabulary size."
    ),
    click.option("--precision", default="f32", show_default=True, help="Format that every value is exact in."),
    click.option("--type", "type_", type=STORAGE, default="F32", show_default=True, help="Storage type."),
    click.option("--size", default="64MiB", show_default=True, help="Of the tensors together, as 64MiB or 2GB."),
    click.option("--tensors", type=int, help="How many; default: as few as hold the size."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option("--force", is_flag=True, help="Replace OUT if it exists."),
    JSON,
)
def synth(
    out: Path,
    like: str | None,
    precision: str,
    type_: str,
    size: str,
    tensors: int | None,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Write a test model whose precision is known."""
    from truebits.report import listing
    from truebits.synth import synth as write

    write(out, like=like, precision=precision, type=type_, size=_size(size), tensors=tensors, seed=seed, force=force)
    opened = _open(out)
    if as_json:
        from truebits.report import json

        click.echo(json.show(opened, opened.tensors, "synth"))
        return
    click.echo(f"{listing.headline(opened)}\nvalues are exact in {precision}, seed {seed}")


@app.command()
@options(
    click.option("--keep", type=click.Path(path_type=Path), help="Leave the demo's files in this folder."), THREADS
)
def demo(keep: Path | None, threads: int | None) -> None:
    """Run the whole story on models made for it."""
    from truebits.demo import demo as tell

    tell(click.echo, keep, threads)


def _open(path: Path) -> Model:
    """Open a model and warn of what is odd about it."""
    from truebits.files.model import open_model
    from truebits.marker import marker_path

    model = open_model(path)
    for part in model.parts:
        for finding in part.findings:
            click.echo(f"warning: {printable(part.path.name)}: {finding.error.code}: {finding.message}", err=True)
        marker = marker_path(part.path)
        if marker.exists():
            click.echo(
                f"warning: a rewrite in place was left unfinished: {printable(marker.name)} tells which", err=True
            )
    return model


@contextmanager
def _closed_pipe_is_no_error() -> Iterator[None]:
    """Let whoever stops reading still get the exit code."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(title: str, table: Table, style: str) -> None:
    if style == "text":
        click.echo(f"{title}\n")
    click.echo(table.render(style))


def _size(text: str) -> int:
    """Parse ``64MiB``, ``2GB``, ``1000``."""
    digits = text.rstrip("bBiIkKmMgG")
    unit = text[len(digits) :].lower().removesuffix("b")
    if not digits.isdecimal() or unit not in SIZES:
        raise click.BadParameter(f"{text!r} is not a size like 64MiB or 2GB", param_hint="--size")
    return int(digits) * SIZES[unit]


def _terminated(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command line; the exit code is the error's."""
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be UTF-8, nor the terminal
            stream.reconfigure(errors="backslashreplace")
    try:
        app.main(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        code = 0
    except Different:
        code = 1
    except SystemExit:
        code = 0  # click ends so, with 1, where a pipe was closed; ours says that a difference was found
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        click.echo("truebits: interrupted; nothing is left half done", err=True)
        code = 130
    except TruebitsError as error:
        click.echo(f"truebits: {printable(str(error))}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        where = f"{printable(str(error.filename))}: " if error.filename else ""
        click.echo(f"truebits: {where}{error.strerror or error}", err=True)
        code = 4
    sys.exit(code)


if __name__ == "__main__":
    main()
