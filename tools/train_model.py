"""Train truebits' own small language model, and write what ``src/truebits/data`` ships.

The text is Python's documentation as the interpreter carries it (``pydoc_data.topics``), the model a
Llama that reads bytes. About eight minutes on one CPU core::

    python tools/train_model.py OUT_FOLDER
    cp OUT_FOLDER/* src/truebits/data/

Seeds and the number of threads are fixed: the same Python, PyTorch and kind of processor make the same
files. Needs torch, gguf and numpy.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import random
import re
import sysconfig
import time
from collections.abc import Iterable
from math import cos, exp, log, pi
from pathlib import Path
from pydoc_data import topics
from typing import NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import dequantize, quantize
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

WIDTH, LAYERS, HEADS, KV_HEADS, HIDDEN = 128, 2, 4, 2, 256
HEAD = WIDTH // HEADS
CONTEXT = 512
ROPE_BASE, EPSILON = 10_000.0, 1e-5
UNKNOWN, BEGIN, END, FIRST_BYTE = 0, 1, 2, 3
VOCABULARY = FIRST_BYTE + 256

SEED, THREADS = 0, 1
BATCH, STEPS, WARMUP = 8, 1500, 100
RATE, LAST_RATE, DECAY, DROPOUT = 3e-3, 6e-5, 0.1, 0.1

HELDOUT_BYTES = 31_000
WINDOW = 40
MOST_SHARED = 0.02
MOST_REPEATED = 0.5

ASCII = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": "--", "–": "-", "…": "...", "ß": "ss", "\t": " "})
DESCRIPTION = (
    "A small language model that reads bytes, made to test and to show truebits. The text it learned from is "
    "Python's documentation (PSF-2.0); the code that trained it is part of truebits (Apache-2.0)."
)

Weights = dict[str, Tensor]


# ---- text


class Texts(NamedTuple):
    """Whole topics on either side, and how much of the held-out text stands in the other as well."""

    training: bytes
    heldout: bytes
    topics: list[str]
    shared: float


def split_topics() -> Texts:
    """Hold topics out that share next to nothing with any other; drop what repeats from the rest."""
    texts = {name: normalised(text) for name, text in sorted(topics.topics.items())}
    windows = {name: set(windows_of(text)) for name, text in texts.items()}
    names = list(texts)
    random.Random(SEED).shuffle(names)
    heldout: list[str] = []
    size = 0
    for name in names:
        others = set().union(*(windows[other] for other in names if other != name))
        if size + len(texts[name]) <= HELDOUT_BYTES and shared(texts[name], others) < MOST_SHARED:
            heldout.append(name)
            size += len(texts[name]) + 2
    training: list[str] = []
    seen: set[bytes] = set()
    for name in sorted(set(names) - set(heldout), key=lambda name: (-len(texts[name]), name)):
        if shared(texts[name], seen) < MOST_REPEATED:
            training.append(name)
            seen |= windows[name]
    both = [b"\n\n".join(texts[name] for name in chosen) for chosen in (sorted(training), heldout)]
    return Texts(*both, heldout, shared(both[1], set(windows_of(both[0]))))


def normalised(text: str) -> bytes:
    """Leave ASCII, no white space at a line's end, and at most one empty line in a row."""
    lines = "\n".join(line.rstrip() for line in text.translate(ASCII).strip().splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).encode("ascii", "replace")


def windows_of(text: bytes) -> Iterable[bytes]:
    return (text[i : i + WINDOW] for i in range(max(1, len(text) - WINDOW + 1)))


def shared(text: bytes, windows: set[bytes]) -> float:
    """Tell which share of a text's windows are among `windows`."""
    return float(np.mean([window in windows for window in windows_of(text)]))


def tokens_of(text: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64) + FIRST_BYTE)


# ---- model


def new_weights() -> Weights:
    """Draw the weights, under the names and in the shapes that a GGUF file has them."""
    generator = torch.Generator().manual_seed(SEED)

    def matrix(rows: int, columns: int, spread: float) -> Tensor:
        return (torch.randn(rows, columns, generator=generator) * spread).requires_grad_()

    def norm() -> Tensor:
        return torch.ones(WIDTH).requires_grad_()

    weights = {"token_embd.weight": matrix(VOCABULARY, WIDTH, 0.02)}
    for i in range(LAYERS):
        weights |= {
            f"blk.{i}.attn_norm.weight": norm(),
            f"blk.{i}.attn_q.weight": matrix(WIDTH, WIDTH, WIDTH**-0.5),
            f"blk.{i}.attn_k.weight": matrix(KV_HEADS * HEAD, WIDTH, WIDTH**-0.5),
            f"blk.{i}.attn_v.weight": matrix(KV_HEADS * HEAD, WIDTH, WIDTH**-0.5),
            f"blk.{i}.attn_output.weight": matrix(WIDTH, WIDTH, 0.5 * WIDTH**-0.5),
            f"blk.{i}.ffn_norm.weight": norm(),
            f"blk.{i}.ffn_gate.weight": matrix(HIDDEN, WIDTH, WIDTH**-0.5),
            f"blk.{i}.ffn_up.weight": matrix(HIDDEN, WIDTH, WIDTH**-0.5),
            f"blk.{i}.ffn_down.weight": matrix(WIDTH, HIDDEN, 0.5 * HIDDEN**-0.5),
        }
    return {**weights, "output_norm.weight": norm(), "output.weight": matrix(VOCABULARY, WIDTH, 0.02)}


