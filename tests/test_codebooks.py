"""Runs of values that have few different ones, and their names."""

import numpy as np
import pytest

from truebits.precision.codebooks import GRIDS, SIZES, Codebook, find_codebook, name_of


def ulps(values):
    return np.spacing(np.abs(values).astype(np.float32)).astype(np.float64)


def draws(shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32).astype(np.float64)


def on(grid, size, runs=64, seed=0):
    """Return runs of F32 values on the levels of a grid times a scale each."""
    random, grid = np.random.default_rng(seed), np.array(grid, np.float64)
    levels = random.choice(grid, (runs, size))
    levels[:, : grid.size] = grid[:size]
    scales = random.uniform(0.5, 2, (runs, 1)).astype(np.float32)
    return (levels.astype(np.float32) * scales).astype(np.float64)


@pytest.mark.parametrize("name", GRIDS)
def test_grids_are_found_and_named(name):
    values = on(GRIDS[name], 128)
    found = find_codebook(values, ulps(values))
    assert found is not None
    assert found.levels >= len(GRIDS[name]) > found.levels // 2
    assert (found.size, found.agreeing, found.runs) == (128, 64, 64)
    assert found.bits > 1_000
    assert name_of(found, values, 2 * ulps(values)) == name


@pytest.mark.parametrize("size", SIZES)
def test_the_longest_runs_that_do_with_the_fewest_levels(size):
    values = np.vstack([on(GRIDS["iq2"], size, 1, seed).reshape(1, size) for seed in range(512 // size * 8)])
    values = values.reshape(-1, 128)
    found = find_codebook(values, ulps(values))
    assert (found.levels, found.size) == (8, size)


@pytest.mark.parametrize(
    ("bits", "zero", "expected"),
    [(4, 0, "int4 (gptq or awq)"), (3, 0, "int3 (gptq or awq)"), (4, 0.37, "affine int4 (mlx or hqq)")],
)
def test_even_distances(bits, zero, expected):
    codes = np.random.default_rng(1).integers(0, 2**bits, (64, 64)) - 2 ** (bits - 1)
    codes[:, :2] = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]
    values = ((codes + zero) * np.float32(0.0123)).astype(np.float32).astype(np.float64)
    found = find_codebook(values, ulps(values), (64,))
    assert found.levels == 2**bits
    assert name_of(found, values, 2 * ulps(values)) == expected


def test_a_codebook_of_nobodys():
    values = on(np.sort(np.random.default_rng(3).uniform(-1, 1, 16)), 64)
    found = find_codebook(values, ulps(values), (64,))
    assert name_of(found, values, 2 * ulps(values)) == "codebook of 16 in blocks of 64"


@pytest.mark.parametrize(
    "values",
    [draws((64, 128)), np.empty((0, 128)), np.where(np.arange(128) % 9, draws((64, 128)), 0)],
    ids=["normal", "nothing", "sparse"],
)
def test_no_codebook(values):
    assert find_codebook(values, ulps(values)) is None


def test_zeros_and_constants_tell_nothing():
    for value in (0.0, 0.5):
        values = np.full((64, 128), value)
        found = find_codebook(values, ulps(values))
        assert found.bits == 0


def test_values_that_gather_around_one_tell_little():
    """Norms around 1 on BF16's grid have few values because the grid is coarse there."""
    values = 1 + np.rint(np.random.default_rng(0).normal(0, 2, (64, 128))) * 2.0**-7
    found = find_codebook(values, np.full_like(values, 2.0**-7))
    assert found is not None
    assert found.bits < 64 * 128
    narrow = find_codebook(values, ulps(values))
    assert isinstance(narrow, Codebook)


def test_some_runs_that_do_not_agree_are_too_many():
    values = on(GRIDS["nf4"], 128)
    values[3] = draws(128)
    assert find_codebook(values, ulps(values), (128,)) is None
