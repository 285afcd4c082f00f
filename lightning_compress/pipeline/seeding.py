"""Random numbers of one trial: those of all libraries, and of generators that loaders have of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from lightning import seed_everything

from lightning_compress.core.digest import digest_of
from lightning_compress.surgery.inputs import combined, each_of
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


def digest_of_data(seed: int, loaders: Any) -> str | None:
    """Return a digest of the first batch and of the numbers of batches; None if no seed makes them reproducible.

    Args:
        seed: of the random numbers that loaders draw.
        loaders: one, or several as Lightning takes them.
    """
    drawn = []
    for _ in range(2):
        with seeded(seed, loaders):
            drawn.append(digest_of([next(iter(combined(loaders)), None), _lengths(loaders)]))
    return drawn[0] if drawn[0] == drawn[1] else None


def _lengths(loaders: Any) -> list[int]:
    """Return the numbers of batches of loaders that know them."""
    found = []
    for loader in each_of(loaders):
        with suppress(TypeError):  # of an iterable dataset
            found.append(len(loader))
    return found


def _generators(loaders: Any) -> Iterator[torch.Generator]:
    """Return the generators that loaders and their samplers draw from."""
    for loader in each_of(loaders):
        batches = getattr(loader, "batch_sampler", None)
        for holder in (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
            if isinstance(generator := getattr(holder, "generator", None), torch.Generator):
                yield generator
