"""The two projections of ADMM onto one size limit: which weights stay at given bits, which bits at given weights.

    sum over layers of account(kept_i, n_i, b_i) <= limit,    never exceeded by what either projection returns

Source: Yang et al. 2020 (arXiv 1910.05897, section 3); the knapsacks are in sparsity_projection.py and
bits_projection.py. That positions and codebooks may count is ours: the cost of a position depends on how many there
are, so the first projection takes it from the time before, and scales the room until the true size fills the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import numpy as np
import torch
from torch import Tensor

from lightning_compress.bits_projection import project_bits
from lightning_compress.errors import InfeasibleBudgetError
from lightning_compress.kmeans import Codebook, all_bits
from lightning_compress.quantizers.codebook import nearest
from lightning_compress.size_account import SizeAccount
from lightning_compress.sparsity_projection import Kept, project_sparsity

ROUNDS = 40
SLACK = 0.002  # share of the limit that a projection of the weights may leave
GUESS = 0.1  # density from which positions are priced the first time
LEAST = 1  # weights that each layer keeps: without any, the network is cut in two


def total(counts: Mapping[str, int], sizes: Mapping[str, int], bits: Mapping[str, int], account: SizeAccount) -> float:
    """Bits of all layers."""
    return sum(account.layer(counts[name], sizes[name], bits[name]) for name in counts)


def project_weights(
    weights: Mapping[str, Tensor],
    bits: Mapping[str, int],
    counts: Mapping[str, int],
    limit: float,
    account: SizeAccount,
) -> Kept:
    """The weights that stay, with bits fixed.

    Args:
        weights: layer -> weight.
        bits: layer -> bits of a code.
        counts: layer -> weights kept the time before, from which the cost of a position is taken.
        limit: bits.
        account: what counts.

    Raises:
        InfeasibleBudgetError: not even one weight for each layer fits.
    """
    sizes = {name: w.numel() for name, w in weights.items()}
    codebooks = sum(account.codebook_bits(b) for b in bits.values())
    index = {n: _position(counts[n], sizes[n], account) for n in sizes}
    # What positions take in truth is known only afterwards, so the room is scaled until the true size fills the limit:
    # whatever is left unused here would be spent on bits, and be missing for weights the next time.
    best, low, high = None, 0.0, inf
    room = allowed = limit - codebooks
    for _ in range(ROUNDS):
        kept = project_sparsity(weights, bits, allowed, index, LEAST)
        size = total(kept.counts, sizes, bits, account)
        if size <= limit:
            best, low = kept, allowed
            if size >= (1 - SLACK) * limit or kept.counts == sizes:
                return kept
        else:
            high = allowed
        guess = allowed * (1 - SLACK / 2) * room / (size - codebooks)
        allowed = guess if low < guess < high else (low + min(high, 2 * allowed)) / 2
        if high - low < 1:
            break
    if best is not None:
        return best
    raise InfeasibleBudgetError(
        f"joint: the limit of {limit:,.0f} bits cannot be met with positions and codebooks counted; the smallest "
        f"choice found takes {size:,.0f} bits. Raise the limit, or allow fewer bits"
    )


def project_codes(
    targets: Mapping[str, Tensor],
    counts: Mapping[str, int],
    limit: float,
    account: SizeAccount,
    choices: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, int], dict[str, Codebook]]:
    """Bits and codebooks nearest to the targets, with the number of kept weights fixed.

    Args:
        targets: layer -> what the quantised weight should be near.
        counts: layer -> kept weights.
        limit: bits.
        account: what counts.
        choices: layer -> allowed bits.

    Returns:
        Layer -> bits, and layer -> codebook of the targets that are not zero.

    Raises:
        InfeasibleBudgetError: the fewest bits everywhere are too many.
    """
    found = {name: all_bits(nonzero(target), choices[name]) for name, target in targets.items()}
    distortions = {name: {b: book.distortion for b, book in books.items()} for name, books in found.items()}
    costs = {
        name: {b: account.layer(counts[name], target.numel(), b) for b in choices[name]}
        for name, target in targets.items()
    }
    bits = project_bits(distortions, costs, limit)
    return bits, {name: found[name][b] for name, b in bits.items()}


def nonzero(values: Tensor) -> np.ndarray:
    """The values that are not zero, shape ``(n,)``, in fp32."""
    flat = values.detach().float().flatten()
    return flat[flat != 0].cpu().numpy()


@torch.no_grad()
def quantised(values: Tensor, codebook: Codebook) -> Tensor:
    """Each value at its nearest centroid; zeros stay zero."""
    if not len(codebook.centroids):
        return torch.zeros_like(values)
    centroids = torch.from_numpy(codebook.centroids).to(values)
    return torch.where(values == 0, values, centroids[nearest(values, centroids)])


def _position(kept: int, weights: int, account: SizeAccount) -> float:
    """Bits of one position, the mean of those that were kept the time before."""
    kept = kept or max(round(GUESS * weights), 1)
    return account.index_bits(kept, weights) / kept
