"""Byte ranges against sets of bytes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from truebits.files import ranges

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6)


def bytes_of(some) -> set[int]:
    return {at for start, stop in some for at in range(start, stop)}


@given(some=RANGES)
def test_union(some):
    got = ranges.union(some)
    assert bytes_of(got) == bytes_of(some)
    assert all(start < stop for start, stop in got)
    assert all(before[1] < after[0] for before, after in pairwise(got))
    assert ranges.length(some) == len(bytes_of(some))


@given(wanted=RANGES, there=RANGES)
def test_missing(wanted, there):
    assert bytes_of(ranges.missing(wanted, there)) == bytes_of(wanted) - bytes_of(there)


@given(some=RANGES, gap=st.integers(0, 9), longest=st.integers(1, 20))
def test_requests(some, gap, longest):
    asked = ranges.requests(some, gap, longest)
    assert bytes_of(asked) >= bytes_of(some)
    assert all(0 < stop - start <= longest for start, stop in asked)
    beyond = bytes_of(asked) - bytes_of(some)
    assert all(any(at + step in bytes_of(some) for step in range(1, gap + 1)) for at in beyond)
