"""A genetic algorithm over keep/drop strings with exactly k ones, for the smallest error d'Gd of a layer.

    selection:  linear ranks, two parents a child
    crossover:  what both parents keep is kept; the rest of the k is drawn from what one of them keeps
    mutation:   one kept channel for one dropped
    survival:   the best half of the generation before lives on (elitism)

Source: Hu et al. 2018 (arXiv 1805.11394), of which abstract and a reader's notes were available: a bit string per layer
and the layer's error before the activation as fitness are theirs; operators and constants are ours (docs/papers.md).
k is kept by construction, not by a penalty. The greedy and the energy mask, and any masks given, are in the first
population and only a better one displaces the best, so the result is never worse than they are. Fitness costs no
forward pass. On one Gram matrix greedy is often as good; where channels are strongly correlated it is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.gram_masks import checked, energy_mask, greedy_mask, mask_errors


def best_mask(
    G: np.ndarray,
    k: int,
    rng: np.random.Generator,
    first: Sequence[np.ndarray] = (),
    population: int = 60,
    generations: int = 60,
    p_mutate: float = 0.5,
) -> tuple[np.ndarray, float]:
    """Return the best mask found, and its error.

    Args:
        G: Gram matrix of the channels, shape ``(C, C)``, symmetric.
        k: channels to keep.
        rng: of all random numbers.
        first: masks with k ones for the first population, such as one by weight magnitude; each of shape ``(C,)``.
        population: strings of a generation.
        generations: how many.
        p_mutate: probability that a child has one swap.

    Returns:
        Boolean, shape ``(C,)``, exactly k true; and ``d'Gd`` in the unit of G.

    Raises:
        CompressError: G is no Gram matrix, k is out of range, or a given mask has not k ones.
    """
    G = checked(G, k)
    seeds = [greedy_mask(G, k), energy_mask(G, k), *(_given(mask, len(G), k) for mask in first)]
    drawn = [random_mask(len(G), k, rng) for _ in range(max(population - len(seeds), 0))]
    masks = np.array([*seeds, *drawn])
    errors = mask_errors(G, masks)
    elite = max(population // 2, 1)
    for _ in range(generations):
        order = np.argsort(errors, kind="stable")
        masks, errors = _distinct(masks[order], errors[order], elite)
        weights = np.arange(len(masks), 0, -1, dtype=float)
        pairs = rng.choice(len(masks), (population - elite, 2), p=weights / weights.sum())
        children = np.array([cross(masks[a], masks[b], rng) for a, b in pairs], dtype=bool).reshape(-1, len(G))
        for i in np.flatnonzero(rng.random(len(children)) < p_mutate):
            children[i] = swap(children[i], rng)
        masks, errors = np.concatenate([masks, children]), np.concatenate([errors, mask_errors(G, children)])
    best = int(np.argmin(errors))
    return masks[best], float(errors[best])


def random_mask(size: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random mask with k of ``size`` ones, all subsets equally likely."""
    mask = np.zeros(size, dtype=bool)
    mask[rng.permutation(size)[:k]] = True
    return mask


def cross(one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a child with as many ones as ``one``: what both keep, and a random part of what only one of them keeps."""
    child = one & other
    either = rng.permutation(np.flatnonzero(one ^ other))
    child[either[: int(one.sum() - child.sum())]] = True
    return child


def swap(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the mask with one kept channel exchanged for a dropped one; a copy if nothing can be exchanged."""
    kept, dropped = np.flatnonzero(mask), np.flatnonzero(~mask)
    swapped = mask.copy()
    if len(kept) and len(dropped):
        swapped[rng.choice(kept)], swapped[rng.choice(dropped)] = False, True
    return swapped


def _given(mask: np.ndarray, size: int, k: int) -> np.ndarray:
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != (size,) or mask.sum() != k:
        raise CompressError(f"masks: a mask given must have {k} of {size} ones, got {mask.sum()} of {mask.size}")
    return mask


def _distinct(masks: np.ndarray, errors: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first ``most`` different masks: copies of the best would soon be all there is."""
    _, positions = np.unique(masks, axis=0, return_index=True)
    kept = np.sort(positions)[:most]
    return masks[kept], errors[kept]
