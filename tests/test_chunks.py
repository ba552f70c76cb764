"""Ranges cut into chunks of equal size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from truebits_native.chunks import cut

RANGES = st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 50)), max_size=8)


@given(ranges=RANGES, size=st.integers(1, 60))
def test_chunks_cover_each_range_once_and_in_order(ranges, size):
    starts = np.array([start for start, _ in ranges], np.int64)
    stops = starts + np.array([length for _, length in ranges], np.int64)
    owner, begin, end = cut(starts, stops, size)
    expected = [
        (at, first, min(first + size, stop))
        for at, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True))
        for first in range(start, stop, size)
    ]
    assert list(zip(owner.tolist(), begin.tolist(), end.tolist(), strict=True)) == expected
    assert owner.dtype == begin.dtype == end.dtype == np.int64


def test_offsets_beyond_32_bits():
    start = 1 << 40
    _, begin, end = cut(np.array([start]), np.array([start + 5]), 3)
    assert (begin.tolist(), end.tolist()) == ([start, start + 3], [start + 3, start + 5])
