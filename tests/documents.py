"""The JSON documents that the commands print, of models that have what a document can hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from click.testing import CliRunner

import shipped_checkpoint
import truebits as tb
import upcast_fp8
from models import finish
from truebits import data
from truebits.cli.app import app


def commands(folder: Path) -> list[list[str]]:
    """Return the commands, for which `folder` has the files."""
    plain, other, broken = (str(folder / name) for name in ("plain.gguf", "other.gguf", "broken.gguf"))
    return [
        ["show", plain],
        ["show", str(data.MODEL)],
        *(["scan", plain, *options] for options in ([], ["--blocks", "--rows"], ["--no-blocks"], ["-l", "norm"])),
        ["scan", str(data.MODEL), "--rows"],
        ["scan", plain, broken],
        ["scan", str(data.MODEL), "--low-bits-only"],
        ["scan", str(data.MODEL), "--bits-view", "output_norm.weight"],
        ["scan", str(data.MODEL), "--fingerprint"],
        ["verify", str(data.MODEL), str(folder / "manifest.json")],
        ["verify", other, str(folder / "manifest.json")],
        *(["check", path] for path in (plain, str(data.MODEL))),
        ["check", plain, "--require", "bf16"],
        ["diff", plain, other],
        ["diff", str(data.MODEL), str(data.MODEL_Q8_0)],
        ["trace", str(data.MODEL), str(folder / "hf")],
        ["trace", str(data.MODEL_Q8_0), str(folder / "hf")],
        ["trace", str(data.MODEL), str(data.MODEL_Q8_0)],
        ["rank", str(folder / "hf"), str(data.MODEL), str(data.MODEL_Q8_0)],
        ["survey", plain, str(data.MODEL), broken, "--out", str(folder / "survey"), "--jobs", "1"],
        ["truncate", str(data.MODEL), str(folder / "cut.gguf"), "--bits", "16"],
        ["fakequant", str(data.MODEL), str(folder / "rounded.gguf"), "--to", "fp8_e4m3fn", "-l", "ffn"],
        ["fakequant", str(data.MODEL), "--sweep", "bf16,mxfp4,int8:block48", "-l", "ffn"],
        *(["shrink", plain, *output] for output in ([str(folder / "shrunk.gguf")], ["--dry-run", "--all"])),
        ["shrink", str(folder / "fp8"), str(folder / "shrunk")],
    ]


def printed(folder: Path) -> Iterator[dict[str, Any]]:
    """Run the commands and yield what they print."""
    _fill(folder)
    for command in commands(folder):
        done = CliRunner().invoke(app, [*command, "--json"])
        lines = done.stdout.splitlines()
        assert lines, (command, done.output, done.exception)
        yield from map(json.loads, lines)


def _fill(folder: Path) -> None:
    shipped_checkpoint.write(folder / "hf")
    (folder / "broken.gguf").write_bytes(b"GGUF\x03")
    upcast_fp8.folder_of(
        folder / "fp8", {f"{per}.weight": upcast_fp8.made(per, seed=1).values for per in ("block", "row", "tensor")}
    )
    _write(folder / "plain.gguf", 0)
    _write(folder / "other.gguf", 1)
    (folder / "manifest.json").write_text(json.dumps(tb.fingerprint(data.MODEL).to_dict()))


def _write(path: Path, seed: int) -> None:
    """Write a model with a NaN, tokens, rows of FP16, BF16 norms and quantized tensors, one of them made from Q4_0."""
    rng = np.random.default_rng(seed)
    plain = rng.standard_normal((64, 256)).astype(np.float32)
    mixed = plain.copy()
    mixed[16:32] = mixed[16:32].astype(np.float16)
    lost = plain.copy()
    lost[3, seed] = np.nan
    bf16 = (plain[0].view(np.uint32) & 0xFFFF0000).view(np.float32)
    bf16[1] += 2.0**-20
    q4, q8 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0
    again = gguf.quants.quantize(gguf.quants.dequantize(gguf.quants.quantize(plain, q4), q4), q8)
    tensors: dict[str, tuple[np.ndarray, Any]] = {
        **{"token_embd.weight": (mixed, None), "blk.0.lost.weight": (lost, None), "output_norm.weight": (bf16, None)},
        **{"blk.0.ffn_up.weight": (again, q8), "blk.0.ffn_down.weight": (gguf.quants.quantize(plain, q4), q4)},
        "blk.0.attn_norm.weight": (plain[0].astype(np.float16), None),
        "blk.0.upcast.weight": (gguf.quants.dequantize(gguf.quants.quantize(plain, q4), q4), None),
    }
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("a model")
    writer.add_file_type(7)
    writer.add_block_count(2 + seed)
    writer.add_token_list([f"[unused{number}]" for number in range(64)])
    for name, (array, type) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=type)
    finish(writer)
