"""A model in a process of its own, and what is said where it ends."""

import os
import signal

import numpy as np
import pytest

import worker_child
from truebits.errors import EvaluationFailed
from truebits.evaluation import worker
from truebits.evaluation.inference import LoadSettings
from truebits.evaluation.worker import SharedLogits, Worker


@pytest.fixture
def child(monkeypatch):
    monkeypatch.setattr(worker, "serve", worker_child.serve)
    started = Worker("base", "a\x1b.gguf", LoadSettings(8, 8, 1))
    yield started
    started.close()


def test_requests_and_answers(child):
    assert child.name == r"base a\x1b.gguf"
    assert child.ask("load") == ("a\x1b.gguf", "load")
    child.send("score", 1, 2)
    assert child.receive() == ("a\x1b.gguf", "score", 1, 2)
    with pytest.raises(EvaluationFailed, match=r"base a\\x1b\.gguf: no\\x1b"):
        child.ask("fail")
    assert child.ask("blocked"), "a Ctrl-C is for the parent"


@pytest.mark.parametrize(
    ("method", "argument", "words"),
    [
        ("die", 3, "its process ended with exit code 3"),
        ("kill", signal.SIGSEGV, "was killed by SIGSEGV$"),
        ("kill", signal.SIGKILL, "was killed by SIGKILL, perhaps for want of memory"),
    ],
)
def test_a_death_is_named(child, method, argument, words):
    with pytest.raises(EvaluationFailed, match=words):
        child.ask(method, argument)
    with pytest.raises(EvaluationFailed, match=words):
        child.ask("load")


def test_memory_is_shared_and_given_back():
    memory = SharedLogits(2, 3, 5)
    assert (memory.arrays.shape, memory.arrays.dtype) == ((2, 3, 5), np.float32)
    memory.arrays[1, 2, 4] = 1.5
    assert not memory.arrays[0].any()
    memory.close()
    assert not hasattr(memory, "arrays")


def test_too_much_memory_is_an_error(monkeypatch):
    """And not tried: the kernel gives pages until it has to kill somebody."""
    monkeypatch.setattr(worker, "_available", lambda: 999)
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: pytest.fail("asked for it"))
    with pytest.raises(OSError, match=r"logits of 0\.0 GB, and 0\.0 GB of memory are free: ask for fewer chunks"):
        SharedLogits(2, 5, 100)


def test_what_is_free_is_less_than_all():
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < worker._available() <= whole
