"""Random numbers of one trial: those of all libraries, and of generators that loaders have of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import seed_everything
from lightning.pytorch.utilities import CombinedLoader
from torch.utils._pytree import tree_leaves

from lightning_compress.surgery.isolated_rng import isolated_rng


@contextmanager
def seeded(seed: int, *loaders: Any) -> Iterator[None]:
    """Seed the global generators and those that loaders have of their own, and put all back after."""
    own = [generator for loader in loaders for generator in _generators(loader)]
    states = [generator.get_state() for generator in own]
    with isolated_rng():
        seed_everything(seed, verbose=False)
        for generator in own:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in zip(own, states, strict=True):
                generator.set_state(state)


def _generators(loaders: Any) -> Iterator[torch.Generator]:
    """Return the generators that loaders and their samplers draw from."""
    for loader in loaders.flattened if isinstance(loaders, CombinedLoader) else tree_leaves(loaders):
        batches = getattr(loader, "batch_sampler", None)
        for holder in (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
            if isinstance(generator := getattr(holder, "generator", None), torch.Generator):
                yield generator
