"""Threads that run kernels: after forks, beside other threads, with none to be had, stopped by a signal."""

import asyncio
import itertools
import multiprocessing
import os
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

import truebits_native as native
from native_child import child
from truebits_native import dispatch, pool, reference
from words import assert_same_bits, mixed

compiled = pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="takes minutes without the compiler")


@pytest.fixture
def kernels(monkeypatch):
    """Let the Numba kernels do work of any size."""
    monkeypatch.setattr(dispatch, "uses_kernel", lambda *_: True)


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(pool, "cores", lambda: 4)


@pytest.fixture
def no_threads_yet(monkeypatch):
    monkeypatch.setattr(pool, "_idle", [])
    monkeypatch.setattr(pool, "_jobs", SimpleQueue())


def test_results_come_in_the_order_of_tasks(four_cores):
    def late(task):
        time.sleep(0.001 * (7 - task % 7))
        return task

    for threads in (1, 2, None, 9):
        assert list(pool.in_order(late, range(50), threads)) == list(range(50))
    assert list(pool.in_order(late, [])) == []


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 9])
def test_no_more_threads_work_than_were_asked_for(four_cores, threads):
    working, most, lock = 0, 0, threading.Lock()

    def work(_):
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.002)
        with lock:
            working -= 1

    assert list(pool.in_order(work, range(40), threads)) == [None] * 40
    assert most == min(threads, 4)


def test_tasks_are_drawn_one_at_a_time_as_threads_become_free(four_cores):
    drawing = threading.Lock()

    def tasks():
        for task in range(100):
            assert drawing.acquire(blocking=False)
            time.sleep(0.0001)
            drawing.release()
            yield task

    assert list(pool.in_order(abs, tasks())) == list(range(100))


def test_runs_cover_all_chunks(four_cores):
    for chunks, threads in itertools.product((0, 1, 3, 15, 16, 17, 1000), (1, 3, None)):
        covered = np.zeros(chunks, np.int64)

        def work(of, covered=covered):
            covered[of] += 1

        pool.over_runs(work, chunks, threads)
        assert (covered == 1).all()


