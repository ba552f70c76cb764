"""Which of kernel and twin does a piece of work."""

import sys

import numpy as np
import pytest

from truebits_native import dispatch
from truebits_native.dispatch import COSTS, LOADED_WORDS, WORK, check_bits, check_words, readable, uses_kernel

NAME = "histogram.count_single_bins"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is loaded, announced or kept, and Numba is not imported."""
    monkeypatch.setattr(dispatch, "loaded", set())
    monkeypatch.setattr(dispatch, "expected", set())
    monkeypatch.setattr(dispatch, "_is_kept", lambda name: False)
    monkeypatch.delitem(sys.modules, "numba", raising=False)


def border(name):
    """Return from how many words on a kernel is used."""
    low, high = 0, 1 << 50
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if uses_kernel(name, middle) else (middle + 1, high)
    return low


@pytest.mark.parametrize("name", COSTS)
def test_a_kernel_is_used_where_it_is_ready_before_its_twin(name, monkeypatch):
    costs = COSTS[name]
    expected = (dispatch.IMPORT_SECONDS + costs.compile) * 1e6 * costs.twin
    assert border(name) == pytest.approx(max(expected, LOADED_WORDS), rel=1e-3, abs=2)
    monkeypatch.setattr(dispatch, "_is_kept", lambda name: True)
    kept = (dispatch.IMPORT_SECONDS + dispatch.LOAD_SECONDS) * 1e6 * costs.twin
    assert border(name) == pytest.approx(max(kept, LOADED_WORDS), rel=1e-3, abs=2)


def test_what_is_loaded_is_used_for_all_but_the_smallest_work():
    dispatch.loaded.add(NAME)
    assert border(NAME) == LOADED_WORDS


def test_announced_work_is_worth_loading_for():
    assert not dispatch.expect_work("profiles", LOADED_WORDS)
    assert not uses_kernel(NAME, LOADED_WORDS)
    assert dispatch.expect_work("profiles", 1 << 40)
    assert uses_kernel(NAME, LOADED_WORDS)
    assert not uses_kernel("difference.measure", LOADED_WORDS)


def test_every_work_has_kernels_and_every_kernel_costs():
    assert {kernel for kernels in WORK.values() for kernel in kernels} <= set(COSTS)
    assert all(kernels for kernels in WORK.values())
    assert all(costs.compile > 0 and costs.twin > 0 for costs in COSTS.values())


@pytest.mark.parametrize("name", COSTS)
def test_every_kernel_is_where_its_name_says(name):
    pytest.importorskip("numba")
    assert callable(dispatch.kernel(name))


def test_compiling_is_told_of(monkeypatch):
    told = []
    monkeypatch.setattr(dispatch, "on_compile", told.append)
    dispatch.announce(NAME)
    monkeypatch.setattr(dispatch, "on_compile", None)
    dispatch.announce(NAME)
    assert told == [COSTS[NAME].compile]


@pytest.mark.parametrize(("bits", "is_right"), [(0, False), (1, True), (31, True), (32, False), (-1, False)])
def test_bits(bits, is_right):
    if is_right:
        check_bits(bits)
    else:
        with pytest.raises(ValueError, match=f"bits is {bits}, allowed are 1 to 31"):
            check_bits(bits)


@pytest.mark.parametrize("words", [np.zeros(3, np.int32), np.zeros((1, 3), np.uint32), np.zeros(3, ">u4"), np.zeros(3)])
def test_words_of_another_kind_are_refused(words):
    with pytest.raises(TypeError, match=r"words must be 1-D uint32, not .* use array\.ravel\(\)\.view"):
        check_words(words, np.uint32)


def test_what_is_read_is_a_view_where_it_can_be():
    words = np.arange(10, dtype=np.uint32)
    view = readable(words, np.uint32)
    assert np.shares_memory(view, words)
    assert (view.flags.writeable, words.flags.writeable) == (False, True)
    for apart in (words[::2], words[::-1]):
        got = readable(apart, np.uint32)
        assert got.flags.c_contiguous
        assert got.tolist() == apart.tolist()
        assert not np.shares_memory(got, words)
