"""The scopes' contract, collected from conf/, and reference values by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.pruning.scopes.network_wide import NetworkWide
from lightning_compress.pruning.scopes.per_layer import PerLayer

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "scope").glob("*.yaml"))
LAYERS = st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 1.0), st.sampled_from([1, 9])), min_size=1, max_size=5)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@given(layers=LAYERS, seed=st.integers(0, 1000), ties=st.booleans())
@settings(deadline=None, max_examples=60)
def test_contract(file, layers, seed, ties):
    scope, generator = instantiate(OmegaConf.load(file)), torch.Generator().manual_seed(seed)
    scores = {f"l{i}": torch.rand(units, generator=generator) for i, (units, *_) in enumerate(layers)}
    scores = {name: value.round(decimals=1) if ties else value for name, value in scores.items()}
    kept = {f"l{i}": max(1, round(density * units)) for i, (units, density, _) in enumerate(layers)}
    unit = {f"l{i}": weights for i, (*_, weights) in enumerate(layers)}
    found = scope(kept, scores, unit)
    assert found.keys() == kept.keys()
    assert all(1 <= found[name] <= len(scores[name]) for name in kept)
    assert sum(found[name] * unit[name] for name in kept) <= sum(kept[name] * unit[name] for name in kept)
    assert scope(found, scores, unit) == found


def test_per_layer_keeps_what_the_plan_says():
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([9.0, 8.0, 7.0])}
    assert PerLayer()({"a": 1, "b": 2}, scores, {"a": 1, "b": 1}) == {"a": 1, "b": 2}


def test_network_wide_keeps_the_best_of_all_and_one_of_each():
    scores = {"a": torch.tensor([0.1, 0.2, 0.3]), "b": torch.tensor([9.0, 8.0, 7.0])}
    assert NetworkWide()({"a": 2, "b": 2}, scores, {"a": 1, "b": 1}) == {"a": 1, "b": 3}


def test_network_wide_counts_weights_rather_than_units():
    scores = {"slices": torch.tensor([5.0, 4.0]), "weights": torch.tensor([3.0, 2.0, 1.0])}
    # 9 + 3 weights may stay. The second slice would need nine more, and what scores below it does not overtake it.
    assert NetworkWide()({"slices": 1, "weights": 3}, scores, {"slices": 9, "weights": 1}) == {
        "slices": 1,
        "weights": 1,
    }
