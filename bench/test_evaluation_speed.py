"""Base and candidate through the same text, against each decoding it alone."""

from __future__ import annotations

import os
from contextlib import closing

import truebits
from compare import alternate, record
from truebits import data
from truebits.evaluation.dialogue import read_text
from truebits.evaluation.inference import LoadSettings
from truebits.evaluation.llama import require_llama
from truebits.evaluation.worker import SharedLogits, Worker

SETTINGS = LoadSettings(512, 512, len(os.sched_getaffinity(0)))


def decode_alone(path):
    """Load a model in a process of its own and have it decode the text; returns the number of chunks."""
    with closing(Worker("model", str(path), SETTINGS)) as worker:
        worker.ask("load")
        vocabulary = worker.ask("vocabulary")
        tokens = worker.ask("tokenize", read_text(data.HELDOUT))
        chunks = tokens[: len(tokens) // SETTINGS.n_ctx * SETTINGS.n_ctx].reshape(-1, SETTINGS.n_ctx)
        with closing(SharedLogits(4, SETTINGS.n_ctx - 1 - SETTINGS.n_ctx // 2, vocabulary.size)) as memory:
            worker.share(memory)
            for chunk in chunks:
                worker.ask("score", chunk, 0)
        return len(chunks)


def test_evaluate(benchmark):
    require_llama()
    pair = data.MODEL, data.MODEL_Q8_0

    def both():
        return truebits.evaluate(*pair, text=data.HELDOUT, prompts=[], rounds=0)

    ours, theirs = alternate(benchmark, both, lambda: [decode_alone(path) for path in pair], rounds=9)
    found = ours.results[-1]
    chunks = found.settings["chunks"]
    result = f"{chunks} chunks, mean KL {found.divergence.mean:.2e}"
    record(benchmark, ours.seconds, theirs.seconds, result, theirs.results[-1] == [chunks, chunks])
