"""One-dimensional k-means against scikit-learn, exact dynamic programming, and its own definition."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.cluster import KMeans

from lightning_compress.core.errors import CompressError
from lightning_compress.quantization.kmeans import SortedValues, all_bits

NUMBERS = arrays(np.float32, st.integers(1, 60), elements=st.floats(-1000, 1000, width=32))


def exact(values: np.ndarray, size: int) -> float:
    """Return the least distortion of any ``size`` centroids: D(k, j) = min_i D(k - 1, i) + cost(i, j)."""
    x = np.sort(values.astype(float))
    n = len(x)
    cost = np.full((n + 1, n + 1), np.inf)
    for i in range(n + 1):
        for j in range(i, n + 1):
            cost[i, j] = np.square(x[i:j] - x[i:j].mean()).sum() if j > i else 0.0
    best = cost[0]
    for _ in range(size - 1):
        best = (best[:, None] + cost).min(0)
    return float(best[n])


def recomputed(values: np.ndarray, centroids: np.ndarray) -> float:
    return float(np.square(values.astype(float)[:, None] - centroids).min(1).sum())


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("law", ["laplace", "normal"])
def test_at_most_one_percent_above_scikit_learn(law, bits):
    values = getattr(np.random.default_rng(bits), law)(size=20_000).astype(np.float32)
    found = SortedValues(values).codebook(2**bits)
    reference = KMeans(2**bits, n_init=1, random_state=0).fit(values[:, None]).inertia_
    assert found.distortion <= 1.01 * reference
    assert len(found.centroids) == 2**bits


@pytest.mark.parametrize("law", ["laplace", "normal", "uniform"])
def test_few_values_stay_near_the_exact_optimum(law):
    rng = np.random.default_rng(0)
    ratios = []
    for n in (6, 10, 20, 30):
        for size in (2, 3, 4):
            for _ in range(5):
                values = getattr(rng, law)(size=n)
                ratios.append(SortedValues(values).codebook(size).distortion / exact(values, size))
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) <= 1.1
    assert max(ratios) <= 3


@given(NUMBERS)
@settings(max_examples=100, deadline=None)
def test_codebooks_are_what_they_say(values):
    found = all_bits(values)
    scale = max(float(np.square(values.astype(float)).sum()), 1e-30)
    for bits, codebook in found.items():
        assert 1 <= len(codebook.centroids) <= 2**bits
        assert (np.diff(codebook.centroids) > 0).all()
        assert codebook.distortion == pytest.approx(recomputed(values, codebook.centroids), abs=1e-12 * scale)
        error = np.square(values - codebook.centroids[codebook.codes(values)]).sum()
        assert error == pytest.approx(codebook.distortion, abs=1e-6 * scale)
    for (_, a), (_, b) in pairwise(sorted(found.items())):
        assert b.distortion <= a.distortion + 1e-12 * scale


@given(NUMBERS, st.integers(1, 16))
@settings(max_examples=100, deadline=None)
def test_a_warm_start_is_never_left_for_worse(values, size):
    start = np.random.default_rng(0).choice(values.astype(float), size)
    found = SortedValues(values).codebook(size, start)
    scale = float(np.square(values.astype(float)).sum())
    assert found.distortion <= recomputed(values, start) + 1e-12 * scale


@given(NUMBERS)
@settings(max_examples=50, deadline=None)
def test_as_many_centroids_as_different_values_lose_nothing(values):
    different = np.unique(values)
    found = SortedValues(values).codebook(len(different))
    assert found.distortion == 0
    np.testing.assert_array_equal(found.centroids, different)


@pytest.mark.parametrize("values", [np.full(100, 0.5), np.array([0.25]), np.array([])])
def test_constant_single_and_no_values(values):
    for codebook in all_bits(values).values():
        np.testing.assert_array_equal(codebook.centroids, np.unique(values))
        assert codebook.distortion == 0
    assert codebook.codes(values).shape == values.shape


def test_one_far_outlier_gets_its_own_centroid_and_the_rest_the_others():
    values = np.concatenate([np.random.default_rng(0).normal(size=1000), [1e4]])
    found = SortedValues(values).codebook(8)
    assert len(found.centroids) == 8
    assert found.centroids[-1] == 1e4
    assert found.distortion <= 1.1 * SortedValues(values[:-1]).codebook(7).distortion


def test_a_shift_moves_the_centroids_and_a_scale_scales_them():
    values = np.random.default_rng(0).laplace(size=3000)
    a, b = SortedValues(values).codebook(16), SortedValues(3 * values + 50).codebook(16)
    np.testing.assert_allclose(b.centroids, 3 * a.centroids + 50, rtol=1e-6)
    assert b.distortion == pytest.approx(9 * a.distortion, rel=1e-6)


def test_the_distortion_of_laplace_weights_falls_as_published_rates_say():
    found = all_bits(np.random.default_rng(0).laplace(size=200_000), range(1, 7))
    assert found[1].distortion / found[2].distortion == pytest.approx(2.8, abs=0.1)
    assert found[5].distortion / found[6].distortion == pytest.approx(3.9, abs=0.1)


def test_the_last_codebook_is_a_fixed_point_of_the_next_run():
    ordered = SortedValues(np.random.default_rng(0).normal(size=5000))
    once = ordered.codebook(16)
    again = ordered.codebook(16, once.centroids)
    assert again.distortion == pytest.approx(once.distortion, rel=1e-3)
    assert again.distortion <= once.distortion * (1 + 1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(bad):
    with pytest.raises(CompressError, match="NaN or infinity"):
        SortedValues(np.array([1.0, bad, 2.0]))
