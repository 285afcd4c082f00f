"""One-dimensional k-means: the codebook of ``2 ** bits`` values that is nearest to given weights.

    min over c of  D = sum_j min_k (x_j - c_k)^2

Lloyd's iteration on sorted values: clusters are intervals, cut at the midpoints of neighboring centroids, and prefix
sums give the mean of any interval. So an iteration costs O(K log n), not O(K n), and all widths share one sort.
Sources: Lloyd 1982 (Least squares quantization in PCM); the start at quantiles of the cube root of the density is the
optimal one for many centroids (Panter and Dite 1951); codebooks of pruned weights are Deep Compression's (arXiv
1510.00149, section 3). Ours: the density is taken from spacings of order statistics, an empty cluster moves to the
worst outlier of the cluster with the largest distortion, and Lloyd's optimum is left by moving single centroids.

Zeros are values like any other here. A codebook for a pruned layer is one of its nonzero weights, ``x[x != 0]``; the
exact zero is kept beside it. The result is a local optimum: it breaks on a few dozen clumped values, where some
clump may get too many centroids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_compress.core.errors import CompressError

MAX_ITERATIONS = 300
TOLERANCE = 1e-6  # of the distortion, by which an iteration must lower it to go on
TRIES = 3  # moves of a centroid without success, after which the search ends
MIN_GAIN = 1e-4  # of the distortion, for a move to be a success
SPACINGS = 4096  # of order statistics, by which the density is measured

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Codebook:
    """Centroids and how far the values are from them.

    Attributes:
        centroids: sorted, all different, none without a value; fewer than were asked for where the values have
            fewer different ones, and none for no values.
        distortion: the sum of squared distances of the values to their nearest centroids.
    """

    centroids: Floats
    distortion: float

    def codes(self, values: NDArray) -> NDArray[np.intp]:
        """Return the index of the nearest centroid for each value, same shape."""
        return np.searchsorted((self.centroids[1:] + self.centroids[:-1]) / 2, values)


class SortedValues:
    """Values, sorted once, with prefix sums.

    Args:
        values: any shape and float type.

    Raises:
        CompressError: a value is NaN or infinite.
    """

    def __init__(self, values: NDArray) -> None:
        ordered = np.sort(values, axis=None)
        if not np.isfinite(ordered[[0, -1]] if ordered.size else 0.0).all():  # NaN sorts to the end
            raise CompressError("k-means: the values hold NaN or infinity; find out which layer diverged")
        self.values = ordered.astype(np.float64)
        # Around the mean, where sums of squares lose the fewest digits.
        self.mean = self.values.mean() if ordered.size else 0.0
        centred = self.values - self.mean
        self.sums = np.concatenate([[0.0], np.cumsum(centred)])
        self.squares = np.concatenate([[0.0], np.cumsum(centred**2)])
        self.distinct = int(np.count_nonzero(np.diff(self.values))) + bool(ordered.size)

    def codebook(self, size: int, start: Floats | None = None) -> Codebook:
        """Return at most ``size`` centroids by Lloyd's iteration, from a given or the cube-root-density start.

        Args:
            size: 1 or more.
            start: centroids, in any order, at most ``size`` of them. The distortion will be no larger than with these.
        """
        if self.distinct <= size:
            return Codebook(np.unique(self.values), 0.0)
        centroids, error = self._lloyd(self._quantiles(size) if start is None else np.sort(start), size)
        rank = 0
        while size > 2 and rank < min(TRIES, size - 1):
            moved, moved_error = self._lloyd(self._moved(centroids, rank), size)
            if moved_error < (1 - MIN_GAIN) * error:
                centroids, error, rank = moved, moved_error, 0
            else:
                rank += 1
        counts = np.diff(self._cuts(centroids))
        return Codebook(centroids[counts > 0], float(np.square(self.values - np.repeat(centroids, counts)).sum()))

    def _lloyd(self, centroids: Floats, size: int) -> tuple[Floats, float]:
        """Iterate to a local optimum with ``size`` centroids: these, and the distortion."""
        last = np.inf
        for _ in range(MAX_ITERATIONS):
            means, errors, cuts = self._means(centroids)
            error, full = max(float(errors.sum()), 0.0), len(means) == size
            centroids = means if full else self._filled(means, errors, cuts, size)
            if full and last - error <= TOLERANCE * error:
                break
            last = error
        return centroids, error

    def _cuts(self, centroids: Floats) -> NDArray[np.intp]:
        """Return where the intervals of the centroids begin and end, ``len(centroids) + 1`` positions."""
        inner = self.values.searchsorted((centroids[1:] + centroids[:-1]) / 2)
        return np.concatenate([[0], inner, [len(self.values)]])

    def _means(self, centroids: Floats) -> tuple[Floats, Floats, NDArray[np.intp]]:
        """Return mean and distortion of each interval that is not empty, and where these intervals are cut."""
        cuts = self._cuts(centroids)
        counts = cuts[1:] - cuts[:-1]
        if not counts.all():
            cuts = cuts[np.concatenate([[True], counts > 0])]
            counts = cuts[1:] - cuts[:-1]
        sums, squares = self.sums[cuts], self.squares[cuts]
        totals = sums[1:] - sums[:-1]
        means = totals / counts
        return means + self.mean, squares[1:] - squares[:-1] - totals * means, cuts

    def _filled(self, means: Floats, errors: Floats, cuts: NDArray[np.intp], size: int) -> Floats:
        """Add centroids up to ``size``: the worst outliers of the clusters with the largest distortions."""
        first, last = self.values[cuts[:-1]], self.values[cuts[1:] - 1]
        outliers = np.where(means - first > last - means, first, last)
        worst = np.argsort(np.where(first < last, -errors, np.inf), kind="stable")[: size - len(means)]
        return np.sort(np.concatenate([means, outliers[worst[first[worst] < last[worst]]]]))

    def _moved(self, centroids: Floats, rank: int) -> Floats:
        """Move one centroid from the pair that is ``rank``-th cheapest to merge to where a split gains most.

        Costs and gains are those before Lloyd's iteration has spread the change, which makes most of the difference.
        """
        means, _, cuts = self._means(centroids)
        counts = np.diff(cuts)
        cost = counts[1:] * counts[:-1] / (counts[1:] + counts[:-1]) * np.diff(means) ** 2
        pair = int(np.argsort(cost, kind="stable")[: rank + 1][-1])
        middle = np.maximum(np.searchsorted(self.values, means), cuts[:-1])
        left, right = middle - cuts[:-1], cuts[1:] - middle
        left_mean = (self.sums[middle] - self.sums[cuts[:-1]]) / np.maximum(left, 1)
        right_mean = (self.sums[cuts[1:]] - self.sums[middle]) / np.maximum(right, 1)
        gain = left * right / counts * (left_mean - right_mean) ** 2
        gain[pair : pair + 2] = -1
        wide = int(gain.argmax())
        merged = means[pair : pair + 2] @ counts[pair : pair + 2] / counts[pair : pair + 2].sum()
        halves = self.mean + np.array([left_mean[wide], right_mean[wide]])
        return np.sort(np.concatenate([np.delete(means, [pair, pair + 1, wide]), [merged], halves]))

    def _quantiles(self, size: int) -> Floats:
        """Return quantiles of the cube root of the density: centroids are spaced as density^(-1/3)."""
        last = len(self.values) - 1
        ranks = np.unique(np.linspace(0, last, min(last, SPACINGS) + 1).astype(np.intp))
        points = self.values[ranks]
        # The density in a gap is about count / gap, so its cube root times the gap is count^(1/3) gap^(2/3).
        mass = np.concatenate([[0.0], np.cumsum(np.cbrt(np.diff(ranks)) * np.cbrt(np.diff(points)) ** 2)])
        return np.interp((np.arange(size) + 0.5) / size * mass[-1], mass, points)


def all_bits(
    values: NDArray, bits: Iterable[int] = range(1, 9), starts: Mapping[int, Floats] | None = None
) -> dict[int, Codebook]:
    """Return the codebooks of ``2 ** b`` centroids for each number of bits; the distortion never rises with the bits.

    Args:
        values: any shape and float type, sorted once for all.
        bits: 0 or more each.
        starts: bits -> centroids to start from, such as those of the last time.

    Raises:
        CompressError: a value is NaN or infinite.
    """
    ordered, found = SortedValues(values), {}
    best: Codebook | None = None
    for b in sorted(bits):
        codebook = ordered.codebook(2**b, (starts or {}).get(b))
        if best is not None and codebook.distortion > best.distortion:
            codebook = ordered.codebook(2**b, best.centroids)
        best = found[b] = codebook
    return found
