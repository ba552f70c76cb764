"""Several requests at once: all results, the first error, and nobody waited for."""

import threading

import pytest

from truebits.files.at_once import at_once


def test_every_job_has_its_result():
    assert dict(at_once(lambda job: job * job, range(100), 8)) == {job: job * job for job in range(100)}
    assert list(at_once(abs, [], 8)) == []


def test_as_many_at_once_as_asked_for():
    together = threading.Barrier(3)
    assert len(dict(at_once(lambda job: together.wait(10), range(3), 3))) == 3


def test_after_an_error_nothing_new_is_begun():
    begun, first, error = [], threading.Event(), ValueError("no")

    def work(job):
        begun.append(job)
        if job == 0:
            first.set()
            raise error
        first.wait(10)

    with pytest.raises(ValueError, match="no"):
        list(at_once(work, range(1000), 2))
    assert len(begun) < 1000


def test_nobody_waits_for_what_is_under_way():
    hanging, over = threading.Event(), threading.Event()

    def work(job):
        if job:
            hanging.set()
            over.wait(60)

    results = at_once(work, [0, 1], 2)
    assert next(results) == (0, None)
    assert hanging.wait(10)
    results.close()
    over.set()
