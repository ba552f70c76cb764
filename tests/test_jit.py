"""How every kernel is compiled, and kept."""

import sys

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from truebits_native import cache, dispatch, jit  # noqa: E402

WITHOUT_COMPILER = numba.config.DISABLE_JIT


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """Give a kernel of these tests' own, its entry in a folder of its own, and whom it is announced to."""
    if WITHOUT_COMPILER:
        pytest.skip("there is nothing to compile")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(dispatch, "loaded", set())
    told = []
    monkeypatch.setattr(dispatch, "announce", told.append)

    def count_ones(words, found):
        found[0] = 0
        for i in range(words.size):
            found[0] += words[i] == 1

    count_ones.__module__ = "truebits_native.kernels.of_a_test"
    return lambda: jit.kernel(count_ones), told


def counted(compiled):
    found = np.empty(1, np.int64)
    compiled(np.array([1, 2, 1], np.uint32), found)
    return int(found[0])


def test_a_kernel_is_compiled_once_and_then_loaded(counting, tmp_path):
    make, told = counting
    assert counted(make()) == 2
    assert told == ["of_a_test.count_ones"]
    assert cache.holds("of_a_test.count_ones")
    assert counted(make()) == 2
    assert told == ["of_a_test.count_ones"]
    assert dispatch.loaded == {"of_a_test.count_ones"}


def test_importing_a_kernel_compiles_nothing(counting):
    make, told = counting
    make()
    assert told == []


@pytest.mark.parametrize("content", [b"", b"no pickle"])
def test_an_entry_that_is_none_is_compiled_anew(counting, monkeypatch, tmp_path, content):
    make, told = counting
    monkeypatch.setattr(cache, "load", lambda *_: (content, tmp_path))
    assert counted(make()) == 2
    assert told == ["of_a_test.count_ones"]


def test_other_types_are_another_entry(counting):
    make, told = counting
    compiled = make()
    counted(compiled)
    compiled(np.array([1], np.uint64), np.empty(1, np.int64))
    assert len(told) == 2


def test_kernels_release_the_lock_and_divide_as_numpy_does(counting):
    compiled = counting[0]()
    assert compiled.targetoptions["nogil"]
    assert compiled.targetoptions["error_model"] == "numpy"
    assert "parallel" not in compiled.targetoptions or not compiled.targetoptions["parallel"]
    assert "numba" in sys.modules