@pytest.mark.parametrize("raised", [ValueError("of a task"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_error_comes_in_its_turn_and_nothing_runs_on(four_cores, raised):
    running = threading.Semaphore(0)

    def work(task):
        if task == 5:
            raise raised
        running.release()
        time.sleep(0.005)
        assert running.acquire(blocking=False)
        return task

    got = []
    with pytest.raises(type(raised)):
        got.extend(pool.in_order(work, itertools.count()))
    assert got == [0, 1, 2, 3, 4]
    assert not running.acquire(blocking=False)


def test_an_error_of_the_tasks_comes_after_their_results(four_cores):
    def tasks():
        yield from range(7)
        raise OSError("the file has changed")

    got = []
    with pytest.raises(OSError, match="has changed"):
        got.extend(pool.in_order(abs, tasks()))
    assert got == list(range(7))


def test_a_caller_that_leaves_early_waits_for_what_runs(four_cores):
    running = []

    def work(task):
        running.append(task)
        time.sleep(0.01)
        running.remove(task)

    results = pool.in_order(work, itertools.count())
    next(results)
    results.close()
    assert running == []


def test_work_within_work_starts_no_threads(four_cores):
    def work(task):
        threads = set()
        pool.over_runs(lambda _: threads.add(threading.get_ident()), 20)
        return threads == {threading.get_ident()}

    assert all(pool.in_order(work, range(8)))


@pytest.mark.parametrize("can_start", [0, 1])
def test_where_no_thread_can_be_started_the_caller_works(monkeypatch, four_cores, no_threads_yet, can_start):
    start, left = pool.start_new_thread, [can_start]

    def limited(*arguments):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        return start(*arguments)

    monkeypatch.setattr(pool, "start_new_thread", limited)
    assert list(pool.in_order(abs, range(100))) == list(range(100))
    assert left == [0]


def test_threads_are_traced_as_others_are(four_cores, no_threads_yet):
    """As coverage and debuggers ask of `threading`."""
    before, traced = threading.gettrace(), set()
    threading.settrace(lambda frame, *_: traced.add(frame.f_code.co_name))
    try:
        list(pool.in_order(abs, range(4)))
    finally:
        threading.settrace(before)
    assert "help" in traced


def test_work_beside_the_callers(four_cores):
    with pool.beside() as begin:
        started, go_on = threading.Event(), threading.Event()
        waited = begin(lambda: (started.set(), go_on.wait(5)))
        failed = begin(lambda: 1 // 0)
        assert started.wait(5)
        go_on.set()
        assert waited() == (None, True)
        with pytest.raises(ZeroDivisionError):
            failed()


def test_work_beside_the_callers_is_over_when_the_block_is_left(four_cores):
    done = []

    def leave_early():
        with pool.beside() as begin:
            for task in range(3):
                begin(lambda task=task: (time.sleep(0.02), done.append(task)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave_early()
    at_the_end = sorted(done)
    time.sleep(0.1)
    assert sorted(done) == at_the_end


def test_work_beside_the_callers_where_no_thread_can_be_started(monkeypatch, no_threads_yet):
    def start(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pool, "start_new_thread", start)
    with pool.beside() as begin:
        assert begin(threading.get_ident)() == threading.get_ident()


@compiled
def test_any_number_of_threads_gives_the_same(kernels, four_cores):
    words, other = mixed(700_001, 1), mixed(700_001, 2)
    expected = reference.profile(words), reference.compare(words, other)
    for threads in (1, 2, 3, None):
        assert_same_bits(native.profile(words, threads), expected[0])
        assert repr(native.compare(words, other, threads)) == repr(expected[1])


@compiled
def test_eight_threads_at_once(kernels, four_cores):
    words = [mixed(200_001 + size, size) for size in range(8)]
    expected = [reference.profile(of) for of in words]
    for of in (words, words[:1] * 8):
        with ThreadPoolExecutor(8) as callers:
            for got, i in zip(callers.map(native.profile, of), itertools.count()):
                assert_same_bits(got, expected[i if of is words else 0])


@compiled
def test_in_a_thread_of_asyncio(kernels):
    words = mixed(200_001, 3)

    async def both():
        return await asyncio.gather(*(asyncio.to_thread(native.profile, words) for _ in range(3)))

    for got in asyncio.run(both()):
        assert_same_bits(got, reference.profile(words))


def counted(seed):
    words = mixed(300_001, seed)
    dispatch.uses_kernel = lambda *_: True
    return native.low_zero_count(words, 3), native.profile(words).sum()


@compiled
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_in_a_pool_of_processes_after_kernels_ran(kernels, method):
    expected = counted(0)
    with multiprocessing.get_context(method).Pool(2) as processes:
        assert processes.map_async(counted, [0] * 4).get(timeout=60) == [expected] * 4


@compiled
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_other_threads_compile_and_count(tmp_path):
    """But for a fork while another thread imports the first thing it needs, which no program survives."""
    code = """
import concurrent.futures.thread, os, threading
words = np.arange(1 << 20, dtype=np.uint32)
def count():
    native.low_zero_count(words, 16); native.profile(words)
threads = [threading.Thread(target=count) for _ in range(3)]
[thread.start() for thread in threads]
for _ in range(5):
    child = os.fork()
    if not child:
        count(); native.truncate(words.copy(), 16); os._exit(0)
    print(os.waitpid(child, 0)[1])
[thread.join() for thread in threads]
"""
    assert child(code, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["0"] * 5


@compiled
def test_two_thousand_calls_leave_nothing_behind(kernels):
    words = mixed(100_001, 4)

    def left():
        return [len(list(Path("/proc/self", of).iterdir())) for of in ("fd", "task")]

    for _ in range(100):
        native.profile(words)
    before, peak = left(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2_000):
        native.low_zero_count(words, 16)
    assert left() == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < peak + 4_096


def test_an_interrupt_is_answered_between_runs(four_cores):
    """On the main thread, where it arrives; a second one while the first is answered changes nothing."""
    done = []

    def work(task):
        if task == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        done.append(task)

    with pytest.raises(KeyboardInterrupt):
        list(pool.in_order(work, range(1000)))
    count = len(done)
    assert count < 20
    time.sleep(0.1)
    assert len(done) == count


SIGNALS = """
import collections, random, signal
count, seen, rng = 0, collections.Counter(), random.Random(1)
def note(*_):
    global count
    count += 1
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, note)
def interrupted(work, after):
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, after))
        work()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        seen["interrupted"] += 1
"""


@compiled
def test_signals_while_kernels_are_compiled_loaded_and_run(tmp_path):
    """Numba on the main thread answers with SystemError, dies, or loses the signal."""
    code = """
words = np.arange(1 << 18, dtype=np.uint32)
for work in [native.profile, lambda w: native.low_zero_count(w, 16), lambda w: native.truncate(w.copy(), 9)] * 40:
    interrupted(lambda: work(words), 4e-3)
print(seen["interrupted"] == count > 0, native.low_zero_count(words, 16))
"""
    for _ in range(2):
        assert child(SIGNALS + code, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["True", "4"]


def test_no_signal_leaves_a_lock_that_threads_wait_for():
    """As one that comes within `threading.Condition` does, which futures and executors are built on."""
    code = """
from truebits_native import pool
values = np.zeros(20_000)
while count < 3_000:
    interrupted(lambda: list(pool.in_order(lambda _: values.sum(), range(30))), 1e-3)
print(seen["interrupted"] == count, sum(pool.in_order(abs, range(20))))
"""
    assert child(SIGNALS + code).split() == ["True", "190"]
