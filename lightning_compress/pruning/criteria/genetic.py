"""Genetic choice: of all sets of k units, the one whose outputs come closest to those of all units.

    keep argmin over masks m with k ones of d'Gd,  d = 1 - m,      G: Gram matrix of the units' contributions (gram.py)

Source: paper 2 (Hu et al. 2018, arXiv 1805.11394), of which the abstract and a reader's notes were available: a bit
string for each layer, and the squared change of the layer's outputs before the activation as fitness in a "two-step
approximation" are theirs. Reconstructed: the closed form d'Gd (the network's loss by the layers' output errors, those
by their Hessian), the operators and all constants (genetic_masks.py). The greedy masks and the one by weight magnitude
are in the first population, so the choice is never worse than theirs on G. Where channels are not strongly correlated
greedy finds the same; use it with a refit, which matters more than the choice. Wide linear layers know only the
diagonal of G, whose best set is that of the largest entries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final
from zlib import crc32

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.pruning.criteria.criterion import Criterion
from lightning_compress.pruning.criteria.gram import Gram, unit_gram
from lightning_compress.pruning.criteria.l2 import L2
from lightning_compress.pruning.genetic_masks import best_mask
from lightning_compress.surgery.graph.channels import ChannelGroup


@final
@dataclass(frozen=True)
class Genetic(Criterion):
    """A genetic search over sets of units; as scores, where single units are asked for, those of :class:`Gram`.

    Args:
        positions: places of each image that count.
        population: sets of a generation.
        generations: how many.
        p_mutate: probability that a child exchanges one unit.
        seed: of all random numbers; they also depend on the group's name, and on nothing else.

    Raises:
        CompressError: as for :class:`Gram`.
    """

    positions: int = 10
    population: int = 60
    generations: int = 60
    p_mutate: float = 0.5
    seed: int = 0

    @override
    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        Gram(self.positions).gather(module, batches)

    @override
    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        return Gram(self.positions)(group, net)

    @override
    def kept(self, group: ChannelGroup, net: nn.Module, count: int) -> Tensor:
        gram = unit_gram(group, net)
        gram = gram.diag() if gram.dim() == 1 else (gram + gram.T) / 2  # sums of blocks are symmetric but for rounding
        magnitude = np.zeros(group.units, dtype=bool)
        magnitude[L2().kept(group, net, count).cpu().numpy()] = True
        rng = np.random.default_rng([self.seed, crc32(group.name.encode())])
        mask, _ = best_mask(
            gram.cpu().numpy(), count, rng, [magnitude], self.population, self.generations, self.p_mutate
        )
        return torch.from_numpy(np.flatnonzero(mask))
