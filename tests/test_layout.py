"""Where each value of a GGUF tensor stands in its source, against NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truebits.lineage import layout
from truebits.lineage.layout import Strip, strips, whole


def gathered(source, laid, block=1):
    """Put the source's values in the order of the strips, piece by piece."""
    flat, found = source.ravel(), []
    for strip in laid:
        for piece in strip.pieces(block):
            assert piece.values % block == 0
            words = flat[piece.offset : piece.offset + piece.extent]
            assert words.size == piece.extent
            found.append(piece.gather(words))
    return np.concatenate(found)


ARRANGED = {
    "as it is": whole,
    "transposed": lambda of: [of.T],
    "halves": lambda of: [of[: len(of) // 2], of[len(of) // 2 :]],
    "halves swapped": lambda of: [of[len(of) // 2 :], of[: len(of) // 2]],
    "every second row": lambda of: [of[::2]],
    "every second column": lambda of: [of[:, ::2]],
    "permuted": lambda of: [of.reshape(2, 2, -1, of.shape[1]).swapaxes(1, 2)],
    "last rows": lambda of: [of[-2:]],
}


@pytest.mark.parametrize("name", ARRANGED)
@pytest.mark.parametrize("piece", [1, 5, 16, 1 << 20])
def test_strips_are_what_numpy_gives(monkeypatch, name, piece):
    monkeypatch.setattr(layout, "PIECE_VALUES", piece)
    source = np.arange(8 * 6, dtype=np.uint32).reshape(8, 6)
    expected = np.concatenate([view.ravel() for view in ARRANGED[name](source)])
    assert gathered(source, strips([source.shape], ARRANGED[name])).tolist() == expected.tolist()


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    order=st.permutations(range(4)),
    steps=st.lists(st.integers(1, 2), min_size=4, max_size=4),
    piece=st.integers(1, 40),
)
def test_any_views(shape, order, steps, piece):
    source = np.arange(int(np.prod(shape)), dtype=np.uint16).reshape(shape)
    axes = [axis for axis in order if axis < len(shape)]

    def arrange(of):
        return [of.transpose(axes)[tuple(slice(None, None, step) for step in steps[: len(shape)])]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "PIECE_VALUES", piece)
        got = gathered(source, strips([source.shape], arrange))
    assert got.tolist() == arrange(source)[0].ravel().tolist()


@pytest.mark.parametrize("name", ["as it is", "permuted", "transposed", "halves"])
@pytest.mark.parametrize("block", [2, 8, 24])
def test_pieces_are_of_whole_blocks(monkeypatch, name, block):
    monkeypatch.setattr(layout, "PIECE_VALUES", 5)
    source = np.arange(8 * 6, dtype=np.uint32).reshape(8, 6)
    expected = np.concatenate([view.ravel() for view in ARRANGED[name](source)])
    assert gathered(source, strips([source.shape], ARRANGED[name]), block).tolist() == expected.tolist()


def test_several_sources_follow_each_other():
    laid = strips([(2, 3)] * 3, whole)
    assert [strip.source for strip in laid] == [0, 1, 2]
    assert {strip[1:] for strip in laid} == {(0, (2, 3), (3, 1))}


def test_a_scalar_is_one_value():
    (strip,) = strips([()], whole)
    assert (strip.values, strip.extent, strip.is_contiguous) == (1, 1, True)
    assert gathered(np.array([7], np.uint8), [strip]).tolist() == [7]


def test_what_cannot_be_arranged_is_an_error():
    with pytest.raises(ValueError, match="reshape"):
        strips([(3, 5)], lambda of: [of.reshape(2, -1)])


@pytest.mark.parametrize(
    ("strip", "extent", "is_contiguous"),
    [
        (Strip(0, 0, (4,), (1,)), 4, True),
        (Strip(0, 9, (2, 3), (3, 1)), 6, True),
        (Strip(0, 0, (2, 3), (4, 1)), 7, False),
        (Strip(0, 0, (3, 2), (1, 3)), 6, False),
        (Strip(0, 0, (1,), (1,)), 1, True),
    ],
)
def test_extent(strip, extent, is_contiguous):
    assert (strip.extent, strip.is_contiguous) == (extent, is_contiguous)