def logits(weights: Weights, tokens: Tensor, dropout: float = 0.0) -> Tensor:
    """Run the model on rows of tokens."""
    x = weights["token_embd.weight"][tokens]
    for i in range(LAYERS):
        x = x + F.dropout(attention(weights, f"blk.{i}.", x), dropout)
        x = x + F.dropout(feed_forward(weights, f"blk.{i}.", x), dropout)
    return normed(x, weights["output_norm.weight"]) @ weights["output.weight"].T


def attention(weights: Weights, block: str, x: Tensor) -> Tensor:
    rows, length, _ = x.shape
    x = normed(x, weights[f"{block}attn_norm.weight"])
    query, key, value = (
        (x @ weights[f"{block}attn_{name}.weight"].T).view(rows, length, -1, HEAD).transpose(1, 2) for name in "qkv"
    )
    y = F.scaled_dot_product_attention(turned(query), turned(key), value, is_causal=True, enable_gqa=True)
    return y.transpose(1, 2).reshape(rows, length, WIDTH) @ weights[f"{block}attn_output.weight"].T


def feed_forward(weights: Weights, block: str, x: Tensor) -> Tensor:
    x = normed(x, weights[f"{block}ffn_norm.weight"])
    gate, up = (x @ weights[f"{block}ffn_{name}.weight"].T for name in ("gate", "up"))
    return (F.silu(gate) * up) @ weights[f"{block}ffn_down.weight"].T


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (WIDTH,), weight, EPSILON)


def turned(x: Tensor) -> Tensor:
    """Turn neighbours by their position's angle, as ggml does for the architecture `llama` (RoPE)."""
    angles = torch.arange(x.shape[-2])[:, None] * ROPE_BASE ** (-torch.arange(0, HEAD, 2) / HEAD)
    even, odd, cosine, sine = x[..., 0::2], x[..., 1::2], angles.cos(), angles.sin()
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1).flatten(-2)


def loss(weights: Weights, text: Tensor, dropout: float = 0.0) -> Tensor:
    """Give the mean of -ln p of every byte in rows of text; each row starts anew."""
    tokens = F.pad(text, (1, 0), value=BEGIN)
    return F.cross_entropy(logits(weights, tokens[:, :-1], dropout).flatten(0, 1), tokens[:, 1:].flatten())


