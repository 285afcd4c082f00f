"""The two projections of ADMM onto one size limit: which weights stay at given bits, which bits at given weights.

    sum over layers of account(kept_i, n_i, b_i) <= limit,    never exceeded by what either projection returns

Source: Yang et al. 2020 (arXiv 1910.05897, section 3); the knapsacks are in sparsity_projection.py and
bits_projection.py. That positions and codebooks may count is ours: the cost of a position depends on how many there
are, so the first projection takes it from the time before, and scales the room until the true size fills the limit.
Codebooks are the same for any number of weights, so a limit can be too small for those of the bits of the time before:
then bits are lowered first, by the second projection of the whole weights onto a part of the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Context
from math import ceil, inf

import numpy as np
import torch
from torch import Tensor

from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.quantization.bit_allocation import project_bits
from lightning_compress.quantization.kmeans import Codebook, all_bits
from lightning_compress.quantization.quantizers.codebook import nearest
from lightning_compress.quantization.size_model import WORD, SizeAccount
from lightning_compress.quantization.sparsity_projection import UNITS, Kept, project_sparsity

ROUNDS = 40
SLACK = 0.002  # share of the limit that a projection of the weights may leave
GUESS = 0.1  # density from which positions are priced the first time
LEAST = 1  # weights that each layer keeps: without any, the network is cut in two
FIXED = 0.25  # share of a limit that codebooks and those weights may take before bits are lowered


def total(counts: Mapping[str, int], sizes: Mapping[str, int], bits: Mapping[str, int], account: SizeAccount) -> float:
    """Return the bits of all layers."""
    return sum(account.layer(counts[name], sizes[name], bits[name]) for name in counts)


def check_limit(sizes: Mapping[str, int], limit: float, account: SizeAccount, bits: int) -> None:
    """Raise if even one weight per layer exceeds the limit.

    Args:
        sizes: layer -> number of weights.
        limit: share of the fp32 weights.
        account: what counts.
        bits: the fewest that a layer may have.

    Raises:
        InfeasibleBudgetError: it does not; the message names the smallest share that can be met.
    """
    dense = WORD * sum(sizes.values())
    smallest = total(dict.fromkeys(sizes, LEAST), sizes, dict.fromkeys(sizes, bits), account)
    if smallest > limit * dense:
        share = Context(prec=4, rounding=ROUND_CEILING).create_decimal_from_float(smallest / dense)
        raise InfeasibleBudgetError(
            f"joint: the limit of {limit:g} of the fp32 weights cannot be met; with {LEAST} weight in each of "
            f"{len(sizes)} layers, at {bits} bits, all that counts takes {smallest:,} of {dense:,} bits. Raise the "
            f"limit to {share} or more, allow fewer bits, or leave small layers out"
        )


def affordable_bits(
    weights: Mapping[str, Tensor],
    bits: Mapping[str, int],
    limit: float,
    account: SizeAccount,
    choices: tuple[int, ...],
) -> dict[str, int]:
    """Return the bits, lowered where their codebooks leave too little of a limit for weights.

    Args:
        weights: layer -> weight.
        bits: layer -> bits of a code, each one of the choices.
        limit: bits.
        account: what counts.
        choices: bits that a layer may have.

    Returns:
        Layer -> bits, with which codebooks and one weight a layer take ``FIXED`` of the limit, or as little as can be.
    """
    sizes = {name: w.numel() for name, w in weights.items()}
    floors = dict.fromkeys(weights, LEAST)
    if total(floors, sizes, bits, account) <= FIXED * limit:
        return dict(bits)
    smallest = total(floors, sizes, dict.fromkeys(weights, min(choices)), account)
    fewer = {name: tuple(b for b in choices if b <= most) for name, most in bits.items()}
    return project_codes(weights, floors, max(FIXED * limit, smallest), account, fewer)[0]


def project_weights(
    weights: Mapping[str, Tensor],
    bits: Mapping[str, int],
    counts: Mapping[str, int],
    limit: float,
    account: SizeAccount,
) -> Kept:
    """Return the weights that stay, with bits fixed.

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
    nonzeros = {name: int(w.count_nonzero()) for name, w in weights.items()}
    floors = {name: min(LEAST, number) for name, number in nonzeros.items()}
    smallest = total(floors, sizes, bits, account)
    if smallest > limit:
        raise InfeasibleBudgetError(
            f"joint: the limit of {limit:,.0f} bits cannot be met; with {LEAST} weight in each layer, at {dict(bits)} "
            f"bits, all that counts takes {smallest:,} bits. Raise the limit, or lower the bits"
        )
    if total(nonzeros, sizes, bits, account) <= limit:
        return project_sparsity(weights, bits, inf)
    index = {n: _position(counts[n], sizes[n], account) for n in sizes}
    # What positions take in truth is known only afterwards, so the room is scaled until the true size fills the limit:
    # whatever is left unused here would be spent on bits, and be missing for weights the next time.
    codebooks = sum(account.codebook_bits(b) for b in bits.values())
    best, high = None, inf
    low = sum(floors[n] * (bits[n] + index[n] + 2 / UNITS) for n in sizes)  # with less room no layer keeps its floor
    room, allowed = limit - codebooks, max(limit - codebooks, low)
    for _ in range(ROUNDS):
        kept = project_sparsity(weights, bits, allowed, index, LEAST)
        size = total(kept.counts, sizes, bits, account)
        if size <= limit:
            best, low = kept, allowed
            if size >= (1 - SLACK) * limit:
                return kept
        else:
            high = allowed
        if high - low < 1:
            break
        guess = allowed * (1 - SLACK / 2) * room / (size - codebooks)
        allowed = guess if low < guess < high else (low + min(high, 2 * allowed)) / 2
    return best or project_sparsity(weights, bits, low, index, LEAST)


