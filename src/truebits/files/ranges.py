"""Byte ranges: which of a file are there, which are missing, how to ask for those."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]
"""Start and stop."""


def union(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges in order, those that touch or overlap as one."""
    found: list[Range] = []
    for start, stop in sorted(one for one in ranges if one[0] < one[1]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        else:
            found.append((start, stop))
    return found


def missing(wanted: Iterable[Range], there: Iterable[Range]) -> list[Range]:
    """Return what of the wanted ranges is not there."""
    found, present = [], union(there)
    for start, stop in union(wanted):
        for begin, end in present:
            if end <= start or begin >= stop:
                continue
            if begin > start:
                found.append((start, begin))
            start = max(start, end)
        if start < stop:
            found.append((start, stop))
    return found


def requests(ranges: Iterable[Range], gap: int, longest: int) -> list[Range]:
    """Return what to ask for: neighbours no further apart than `gap` in one, none longer than `longest`."""
    joined: list[Range] = []
    for start, stop in union(ranges):
        if joined and start - joined[-1][1] <= gap:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((start, stop))
    return [(at, min(at + longest, stop)) for start, stop in joined for at in range(start, stop, longest)]


def length(ranges: Iterable[Range]) -> int:
    """Return how many bytes ranges have."""
    return sum(stop - start for start, stop in union(ranges))
