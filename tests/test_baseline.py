"""A base's predictions, kept for any number of candidates."""

from contextlib import closing
from hashlib import sha256

import numpy as np
import pytest

from predicting import VOCABULARY, Predicting, drawn
from truebits.errors import EvaluationFailed
from truebits.evaluation.baseline import Baseline
from truebits.evaluation.scores import Scores, compare

CHUNKS = np.arange(5 * 8, dtype=np.int32).reshape(5, 8) % VOCABULARY


def base(logits=drawn):
    return Predicting("base b.gguf", logits)


@pytest.mark.parametrize("count", [None, 1, 4, 5])
def test_every_candidate_is_held_against_the_same(count):
    with closing(Baseline(base(), CHUNKS, VOCABULARY)) as kept:
        for shift in (0.5, 0, 0.5):
            candidate = Predicting("c", lambda chunk, shift=shift: drawn(chunk, shift))
            got = kept.score(candidate, count)
            parts = [compare(drawn(chunk), drawn(chunk, shift), chunk[5:]) for chunk in CHUNKS[:count]]
            expected = Scores.joined(parts)
            assert got.divergence.tolist() == expected.divergence.tolist()
            assert got.candidate.tolist() == expected.candidate.tolist()
            assert len({asked[-1] for asked in candidate.asked}) == min(2, len(candidate.asked))


def test_the_digest_is_of_all_logits():
    expected = sha256(b"".join(drawn(chunk).tobytes() for chunk in CHUNKS)).hexdigest()
    with closing(Baseline(base(), CHUNKS, VOCABULARY)) as kept:
        assert kept.digest == expected
        kept.score(base())
    with closing(Baseline(base(), CHUNKS, VOCABULARY)) as again:
        assert again.digest == expected
    with closing(Baseline(base(), CHUNKS[:4], VOCABULARY)) as fewer:
        assert fewer.digest != expected


def spoiled(chunk):
    logits = drawn(chunk)
    logits[0, 0] = np.nan
    return logits


def test_logits_that_are_not_finite():
    with pytest.raises(EvaluationFailed, match=r"base b\.gguf: there are NaN or Inf"):
        Baseline(base(spoiled), CHUNKS, VOCABULARY)
    with (
        closing(Baseline(base(), CHUNKS, VOCABULARY)) as kept,
        pytest.raises(EvaluationFailed, match="c: there are NaN or Inf"),
    ):
        kept.score(Predicting("c", spoiled))