def perplexity(weights: Weights, text: Tensor) -> float:
    """Give the perplexity per byte over whole contexts of a text, in all but the rest at its end."""
    with torch.no_grad():
        return exp(loss(weights, text[: len(text) // CONTEXT * CONTEXT].view(-1, CONTEXT)))


# ---- training


def train(texts: Texts, steps: int) -> tuple[Weights, float]:
    """Train from the start; return the weights and the held-out perplexity."""
    weights = new_weights()
    text, heldout = tokens_of(texts.training), tokens_of(texts.heldout)
    groups = [
        {"params": [weight for weight in weights.values() if weight.ndim == 2], "weight_decay": DECAY},
        {"params": [weight for weight in weights.values() if weight.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        starts = torch.randint(len(text) - CONTEXT, (BATCH, 1))
        now = loss(weights, text[starts + torch.arange(CONTEXT)], DROPOUT)
        optimizer.zero_grad()
        now.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            held = perplexity(weights, heldout)
            print(
                f"step {step + 1:5,}  training {now.item() / log(2):.3f} bits per byte,"
                f"  held-out {log(held) / log(2):.3f}, perplexity {held:.3f}  {time.monotonic() - started:4.0f} s",
                flush=True,
            )
    return weights, perplexity(weights, heldout)


def rate(step: int, steps: int) -> float:
    """Rise to the full rate, then fall along a cosine."""
    risen = min(1.0, (step + 1) / WARMUP)
    return risen * (LAST_RATE + (RATE - LAST_RATE) * (1 + cos(pi * step / steps)) / 2)


# ---- files


def export(weights: dict[str, np.ndarray], path: Path, matrices: GGMLQuantizationType) -> None:
    """Write a GGUF file with its matrices in a type; with any but F32, norms are rounded to BF16 values."""
    writer = GGUFWriter(path, "llama")
    add_metadata(writer, matrices)
    for name, weight in weights.items():
        if matrices == GGMLQuantizationType.F32:
            writer.add_tensor(name, weight)
        elif weight.ndim == 1:
            writer.add_tensor(name, dequantize(quantize(weight, GGMLQuantizationType.BF16), GGMLQuantizationType.BF16))
        else:
            writer.add_tensor(name, quantize(weight, matrices), raw_dtype=matrices)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_metadata(writer: GGUFWriter, matrices: GGMLQuantizationType) -> None:
    full = matrices == GGMLQuantizationType.F32
    writer.add_name("truebits byte model")
    writer.add_description(DESCRIPTION)
    writer.add_license("PSF-2.0")
    writer.add_languages(["en"])
    writer.add_file_type(LlamaFileType.ALL_F32 if full else LlamaFileType[f"MOSTLY_{matrices.name}"])
    if not full:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(EPSILON)
    add_vocabulary(writer)


def add_vocabulary(writer: GGUFWriter) -> None:
    """Give every byte a token, so that a text's tokens are its bytes, three higher.

    llama.cpp writes a space as U+2581 before it looks for tokens, so the space's token has that name.
    """
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    tokens[FIRST_BYTE + ord(" ")], types[FIRST_BYTE + ord(" ")] = "\u2581", TokenType.NORMAL
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types(types)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def provenance(texts: Texts, files: Iterable[Path], steps: int, held: float) -> str:
    """Say where the files come from, and under which licence their text stands."""
    rows = "\n".join(f"| `{path.name}` | {path.stat().st_size:,} | `{sha256(path.read_bytes())}` |" for path in files)
    source = Path(topics.__file__).read_bytes()
    stamp = re.search(r"# Autogenerated by Sphinx on (.+)", source.decode()[:500])
    return f"""# Where these files come from

| file | bytes | SHA-256 |
| --- | ---: | --- |
{rows}

`tools/train_model.py` makes them all, this file too; it says how the model is built and trained:

    python tools/train_model.py OUT_FOLDER --steps {steps}
    cp OUT_FOLDER/* src/truebits/data/

The same Python, PyTorch and kind of processor make the same bytes. Others make a model as good, in other bits.

## Text

Python's own documentation as Python {platform.python_version()} carries it, `pydoc_data/topics.py`
{f"(generated {stamp[1]})" if stamp else ""}, SHA-256 `{sha256(source)}`.

Changes made to it: reduced to ASCII; white space at line ends and second empty lines removed; topics put one
after the other. `heldout.txt` ({len(texts.heldout):,} bytes) has whole topics, chosen by a seeded draw among those
that share less than {100 * MOST_SHARED:.0f} % of their {WINDOW}-byte windows with any other topic:
{", ".join(texts.topics)}. The model never saw it. It learned from the others, less those that mostly repeat another
({len(texts.training):,} bytes, SHA-256 `{sha256(texts.training)}`).
Of the held-out text's {WINDOW}-byte windows, {100 * texts.shared:.2f} % occur in the training text.

## Model

Llama architecture, {LAYERS} blocks, width {WIDTH}, {HEADS} heads ({KV_HEADS} of keys and values), \
feed-forward {HIDDEN}, context {CONTEXT}; a token is a byte.
Trained from seed {SEED} in F32 with PyTorch {torch.__version__} (CPU threads: {THREADS}; {platform.machine()}),
{steps:,} steps of {BATCH * CONTEXT:,} bytes. Perplexity per byte of the held-out text: {held:.3f}.

`model.gguf` has the weights as trained. `model-q8_0.gguf` has the matrices in Q8_0, and the norms rounded to
BF16 values but stored in F32.

## Licence

The text, and the model as far as it is derived from the text, stand under the Python Software Foundation License
Version 2 below; the code that made the model is part of truebits, under the Apache License 2.0.

```
{psf_licence()}
```
"""


def psf_licence() -> str:
    """Take the licence from the interpreter that the text comes from."""
    text = Path(sysconfig.get_path("stdlib"), "LICENSE.txt").read_text()
    return text[text.index("PYTHON SOFTWARE FOUNDATION LICENSE") : text.index("BEOPEN.COM LICENSE")].strip()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train truebits' own small language model.")
    parser.add_argument("folder", type=Path, metavar="OUT_FOLDER")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    texts = split_topics()
    sizes = f"{len(texts.training):,} bytes to learn from, {len(texts.heldout):,} held out"
    print(f"{sizes}, {100 * texts.shared:.2f} % shared")
    trained, held = train(texts, arguments.steps)
    weights = {name: weight.detach().numpy() for name, weight in trained.items()}
    files = [arguments.folder / name for name in ("model.gguf", "model-q8_0.gguf", "heldout.txt")]
    export(weights, files[0], GGMLQuantizationType.F32)
    export(weights, files[1], GGMLQuantizationType.Q8_0)
    files[2].write_bytes(texts.heldout)
    note = provenance(texts, files, arguments.steps, held)
    (arguments.folder / "PROVENANCE.md").write_text(note)
    print(f"{sum(weight.size for weight in weights.values()):,} weights; held-out perplexity {held:.3f} per byte")


if __name__ == "__main__":
    main()
