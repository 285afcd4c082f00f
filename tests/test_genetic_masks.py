"""Masks of exactly k ones: errors against the direct computation, choices against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.genetic_masks import best_mask, cross, random_mask, swap
from lightning_compress.pruning.gram_masks import energy_mask, greedy_mask, mask_errors

seeds = st.integers(0, 2**32 - 1)


def gram(channels: int, seed: int, common: float = 1.0) -> np.ndarray:
    """Return the Gram matrix of channels that share some of their contribution, as neighboring filters do."""
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(40, channels)) + common * rng.normal(size=(40, 3)) @ rng.normal(size=(3, channels))
    return parts.T @ parts


def exhaustive(G: np.ndarray, k: int) -> float:
    """Return the smallest error over all subsets, one by one."""
    every = range(len(G))
    return min(sum(G[a, b] for a in gone for b in gone) for gone in combinations(every, len(G) - k))


@st.composite
def problems(draw):
    channels = draw(st.integers(1, 20))
    return gram(channels, draw(seeds), draw(st.sampled_from([0.0, 1.0, 3.0]))), draw(st.integers(0, channels))


def test_the_error_is_that_of_the_layers_output():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 5, 3, padding=1, bias=False).double()
    x = torch.randn(4, 6, 8, 8, dtype=torch.float64)
    mask = np.array([True, False, True, True, False, True])
    with torch.no_grad():
        alone = torch.stack([conv(x * torch.eye(6)[c].view(1, 6, 1, 1)).flatten() for c in range(6)])
        kept = conv(x * torch.from_numpy(mask).view(1, 6, 1, 1))
        direct = float(((conv(x) - kept) ** 2).sum())
    assert mask_errors((alone @ alone.T).numpy(), mask) == pytest.approx(direct, rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(problems())
def test_greedy_is_backward_elimination(problem):
    G, k = problem
    left = set(range(len(G)))
    while len(left) > k:
        gone = [c for c in range(len(G)) if c not in left]
        left.remove(min(sorted(left), key=lambda c: G[np.ix_([*gone, c], [*gone, c])].sum()))
    mask = greedy_mask(G, k)
    assert mask.sum() == k
    expected = np.isin(np.arange(len(G)), sorted(left))
    assert mask_errors(G, mask) == pytest.approx(mask_errors(G, expected), rel=1e-9, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(problems())
def test_energy_keeps_the_loudest(problem):
    G, k = problem
    mask = energy_mask(G, k)
    assert mask.sum() == k
    if 0 < k < len(G):
        assert np.diag(G)[mask].min() >= np.diag(G)[~mask].max()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 20), seeds, st.data())
def test_operators_keep_k(size, seed, data):
    k, rng = data.draw(st.integers(0, size)), np.random.default_rng(seed)
    one, other = random_mask(size, k, rng), random_mask(size, k, rng)
    before = one.copy(), other.copy()
    child = cross(one, other, rng)
    assert child.sum() == k
    assert child[one & other].all()
    assert not child[~one & ~other].any()
    swapped = swap(one, rng)
    assert swapped.sum() == k
    assert (swapped ^ one).sum() == (2 if 0 < k < size else 0)
    assert (one == before[0]).all()
    assert (other == before[1]).all()


@pytest.mark.parametrize("common", [0.0, 1.0, 3.0])
@pytest.mark.parametrize(("channels", "k"), [(5, 2), (8, 4), (12, 3), (12, 6), (12, 9)])
def test_the_exhaustive_optimum_is_found(channels, k, common):
    for seed in range(3):
        G = gram(channels, seed, common)
        mask, error = best_mask(G, k, np.random.default_rng(seed))
        assert mask.sum() == k
        assert error == pytest.approx(exhaustive(G, k), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(problems(), seeds)
def test_never_worse_than_greedy_energy_and_given_masks(problem, seed):
    G, k = problem
    given_ = random_mask(len(G), k, np.random.default_rng(seed))
    mask, error = best_mask(G, k, np.random.default_rng(seed), first=[given_], population=8, generations=4)
    assert mask.sum() == k
    assert error == pytest.approx(float(mask_errors(G, mask)), rel=1e-12, abs=1e-12)
    for other in (greedy_mask(G, k), energy_mask(G, k), given_):
        assert error <= mask_errors(G, other) + 1e-9 * np.trace(G)


def test_it_beats_greedy_somewhere():
    gains = []
    for seed in range(5):
        G = gram(32, seed, 3.0)
        gains.append(mask_errors(G, greedy_mask(G, 16)) / best_mask(G, 16, np.random.default_rng(0))[1])
    assert max(gains) > 1.01


def test_the_same_seed_finds_the_same():
    G = gram(16, 0)
    first, again = (best_mask(G, 8, np.random.default_rng(5), generations=5) for _ in range(2))
    assert (first[0] == again[0]).all()
    assert first[1] == again[1]


@pytest.mark.parametrize(
    ("G", "k", "message"),
    [
        (np.eye(3), 4, "cannot keep 4 of 3 channels"),
        (np.eye(3), -1, "cannot keep -1 of 3"),
        (np.ones((2, 3)), 1, "expected a square matrix"),
        (np.empty((0, 0)), 0, "at least one channel"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), 1, "not symmetric"),
        (np.full((2, 2), np.nan), 1, "not finite"),
    ],
)
def test_bad_input_is_named(G, k, message):
    with pytest.raises(CompressError, match=message):
        best_mask(G, k, np.random.default_rng(0))


def test_a_given_mask_with_other_ones_is_named():
    with pytest.raises(CompressError, match="must have 1 of 3 ones, got 2 of 3"):
        best_mask(np.eye(3), 1, np.random.default_rng(0), first=[np.array([True, True, False])])


def test_a_population_of_one_is_the_better_of_the_seeds():
    G = gram(8, 0)
    mask, error = best_mask(G, 4, np.random.default_rng(0), population=1, generations=2)
    assert mask.dtype == bool
    assert error == pytest.approx(min(mask_errors(G, greedy_mask(G, 4)), mask_errors(G, energy_mask(G, 4))))
