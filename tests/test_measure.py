"""Two tensors of one shape: the same bytes, or how far apart."""

from contextlib import contextmanager

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from traced_pair import a_gguf
from truebits.comparing import measure, sides
from truebits.comparing.measure import Both, place_of
from truebits.comparing.sides import Side
from words import FLOATS, words_in

VALUES = np.random.default_rng(0).normal(0, 1, 2_000)


@contextmanager
def both(folder, ours, theirs):
    models = [a_gguf(folder / f"{name}.gguf", a=stored) for name, stored in (("one", ours), ("two", theirs))]
    with models[0].map() as left, models[1].map() as right:
        yield Both(Side(models[0].tensors[0], left), Side(models[1].tensors[0], right), 1)


def of(values, type="F32"):
    return type, words_in(np.asarray(values, np.float64), type)


@pytest.fixture(params=[64, 1 << 22])
def pieces(request, monkeypatch):
    monkeypatch.setattr(sides, "PIECE_VALUES", request.param)


def changed(*places, values=VALUES):
    some = np.array(values)
    for at, value in places:
        some[at] = value
    return some


@pytest.mark.parametrize("at", [0, 63, 64, 1_999])
@pytest.mark.parametrize("type", FLOATS)
def test_one_other_value_is_found(tmp_path, pieces, type, at):
    with both(tmp_path, of(VALUES, type), of(changed((at, 9)), type)) as pair:
        assert not pair.same_bytes()
        got = pair.measured()
    assert (got.difference.changed, got.difference.values) == (1, 2_000)
    assert got.first == got.worst
    assert (got.first.at, got.first.b) == (at, 9)


@pytest.mark.parametrize("type", FLOATS)
def test_same_bytes(tmp_path, pieces, type):
    with both(tmp_path, of(VALUES, type), of(VALUES, type)) as pair:
        assert pair.same_bytes()
        got = pair.measured()
    assert (got.difference.changed, got.first, got.worst) == (0, None, None)


def test_other_types_are_no_same_bytes(tmp_path):
    with both(tmp_path, of([1, 2]), of([1, 2], "F64")) as pair:
        assert not pair.same_bytes()
        assert pair.type == "F64"
        assert pair.measured().difference.changed == 0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("F32", "F32", "F32"),
        ("F16", "F16", "F16"),
        ("F16", "BF16", "F32"),
        ("F64", "F32", "F64"),
        ("F32", "F16", "F32"),
    ],
)
def test_in_whose_words(tmp_path, a, b, expected):
    with both(tmp_path, of(VALUES, a), of(VALUES, b)) as pair:
        assert pair.type == expected


def test_first_and_worst_are_two_places(tmp_path, pieces):
    with both(tmp_path, of(VALUES), of(changed((10, VALUES[10] + 1), (1_500, VALUES[1_500] - 3)))) as pair:
        got = pair.measured()
    assert (got.first.at, got.worst.at) == (10, 1_500)
    assert got.difference.max_abs == pytest.approx(3)
    assert got.difference.squared_error == pytest.approx(10, rel=1e-5)


@pytest.mark.parametrize(("was", "now", "is_infinite"), [(1, np.nan, True), (np.inf, 1, True), (np.nan, np.nan, False)])
def test_what_became_another_sort_is_infinitely_wrong(tmp_path, was, now, is_infinite):
    with both(tmp_path, of(changed((5, was))), of(changed((5, now), (9, 9.0)))) as pair:
        got = pair.measured().difference
    assert np.isinf(got.max_abs) == is_infinite
    assert np.isinf(got.squared_error) == is_infinite


def test_zero_that_became_something_has_no_relative_error(tmp_path):
    with both(tmp_path, of(changed((5, 0))), of(changed((5, 0.25)))) as pair:
        got = pair.measured().difference
    assert (got.max_rel, got.max_abs) == (np.inf, 0.25)


def packed(values):
    return "Q8_0", quants.quantize(np.asarray(values, np.float32).reshape(-1, 32), GGMLQuantizationType.Q8_0)


BLOCKED = VALUES[: 32 * 60]


def test_a_few_blocks_are_measured_alone(tmp_path, pieces, monkeypatch):
    other = changed((40, 0.5), (41, -0.5), values=BLOCKED)
    with both(tmp_path, packed(BLOCKED), packed(other)) as pair:
        assert pair.few_blocks().tolist() == [1]
        few = pair.measured()
        monkeypatch.setattr(measure, "FEW_BLOCKS", 0)
        assert pair.few_blocks() is None
        all = pair.measured()
    assert few.first == all.first
    assert few.worst == all.worst
    assert few.difference.changed == all.difference.changed
    assert few.difference.squared_error == pytest.approx(all.difference.squared_error)


def test_floats_have_no_blocks(tmp_path):
    with both(tmp_path, of(VALUES), of(VALUES)) as pair:
        assert pair.few_blocks() is None
    with both(tmp_path, packed(BLOCKED), packed(BLOCKED)) as pair:
        assert pair.few_blocks().size == 0
        assert pair.measured().difference.changed == 0


def test_a_place_has_words_and_values():
    old, new = (np.array([0, word], np.uint16) for word in (0x3C00, 0xBC00))
    assert place_of(old, new, 100, "F16", 1) == (101, 1.0, -1.0, "3c00", "bc00")
    nans = np.array([0x7FC00000], np.uint32)
    got = place_of(nans, nans + 1, 0, "F32", 0)
    assert np.isnan([got.a, got.b]).all()
    assert (got.word_a, got.word_b) == ("7fc00000", "7fc00001")


def test_empty_tensors(tmp_path):
    with both(tmp_path, of([]), of([])) as pair:
        assert pair.same_bytes()
        assert pair.measured().difference.values == 0
