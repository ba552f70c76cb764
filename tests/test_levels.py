"""Blocks of values against the levels of block formats."""

import numpy as np
import pytest

from truebits.precision.levels import LATTICES, agreement

ULP = 2.0**-12


def draws(kind, shape, seed=0):
    random = np.random.default_rng(seed)
    return {
        "normal": lambda: random.normal(0, 0.2, shape),
        "laplace": lambda: random.laplace(0, 0.2, shape),
        "uniform": lambda: random.uniform(-1, 1, shape),
    }[kind]()


def on_levels(levels, blocks=50):
    """Return blocks of values on a format's levels, of any scale, and the grid that they stand on."""
    random, size = np.random.default_rng(1), max(32, levels.size)
    pieces = blocks * size // levels.size
    multiples = random.choice(levels.choices[-1], (pieces, levels.size))
    multiples[:, 0] = levels.choices[-1][-1]
    multiples[:, 1] = 0
    if not levels.has_offset:
        multiples *= random.choice((-1, 1), multiples.shape)
    offset = random.integers(-30, 5, (pieces, 1)) if levels.has_offset else 0
    values = (multiples + offset) * random.uniform(0.5, 1, (blocks, 1)).repeat(size // levels.size, axis=0)
    return np.rint(values.reshape(blocks, size) / ULP) * ULP


@pytest.mark.parametrize("levels", LATTICES, ids=lambda levels: levels.name)
def test_values_on_the_levels_agree(levels):
    values = on_levels(levels)
    got = agreement(values, np.full_like(values, ULP), 1.0, levels)
    assert got.agrees.all()
    assert (got.bits > 20).all()


@pytest.mark.parametrize("levels", LATTICES, ids=lambda levels: levels.name)
def test_one_value_off_the_levels_spoils_its_block(levels):
    values, fine = on_levels(levels), 2.0**-30
    assert agreement(values, np.full_like(values, fine), ULP / fine, levels).agrees.all()
    pieces = values.reshape(-1, levels.size)
    pieces[:, 2] += np.random.default_rng(2).uniform(0.1, 0.4, len(pieces))
    got = agreement(values, np.full_like(values, fine), 1.0, levels)
    assert not got.agrees.any()
    assert not got.bits.any()


@pytest.mark.parametrize("levels", LATTICES, ids=lambda levels: levels.name)
@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform"])
def test_evidence_is_no_more_than_the_null_model_allows(levels, kind):
    """Of blocks of chance, at most a share of 2^-B may agree with B bits or more (Markov)."""
    values = np.rint(draws(kind, (300, max(32, levels.size))) / ULP * 0.02)
    got = agreement(values, np.ones_like(values), 0.5, levels)
    assert (2.0 ** got.bits[got.agrees]).sum() <= 1.2 * len(values)


def test_zeros_agree_and_tell_nothing():
    for levels in LATTICES:
        values = np.zeros((3, max(32, levels.size)))
        got = agreement(values, np.full_like(values, ULP), 1.0, levels)
        assert got.agrees.all()
        assert not (got.bits > 0).any()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ternary", 3), ("q4_0", 17), ("mxfp4", 15), ("q4_1 or q4_k", 16), ("q2_k", 4), ("q8_0", 255), ("iq2", 7)],
)
def test_levels_that_a_block_can_use(name, expected):
    assert {one.name: one.most for one in LATTICES}[name] == expected


def test_fewest_levels_are_tried_first():
    assert len({one.name for one in LATTICES}) == len(LATTICES)
    assert LATTICES[0].name == "ternary"
    assert LATTICES[-1].most == max(one.most for one in LATTICES)


def test_no_blocks():
    for levels in LATTICES:
        nothing = np.empty((0, max(32, levels.size)))
        got = agreement(nothing, nothing, 1.0, levels)
        assert (got.agrees.size, got.bits.size) == (0, 0)
