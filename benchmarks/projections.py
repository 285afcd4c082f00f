"""Both projections of joint sparsity and bits on 25M weights in 54 layers: ``python benchmarks/projections.py``.

Normal weights in layers that grow a hundredfold with depth, 3 to 7 bits each, a tenth of the bits as limit; and with
half as many. The bits projection is given distortions as of Laplace weights: k-means has a benchmark of its own.
"""

from __future__ import annotations

from functools import partial

import torch
from timing import medians

from lightning_compress.bits_projection import project_bits
from lightning_compress.sparsity_projection import project_sparsity

LAYERS, COUNTS = 54, (12_500_000, 25_000_000)


def weights_of(count: int) -> dict[str, torch.Tensor]:
    """Layers that grow with depth, each with its own standard deviation."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.logspace(0, 2, LAYERS)
    sizes = (shares / shares.sum() * count).int().tolist()
    return {f"l{i}": torch.randn(n, generator=generator) * (2 / n**0.5) for i, n in enumerate(sizes)}


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {"sparsity": [], "bits": []}
    for count in COUNTS:
        weights = weights_of(count)
        bits = {name: 3 + i % 5 for i, name in enumerate(weights)}
        limit = 0.1 * sum(bits[name] * w.numel() for name, w in weights.items())
        kept = project_sparsity(weights, bits, limit)
        power = {name: float(w[kept.masks[name]].square().sum()) for name, w in weights.items()}
        distortions = {name: {b: power[name] / 3.3**b for b in range(1, 9)} for name in weights}
        costs = {name: {b: b * kept.counts[name] + 32 * 2**b for b in range(1, 9)} for name in weights}
        jobs = {
            "sparsity": partial(project_sparsity, weights, bits, limit),
            "bits": partial(project_bits, distortions, costs, limit),
        }
        for name, seconds in medians(jobs, rounds=3).items():
            found[name].append(seconds)
        chosen = project_bits(distortions, costs, limit)
        used = sum(costs[name][b] for name, b in chosen.items())
        print(f"{count:>12,} weights: limit {limit:,.0f} bits, sparsity uses {kept.bits:,.0f}, bits {used:,.0f}")
    print(f"{'projection':12}" + "".join(f"{f'{count / 1e6:.1f}M':>12}" for count in COUNTS) + f"{'ratio':>10}")
    for name, (half, whole) in found.items():
        print(f"{name:12}{half:>10.3f} s{whole:>10.3f} s{whole / half:>10.2f}")


if __name__ == "__main__":
    main()
