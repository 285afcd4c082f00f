"""Codebooks of 1 to 8 bits for a million weights, against scikit-learn's KMeans: ``python benchmarks/kmeans.py``.

Laplace-distributed weights in fp32. Ours: one call for all eight widths. scikit-learn (``n_init=1``, Lloyd, random
state 0): one fit for each width, on all the weights.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
from sklearn.cluster import KMeans
from timing import medians

from lightning_compress.quantization.kmeans import all_bits

COUNT = 1_000_000


def main() -> None:
    weights = np.random.default_rng(0).laplace(size=COUNT).astype(np.float32)
    ours = all_bits(weights)
    seconds = medians({"ours": lambda: all_bits(weights)}, rounds=3)["ours"]
    print(f"{'bits':>4} {'distortion a weight':>20} {'scikit-learn':>14} {'ratio':>8} {'seconds there':>14}")
    total = 0.0
    for bits, codebook in ours.items():
        began = perf_counter()
        theirs = KMeans(2**bits, n_init=1, random_state=0).fit(weights[:, None])
        took = perf_counter() - began
        total += took
        distortion = float(np.square(weights - theirs.cluster_centers_[theirs.labels_, 0]).sum(dtype=np.float64))
        cells = f"{codebook.distortion / COUNT:>20.4e} {distortion / COUNT:>14.4e}"
        print(f"{bits:>4} {cells} {codebook.distortion / distortion:>8.4f} {took:>14.2f}", flush=True)
    print(f"seconds for all eight: {seconds:.2f} here, {total:.1f} there, {total / seconds:.0f} times as many")


if __name__ == "__main__":
    main()
