"""No false verdict in 2,000 constructed models: what was done to their weights is known, and nothing else is said.

Odds are stated as at most one in a million for each tensor and question. Of some 13,000 verdicts none may be false;
the verdicts are counted and printed.
"""

from __future__ import annotations

from collections import Counter

import ml_dtypes
import numpy as np
import pytest

import truebits as tb
from converter import write_safetensors
from words import rounded

MODELS = 2_000
NO_SIGN = {"direct", "ambiguous"}
STORED = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def draws(random, shape):
    """Draw weights as trained ones are: of one of several distributions, norms around 1."""
    if len(shape) == 1:
        return random.normal(1, 0.1, shape).astype(np.float32)
    kind, scale = random.integers(4), random.choice([0.005, 0.02, 0.1])
    values = (
        random.normal(0, scale, shape),
        random.laplace(0, scale, shape),
        random.standard_t(3, shape) * scale,
        random.normal(0, 1, shape) * random.lognormal(np.log(scale), 0.5, (*shape[:-1], 1)),
    )[kind]
    return values.astype(np.float32)


def pruned(values, random):
    """Set to zero the two smallest of each four, or nine in ten."""
    if values.ndim == 1:
        return values
    if random.integers(2):
        fours = np.abs(values.reshape(-1, 4))
        kept = fours >= np.sort(fours, axis=1)[:, 2:3]
        return np.where(kept.reshape(values.shape), values, 0).astype(np.float32)
    return np.where(np.abs(values) >= np.quantile(np.abs(values), 0.9), values, 0).astype(np.float32)


def ternary(values, random):
    scale = rounded(np.float32([np.abs(values).mean()]), "bf16")[0]
    return (np.clip(np.rint(values / scale), -1, 1) * scale).astype(np.float32) if values.ndim > 1 else values


def merged(values, random):
    """Return the mean of a BF16 model and a sibling, or a stranger."""
    near = random.normal(1, 0.02, values.shape) if random.integers(2) else random.normal(0, 1, values.shape)
    other = rounded((values * near).astype(np.float32), "bf16")
    return (rounded(values, "bf16") + other) / 2


def lora(values, random):
    if values.ndim == 1:
        return rounded(values, "bf16")
    *many, rows, row = values.shape
    a, b = random.normal(0, 0.01, (*many, rows, 4)), random.normal(0, 0.05, (*many, 4, row))
    return (rounded(values, "bf16") + (a @ b)).astype(np.float32)


def ema(values, random):
    decay = np.float32(random.choice([0.5, 0.9, 0.999]))
    other = rounded((values * random.normal(1, 0.05, values.shape)).astype(np.float32), "bf16")
    return decay * rounded(values, "bf16") + (1 - decay) * other


def noised(values, random):
    return (rounded(values, "bf16") * (1 + 1e-3 * random.standard_normal(values.shape))).astype(np.float32)


def as_format(name):
    return lambda values, random: rounded(values, name)


def pruned_as(name):
    return lambda values, random: pruned(rounded(values, name), random)


COMPUTED = {"f32", "ambiguous"}
KINDS = {
    "direct f32": (as_format("f32"), {"f32"}, NO_SIGN),
    "direct bf16": (as_format("bf16"), {"bf16"}, NO_SIGN),
    "direct f16": (as_format("fp16"), {"fp16"}, NO_SIGN),
    "pruned f32": (pruned_as("f32"), {"f32"}, NO_SIGN),
    "pruned bf16": (pruned_as("bf16"), {"bf16"}, NO_SIGN),
    "ternary": (ternary, {"bf16", "f32", "constant", "ambiguous"}, {"ternary", "constant", "ambiguous"}),
    "merged": (merged, COMPUTED, NO_SIGN),
    "lora": (lora, {"f32", "bf16"}, NO_SIGN),
    "ema": (ema, COMPUTED, NO_SIGN),
    "noise": (noised, COMPUTED, NO_SIGN),
}
"""What is done to weights; which origin it may have, stored as F32; and what it may be said to be made from."""

SHAPES = {"a.weight": (64, 512), "b.weight": (96, 128), "experts.weight": (2, 64, 64), "norm.weight": (384,)}


def verdicts(path, kind, seed):
    """Yield each question, and the answer, of one model."""
    random = np.random.default_rng(seed)
    make, origins, made_from = KINDS[kind]
    type = ("F32", "F32", "F16", "BF16")[seed // len(KINDS) % 4]
    with np.errstate(over="ignore"):
        tensors = {name: make(draws(random, shape), random).astype(STORED[type]) for name, shape in SHAPES.items()}
    write_safetensors(path, tensors)
    report = tb.scan(path, blocks=True, rows=True)
    for name, one in report.tensors.items():
        if type == "F32":
            yield "origin", one.origin.format, one.origin.format in origins, name
    for name, origin in report.made_from.items():
        yield "made from", origin.format, origin.format in made_from, name
    for finding in report.findings:
        is_true = finding.kind == "upcast" or (finding.kind == "requantized" and kind == "ternary")
        yield "finding", finding.kind, is_true, finding.message
    yield "mixed rows", str(bool(report.rows)), not report.rows, ""


@pytest.mark.slow
def test_no_verdict_is_false(tmp_path, capsys):
    counts: Counter[tuple[str, str, str]] = Counter()
    false = []
    for seed in range(MODELS):
        kind = list(KINDS)[seed % len(KINDS)]
        for question, answer, is_true, where in verdicts(tmp_path / "model.safetensors", kind, seed):
            counts[kind, question, answer] += 1
            if not is_true:
                false.append((seed, kind, question, answer, where))
    with capsys.disabled():
        print(f"\n{MODELS:,} models, {counts.total():,} verdicts, {len(false)} false")
        for (kind, question, answer), number in sorted(counts.items()):
            print(f"{kind:12} {question:10} {answer:12} {number:6,}")
    assert false == []


def test_the_first_models(tmp_path):
    """Two of each kind in the usual tests; the long one has all."""
    for seed in range(2 * len(KINDS)):
        kind = list(KINDS)[seed % len(KINDS)]
        got = list(verdicts(tmp_path / "model.safetensors", kind, seed))
        assert [one for one in got if not one[2]] == [], (seed, kind)
