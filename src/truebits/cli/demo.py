"""The whole story: a truncation that had no effect, one that has, what it does, and where precision came from."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from truebits import data
from truebits.errors import MissingExtra
from truebits.evaluation.llama import require_llama
from truebits.experiments.synth import synth
from truebits.files.model import open_model
from truebits.lineage.siblings import siblings
from truebits.precision.profile import PrecisionProfile
from truebits.precision.samples import samples
from truebits.precision.scan import scan
from truebits.report import blocks, figures, listing, text
from truebits.report import siblings as kin
from truebits.report.table import Table
from truebits.rewriting.fakequant import fakequant
from truebits.rewriting.plan import plan
from truebits.rewriting.trials import sweep
from truebits.rewriting.truncate import truncate
from truebits.rewriting.undo import undo

Say = Callable[[str], object]

TOLD = ("What was measured, before against after", "How the text was predicted", "Conclusion")
"""Parts of an experiment's report that the demo shows."""


def demo(say: Say, keep: Path | None = None, threads: int | None = None) -> None:
    """Run the story, step by step, with the commands that do the same.

    Parameters
    ----------
    say : callable
        Prints one paragraph.
    keep : Path, optional
        Folder to leave the models in; a temporary one if not given.
    threads : int, optional
    """
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    with nullcontext(str(keep)) if keep is not None else TemporaryDirectory(prefix="truebits-demo-") as folder:
        _without_effect(say, Path(folder) / "like-tinyllama.gguf", threads)
        _with_effect(say, Path(folder) / "full-precision.gguf", threads)
        _with_a_model(say, Path(folder), threads)
        _where_from(say, Path(folder), threads)


def _without_effect(say: Say, path: Path, threads: int | None) -> None:
    say("=== 1. A truncation that has no effect ===\n")
    say("Somebody truncated the F32 norms of a TinyLlama to BF16, measured everything, and saw nothing move.")
    say("Here is a model with TinyLlama's tensors, types and vocabulary size, and norms such as it has.\n")
    _command(say, f"synth {path.name} --like tinyllama")
    synth(path, like="tinyllama", force=True)
    model = open_model(path)
    _command(say, f"show {path.name}")
    say(listing.headline(model) + "\n")
    report = scan(model, threads=threads)
    _command(say, f"scan {path.name}")
    say(text.precision(text.rows_of(report, by_tensor=False), 16).render() + "\n")
    say(text.conclusion(report) + "\n")
    say("By hand, some values of one tensor; the low 16 bits stand apart:\n")
    _command(say, f"scan {path.name} --bits-view output_norm.weight")
    say(text.bits_view(samples(model, "output_norm.weight", 4), 16).render() + "\n")
    _command(say, f"truncate {path.name} truncated.gguf --bits 16")
    result = truncate(path, path.with_name("truncated.gguf"), bits=16, threads=threads, force=True)
    say(text.rewritten(result) + "\n")


def _with_effect(say: Say, path: Path, threads: int | None) -> None:
    say("=== 2. A truncation that has one ===\n")
    say("Weights with all 24 bits of an F32 in use:\n")
    _command(say, f"synth {path.name} --precision f32 --size 16MiB")
    synth(path, precision="f32", size=1 << 24, force=True)
    before = scan(path, threads=threads)
    _command(say, f"scan {path.name}")
    say(text.precision(text.rows_of(before, by_tensor=False), 16).render() + "\n")
    say(text.conclusion(before) + "\n")
    out = path.with_name("bf16.gguf")
    planned = plan(path, bits=16, threads=threads)
    _command(say, f"truncate {path.name} {out.name} --bits 16 --dry-run")
    say(text.rewritten(planned) + "\n")
    _command(say, f"truncate {path.name} {out.name} --bits 16")
    done = truncate(path, out, bits=16, threads=threads, force=True)
    say(text.rewritten(replace(done, output=out.name)) + "\n")
    say("The same counts, before and after:\n")
    say(_before_after(before.totals()["F32"], scan(out, threads=threads).totals()["F32"]).render() + "\n")
    again = plan(out, bits=16, threads=threads)
    say(f"Truncating {out.name} once more: {again.reason}.\n")
    _and_back(say, path, threads)
    say("So: a truncation changes exactly the values whose low bits are not zero. Count them first:")
    say("where the count is 0, perplexity, dialogue and load time cannot move, because not one bit does.")


