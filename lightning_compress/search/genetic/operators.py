"""Genes and the genetic operators of GeneCAI (arXiv 2004.04249), as pure functions: none changes its arguments.

    directed:   N(m / 2, m / 4) steps down from the starting index, m = steps down to the boundary
    roulette:   P(parent of rank r of n) proportional to n - r, with replacement
    crossover:  with p_cross, each gene from the other parent with p_swap
    mutate:     with p_mutate, each gene with p_tweak: ratios by N(0, sigma of their range), whole numbers by one step

A genome is one index per choice, so genome, point of the space and plan are the same thing in three spellings, and
nothing is lost between them. Ranks stand for the paper's roulette on shifted scores: they mean the same under any
objective, and an exp(100 saving) does not swallow all but one parent. Genes stay within their boundaries (the released
code lets mutation jump over them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_compress.core.space import Choice

Genome = tuple[int, ...]


@dataclass(frozen=True)
class Gene:
    """One choice as a gene.

    Attributes:
        low, high: smallest and largest index allowed.
        width: standard deviation of a mutation in steps of the grid, or None for one step up or down.
    """

    low: int
    high: int
    width: float | None


def gene(choice: Choice, low: int, sigma: float) -> Gene:
    """Return the gene of a choice: ratios mutate by ``sigma`` of their range, whole numbers by one step.

    Args:
        choice: of the space.
        low: smallest index allowed.
        sigma: standard deviation as a share of the range of the indices.
    """
    ratio = any(value != int(value) for value in choice.values)
    last = len(choice.values) - 1
    return Gene(low, last, sigma * last if ratio else None)


def directed(start: Genome, genes: Sequence[Gene], rng: np.random.Generator) -> Genome:
    """Return a first individual: each gene somewhere between its starting index and its boundary, mostly halfway."""
    room = np.array([max(index - g.low, 0) for index, g in zip(start, genes, strict=True)], dtype=float)
    down = np.clip(np.rint(rng.normal(room / 2, room / 4)), 0, room)
    return tuple(int(index - d) for index, d in zip(start, down, strict=True))


def roulette(size: int, parents: int, rng: np.random.Generator) -> list[int]:
    """Return ranks (0 is the best of ``size``) of some parents, drawn with replacement."""
    weights = np.arange(size, 0, -1, dtype=float)
    return [int(i) for i in rng.choice(size, parents, p=weights / weights.sum())]


def crossover(one: Genome, other: Genome, p_cross: float, p_swap: float, rng: np.random.Generator) -> Genome:
    """Return ``one`` with some genes of ``other``, gene by gene (the released code swaps whole rank vectors)."""
    if rng.random() >= p_cross:
        return one
    taken = rng.random(len(one)) < p_swap
    return tuple(b if take else a for a, b, take in zip(one, other, taken, strict=True))


def mutate(genome: Genome, genes: Sequence[Gene], p_mutate: float, p_tweak: float, rng: np.random.Generator) -> Genome:
    """Return ``genome`` with some genes moved."""
    if rng.random() >= p_mutate:
        return genome
    tweaked = rng.random(len(genome)) < p_tweak
    return tuple(
        moved(index, g, rng) if tweak else index for index, g, tweak in zip(genome, genes, tweaked, strict=True)
    )


def moved(index: int, gene: Gene, rng: np.random.Generator) -> int:
    """Return the index after one mutation, at the gene's limit when it would be beyond."""
    step = rng.choice((-1, 1)) if gene.width is None else np.rint(rng.normal(0, gene.width))
    return int(np.clip(index + step, gene.low, gene.high))