def project_codes(
    targets: Mapping[str, Tensor],
    counts: Mapping[str, int],
    limit: float,
    account: SizeAccount,
    choices: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, int], dict[str, Codebook]]:
    """Return bits and codebooks nearest to the targets, with the number of kept weights fixed.

    Args:
        targets: layer -> what the quantized weight should be near.
        counts: layer -> kept weights.
        limit: bits.
        account: what counts.
        choices: layer -> allowed bits.

    Returns:
        Layer -> bits, and layer -> codebook of the targets that are not zero.

    Raises:
        InfeasibleBudgetError: the fewest bits everywhere are too many.
        CompressError: a target holds NaN or infinity.
    """
    broken = next((name for name, target in targets.items() if not target.isfinite().all()), None)
    if broken is not None:
        raise CompressError(f"joint: layer {broken!r} holds NaN or infinity; its training diverged")
    found = {name: all_bits(nonzero(target), choices[name]) for name, target in targets.items()}
    distortions = {name: {b: book.distortion for b, book in books.items()} for name, books in found.items()}
    costs = {
        name: {b: ceil(account.layer(counts[name], target.numel(), b)) for b in choices[name]}
        for name, target in targets.items()
    }
    bits = project_bits(distortions, costs, limit)
    return bits, {name: found[name][b] for name, b in bits.items()}


def nonzero(values: Tensor) -> np.ndarray:
    """Return the values that are not zero, shape ``(n,)``, in fp32."""
    flat = values.detach().float().flatten()
    return flat[flat != 0].cpu().numpy()


@torch.no_grad()
def quantized(values: Tensor, codebook: Codebook) -> Tensor:
    """Return each value at its nearest centroid; zeros stay zero."""
    if not len(codebook.centroids):
        return torch.zeros_like(values)
    centroids = torch.from_numpy(codebook.centroids).to(values)
    return torch.where(values == 0, values, centroids[nearest(values, centroids)])


def _position(kept: int, weights: int, account: SizeAccount) -> float:
    """Return bits of one position, the mean of those that were kept the time before."""
    kept = kept or max(round(GUESS * weights), 1)
    return account.index_bits(kept, weights) / kept
