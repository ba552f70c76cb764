"""Who does the work of a survey."""

import builtins
import os
import sys
import time

import pytest

from truebits.errors import MissingExtra, UsageError
from truebits.surveying.engines import Here, engine


def test_work_done_here_is_done_at_once():
    done = []
    future = Here().submit(done.append, 1)
    assert (done, future.done(), future.result()) == ([1], True, None)
    with pytest.raises(ZeroDivisionError):
        Here().submit(divmod, 1, 0).result()
    with pytest.raises(KeyboardInterrupt):
        Here().submit(interrupt)


def interrupt():
    raise KeyboardInterrupt


def test_one_job_is_this_process():
    with engine(1, None) as workers:
        assert (workers.submit(os.getpid).result(), workers.workers, workers.renew) == (os.getpid(), 1, None)


def test_processes_end_with_the_block():
    with engine(2, None) as workers:
        pid = workers.submit(os.getpid).result()
        assert pid != os.getpid()
        assert workers.workers == 2
        workers.submit(time.sleep, 60)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_cluster_needs_its_package(monkeypatch):
    def lacking(name, *arguments, imported=builtins.__import__):
        if name == "distributed":
            raise ImportError
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(MissingExtra, match=r"truebits\[distributed\]"), engine(1, "local"):
        pytest.fail("nobody works")


def test_no_scheduler_answers():
    pytest.importorskip("distributed")
    with pytest.raises(UsageError, match="no scheduler of Dask's answers at nobody"), engine(1, "nobody://x"):
        pytest.fail("nobody works")
    assert sys.modules["distributed"]
