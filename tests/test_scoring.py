"""Chunks of a text through a base and its candidates."""

from itertools import pairwise

import numpy as np
import pytest

from predicting import VOCABULARY, Predicting, drawn
from truebits.errors import EvaluationFailed
from truebits.evaluation.scores import compare
from truebits.evaluation.scoring import REPEAT_EVERY, score_chunks, steps

CHUNKS = np.arange(45 * 8, dtype=np.int32).reshape(45, 8) % VOCABULARY


def crew(*shifts):
    return [Predicting(f"model {shift}", lambda chunk, shift=shift: drawn(chunk, shift)) for shift in shifts]


@pytest.mark.parametrize("shifts", [(0,), (0, 0.5), (0, 0.5, 1.5)])
@pytest.mark.parametrize("count", [1, 2, REPEAT_EVERY + 1, 45])
def test_scores_are_those_of_each_chunk_by_itself(shifts, count):
    done = []
    workers = crew(*shifts)
    got = score_chunks(workers, CHUNKS[:count], VOCABULARY, lambda: done.append(1))
    assert len(done) == steps(count, len(shifts))
    assert len(got) == len(shifts)
    for who, shift in enumerate(shifts):
        some = [at for at in range(count) if who or at % REPEAT_EVERY == 0]
        parts = [compare(drawn(CHUNKS[at]), drawn(CHUNKS[at], shift), CHUNKS[at][5:]) for at in some]
        for field in ("base", "candidate", "divergence"):
            assert getattr(got[who], field).tolist() == np.concatenate([getattr(one, field) for one in parts]).tolist()
    assert not got[0].divergence.any()


def test_nobody_writes_where_statistics_are_still_to_come():
    base, candidate = crew(0, 1)
    score_chunks([base, candidate], CHUNKS[:6], VOCABULARY, lambda: None)
    slots = [asked[-1] for asked in candidate.asked]
    assert all(one != after for one, after in pairwise(slots))
    assert {asked[-1] for asked in base.asked} <= {0, 1, 2, 3}


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_whose_they_are(who, odd):
    workers = crew(0, 1)
    right = workers[who].logits
    workers[who].logits = lambda chunk: np.where(right(chunk) == right(chunk)[0, 0], np.float32(odd), right(chunk))
    with pytest.raises(EvaluationFailed, match=f"model {who}: there are NaN or Inf among its logits"):
        score_chunks(workers, CHUNKS[:2], VOCABULARY, lambda: None)


@pytest.mark.parametrize(("chunks", "models", "expected"), [(1, 2, 3), (20, 2, 41), (21, 2, 44), (40, 3, 122)])
def test_steps(chunks, models, expected):
    assert steps(chunks, models) == expected