def _with_a_model(say: Say, folder: Path, threads: int | None) -> None:
    """Experiment on the model that ships with the package, which speaks."""
    model, heldout = (folder / path.name for path in (data.MODEL, data.HELDOUT))
    for path, copy in ((data.MODEL, model), (data.MODEL_Q8_0, folder / data.MODEL_Q8_0.name), (data.HELDOUT, heldout)):
        shutil.copyfile(path, copy)
    say("\n=== 3. What it does to a model that speaks ===\n")
    say("A small language model of truebits' own, trained in F32, and a text that it never saw:\n")
    _command(say, f"fakequant {model.name} --sweep bf16,fp8_e4m3fn,int8,int4,mxfp4")
    say(figures.trials(sweep(model, ["bf16", "fp8_e4m3fn", "int8", "int4", "mxfp4"], threads=threads)).render() + "\n")
    _command(say, f"experiment {model.name} --to fp8_e4m3fn --text {heldout.name}")
    try:
        require_llama()
    except MissingExtra as missing:
        say(f"{missing}, then run the demo again.")
        return
    from truebits.experiments.experiment import experiment
    from truebits.report import experiment as story
    from truebits.report.sections import render

    done = experiment(model, to="fp8_e4m3fn", text=heldout, threads=threads)
    told = [section for section in story.story(done) if section.heading in TOLD]
    say(render(told, "text"))


def _where_from(say: Say, folder: Path, threads: int | None) -> None:
    """Tell copies of the model apart by their bits alone."""
    model, other, chain = (folder / name for name in (data.MODEL.name, data.MODEL_Q8_0.name, "q4.gguf"))
    say("\n=== 4. Where the precision came from ===\n")
    say("The same model from two sources, one with norms that went through BF16:\n")
    _command(say, f"trace {model.name} {other.name} --include norm")
    found = siblings([model, other], "norm", threads=threads)
    say(kin.groups(found).render() + "\n")
    say("\n".join(kin.conclusions(found)) + "\n")
    say("And one whose matrices were Q4_0 once, though they are F32 now:\n")
    _command(say, f"fakequant {model.name} {chain.name} --to q4_0 --include ffn_up")
    fakequant(model, chain, to="q4_0", select="ffn_up", threads=threads, force=True)
    _command(say, f"scan {chain.name} --blocks --include ffn_up")
    say(blocks.conclusion(scan(chain, "ffn_up", blocks=True, threads=threads)))


def _before_after(before: PrecisionProfile, after: PrecisionProfile) -> Table:
    table = Table(("F32 values", "before", "after"))
    table.rows = [
        ("all", before.values, after.values),
        ("low 16 bits zero", before.low_zero(16), after.low_zero(16)),
        ("exact in BF16", before.fits("bf16"), after.fits("bf16")),
        ("exact in FP16", before.fits("fp16"), after.fits("fp16")),
        ("mantissa bits in use", before.mantissa_bits(), after.mantissa_bits()),
    ]
    return table


def _and_back(say: Say, path: Path, threads: int | None) -> None:
    """Rewrite in place and undo it: the bytes are the same as before."""
    log = path.with_name("undo.truebits")
    log.unlink(missing_ok=True)
    original = hashlib.sha256(path.read_bytes()).hexdigest()
    _command(say, f"truncate {path.name} --bits 16 --in-place --undo-file {log.name}")
    truncate(path, bits=16, in_place=True, undo_file=log, threads=threads)
    truncated = hashlib.sha256(path.read_bytes()).hexdigest()
    _command(say, f"undo {path.name} --undo-file {log.name}")
    undo(path, log)
    restored = hashlib.sha256(path.read_bytes()).hexdigest()
    say(f"SHA-256 before {original[:12]}, truncated {truncated[:12]}, after undo {restored[:12]}.\n")


def _command(say: Say, arguments: str) -> None:
    say(f"$ truebits {arguments}")
