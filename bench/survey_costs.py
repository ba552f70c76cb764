"""What a model costs a survey: requests, bytes, seconds of CPU, bytes of the tables. ``python bench/survey_costs.py``.

Models of the hub are served by the tests' stand-in for it, on this machine; the survey is a process of its own, whose
CPU seconds are counted. Each cost is the difference between a survey of one model and one of several, so that what
begins once does not count. docs/scale.md has what it printed.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path += [str(Path(__file__).parent.parent / "tests")]

import truebits as tb
from file_server import COMMIT, Server, serving

LIST = "/api/models?author=org&full=true&limit=1000"
SURVEY = """
import json, resource, sys
import truebits as tb

tb.survey(sys.argv[1], out=sys.argv[2], **json.loads(sys.argv[3]))
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""
LAYER = {
    **{"input_layernorm": (4096,), "post_attention_layernorm": (4096,)},
    **{"self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (1024, 4096), "self_attn.v_proj": (1024, 4096)},
    **{"self_attn.o_proj": (4096, 4096), "mlp.gate_proj": (14336, 4096), "mlp.up_proj": (14336, 4096)},
    "mlp.down_proj": (4096, 14336),
}
"""Llama 3 8B's."""

LAYER_15 = r"model\.norm|layers\.15\.(input_layernorm|self_attn\.[kv]_proj)"


class Cost(NamedTuple):
    """Of a survey, or of a model."""

    requests: float
    sent: float
    cpu: float
    tables: float


def cost_of(content: dict[str, Path], models: int, **chosen: Any) -> Cost:
    """Return what one model of a repository's files costs, of so many."""
    few, many = (_survey(content, number, chosen) for number in (1, models))
    return Cost(*((b - a) / (models - 1) for a, b in zip(few, many, strict=True)))


def _survey(content: dict[str, Path], models: int, chosen: dict[str, Any]) -> Cost:
    with _hub(content, models) as server, tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "HF_ENDPOINT": server.url, "TRUEBITS_CACHE": f"{scratch}/cache"}
        out = Path(scratch) / "out"
        command = [sys.executable, "-c", SURVEY, "hf://org", str(out), json.dumps(chosen)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found = tb.read_survey(out)
        assert (found.models, found.failed) == (models, 0)
        tables = sum((out / name).stat().st_size for name in ("models.parquet", "tensors.parquet"))
        return Cost(len(server.asked), server.sent, float(done.stdout), tables)


@contextmanager
def _hub(content: dict[str, Path], models: int) -> Iterator[Server]:
    files: dict[str, Any] = {}
    siblings, listed = [{"rfilename": name} for name in content], []
    for number in range(models):
        name = f"org/repo{number:04}"
        files |= {f"/{name}/resolve/{COMMIT}/{file}": path for file, path in content.items()}
        listed.append({"id": name, "sha": COMMIT, "siblings": siblings})
        files[f"/api/models/{name}/revision/{COMMIT}"] = json.dumps(listed[-1]).encode()
    files[LIST] = json.dumps(listed).encode()
    with serving(files) as server:
        yield server


def checkpoint(folder: Path) -> dict[str, Path]:
    """Write the header and size of Llama 3 8B in four shards; their values are holes."""
    tensors = [("model.embed_tokens.weight", (128256, 4096))]
    tensors += [(f"model.layers.{i}.{name}.weight", shape) for i in range(32) for name, shape in LAYER.items()]
    tensors += [("model.norm.weight", (4096,)), ("lm_head.weight", (128256, 4096))]
    names, content = {}, {}
    for number, at in enumerate(range(0, len(tensors), 73), 1):
        path = folder / f"model-{number:05}-of-00004.safetensors"
        _write_holes(path, tensors[at : at + 73])
        content[path.name] = path
        names |= {name: path.name for name, _ in tensors[at : at + 73]}
    texts = {"config.json": {"model_type": "llama", "torch_dtype": "bfloat16"}}
    texts["model.safetensors.index.json"] = {"metadata": {}, "weight_map": names}
    for name, text in texts.items():
        content[name] = folder / name
        content[name].write_text(json.dumps(text))
    return content


def _write_holes(path: Path, tensors: list[tuple[str, tuple[int, ...]]]) -> None:
    header: dict[str, Any] = {}
    at = 0
    for name, shape in tensors:
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + at)


def rates(path: Path) -> float:
    """Return GB of a model that one core scans a second: the best of five, in seconds of CPU."""
    best = min(_scanned(path) for _ in range(5))
    return path.stat().st_size / best / 1e9


def _scanned(path: Path) -> float:
    before = time.process_time()
    tb.scan(path, threads=1)
    return time.process_time() - before


def main() -> None:
    """Print a line for each kind of model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quantized = tb.synth(folder / "q4.gguf", like="tinyllama")
        floats = {type: tb.synth(folder / f"{type}.gguf", size=128 << 20, type=type) for type in ("F32", "BF16")}
        small = [tb.synth(folder / f"{i}.gguf", size=1 << 17, tensors=20, seed=i) for i in range(2)]
        eight = checkpoint(folder)
        cases: list[tuple[str, dict[str, Path], int, dict[str, Any]]] = [
            ("TinyLlama 1.1B in Q4_K_M: all norms", {"m.gguf": quantized}, 41, {}),
            ("the same: norms of one layer", {"m.gguf": quantized}, 41, {"select": r"output_norm|blk\.0\."}),
            ("8B checkpoint in BF16: all norms", eight, 41, {"select": "norm"}),
            ("the same: one layer's k, v and norm", eight, 41, {"select": LAYER_15}),
            *((f"128 MiB of {type}, whole", {"m.gguf": path}, 9, {}) for type, path in floats.items()),
        ]
        for title, content, models, chosen in cases:
            cost = cost_of(content, models, **chosen)
            told = f"{cost.requests:.0f} requests, {cost.sent / 1e6:.1f} MB, {cost.cpu:.2f} s of CPU"
            print(f"{title}: {told}, {cost.tables / 1e3:.1f} kB of tables", flush=True)
        for type, path in floats.items():
            print(f"{type} of this machine: {rates(path):.1f} GB/s of a core", flush=True)
        print(f"a model of 20 small tensors: {1e3 * min(_scanned(path) for path in small * 5):.1f} ms of CPU to scan")


if __name__ == "__main__":
    main()
