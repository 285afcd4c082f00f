"""Both projections of joint sparsity and bits on 25M weights in 54 layers: ``python benchmarks/projections.py``.

Normal weights in layers that grow a hundredfold with depth, 3 to 7 bits each, a tenth of the bits as limit; and a
tenth as many weights. A, which weights stay: counting weight bits alone, and positions and codebooks too, priced by the
projection before. B, which bits: k-means of W + Y at all eight widths and the knapsack, where all of W + Y is off zero
(the most that it can be) and where only the kept weights are (the first round); and the knapsack alone. CPU seconds.
"""

from __future__ import annotations

from functools import partial
from time import process_time

import torch
from timing import medians

from lightning_compress.quantization.admm_projections import nonzero, project_codes, project_weights, total
from lightning_compress.quantization.bit_allocation import project_bits
from lightning_compress.quantization.kmeans import all_bits
from lightning_compress.quantization.size_model import FileAccount, WeightBitsAccount

LAYERS, COUNTS, WIDTHS = 54, (2_500_000, 25_000_000), tuple(range(1, 9))


def weights_of(count: int) -> dict[str, torch.Tensor]:
    """Layers that grow with depth, each with its own standard deviation."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.logspace(0, 2, LAYERS)
    sizes = (shares / shares.sum() * count).int().tolist()
    return {f"l{i}": torch.randn(n, generator=generator) * (2 / n**0.5) for i, n in enumerate(sizes)}


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    for count in COUNTS:
        weights, paper, file = weights_of(count), WeightBitsAccount(), FileAccount()
        sizes, bits = {n: w.numel() for n, w in weights.items()}, {n: 3 + i % 5 for i, n in enumerate(weights)}
        limit = 0.1 * total(sizes, sizes, bits, paper)
        kept = project_weights(weights, bits, dict.fromkeys(sizes, 0), limit, paper)
        kept_file = project_weights(weights, bits, dict.fromkeys(sizes, 0), limit, file)
        sparse, widths = {n: w * kept.masks[n] for n, w in weights.items()}, dict.fromkeys(sizes, WIDTHS)
        books = {n: all_bits(nonzero(w)) for n, w in weights.items()}
        distortions = {n: {b: book.distortion for b, book in books[n].items()} for n in weights}
        costs = {n: {b: paper.layer(kept.counts[n], sizes[n], b) for b in WIDTHS} for n in sizes}
        jobs = {
            "A, weight bits": partial(project_weights, weights, bits, kept.counts, limit, paper),
            "A, file": partial(project_weights, weights, bits, kept_file.counts, limit, file),
            "B, W + Y all off zero": partial(project_codes, weights, kept.counts, limit, paper, widths),
            "B, only kept weights": partial(project_codes, sparse, kept.counts, limit, paper, widths),
            "B's knapsack alone": partial(project_bits, distortions, costs, limit),
        }
        for name, seconds in medians(jobs, rounds=3, clock=process_time).items():
            found.setdefault(name, []).append(seconds)
        chosen, _ = project_codes(weights, kept.counts, limit, paper, widths)
        used = [total(kept.counts, sizes, bits, paper), total(kept_file.counts, sizes, bits, file)]
        used.append(total(kept.counts, sizes, chosen, paper))
        uses = f"A uses {used[0]:,}, with file {used[1]:,}, B {used[2]:,}"
        print(f"{count:>12,} weights: limit {limit:,.0f} bits; {uses}", flush=True)
    print(f"{'projection':24}" + "".join(f"{f'{count / 1e6:.1f}M':>10}  " for count in COUNTS) + f"{'ratio':>8}")
    for name, (few, many) in found.items():
        print(f"{name:24}{few:>10.3f} s{many:>10.3f} s{many / few:>8.1f}")


if __name__ == "__main__":
    main()
