"""Models of one vocabulary, and the chunks of a text that they are to predict."""

import os

import numpy as np
import pytest

from truebits.errors import UsageError
from truebits.evaluation.crew import BATCH, check_numbers, cut_chunks, load_models, settings_of
from truebits.evaluation.inference import Vocabulary

WORDS = Vocabulary(100, "digest", 1, 512)
FINE = {"n_ctx": 512, "chunks": None, "threads": None, "rounds": 5, "answer_tokens": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"rounds": 0}, None),
        ({"n_ctx": 8, "chunks": 1, "threads": 1}, None),
        ({"n_ctx": 7}, "a context of 7 tokens is too short"),
        ({"chunks": 0}, "0 chunks: give at least 1"),
        ({"threads": -1}, "-1 threads: give at least 1"),
        ({"answer_tokens": 0}, "0 tokens per answer"),
        ({"rounds": 4}, "4 rounds tell nothing from chance"),
        ({"rounds": -1}, "-1 rounds"),
    ],
)
def test_numbers_out_of_range(change, words):
    if words is None:
        check_numbers(**FINE | change)
    else:
        with pytest.raises(UsageError, match=words):
            check_numbers(**FINE | change)


@pytest.mark.parametrize(("n_ctx", "batch"), [(8, 8), (BATCH, BATCH), (4096, BATCH)])
def test_settings(n_ctx, batch):
    assert settings_of(n_ctx, 3, "wheel") == (n_ctx, batch, 3, "wheel")
    assert settings_of(n_ctx, None, None).threads == len(os.sched_getaffinity(0))


class Loaded:
    def __init__(self, name, vocabulary):
        self.name, self.answers, self.sent = name, {"load": 1.0, "vocabulary": vocabulary}, []

    def send(self, method):
        self.sent.append(method)

    def receive(self):
        return self.answers[self.sent[-1]]


def loaded(*vocabularies, n_ctx=512):
    return load_models([Loaded(f"model {at}", one) for at, one in enumerate(vocabularies)], n_ctx)


def test_a_vocabulary_that_is_shared():
    assert loaded(WORDS, WORDS._replace(trained_context=4096)) == WORDS


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (WORDS._replace(size=99), "model 1: has another vocabulary: 99 tokens, the base has 100"),
        (WORDS._replace(digest="x"), "as many tokens as the base, but not the same"),
        (WORDS._replace(bos=None), "as many tokens as the base, but not the same"),
        (WORDS._replace(trained_context=511), "model 1: was trained for 511 tokens of context, not 512"),
    ],
)
def test_models_that_cannot_be_compared(other, words):
    with pytest.raises(UsageError, match=words):
        loaded(WORDS, other)
    with pytest.raises(UsageError):
        loaded(other, WORDS)


@pytest.mark.parametrize(("bos", "first"), [(1, 1), (None, 0)])
@pytest.mark.parametrize(("limit", "count"), [(None, 3), (2, 2), (9, 3)])
def test_chunks_begin_as_texts_do(bos, first, limit, count):
    tokens = np.arange(35, dtype=np.int32)
    got = cut_chunks(tokens, WORDS._replace(bos=bos), 10, limit)
    assert got.shape == (count, 10)
    assert got[0, 0] == first
    assert got[:, 1:].tolist() == np.arange(30).reshape(3, 10)[:count, 1:].tolist()


def test_a_text_that_is_too_short():
    with pytest.raises(UsageError, match="the text has 9 tokens; one chunk takes 10"):
        cut_chunks(np.arange(9, dtype=np.int32), WORDS, 10, None)
