"""Patterns: which weights are kept together. Schedules: how many, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.core.profile import LayerProfile
from lightning_compress.pruning.patterns.n_of_m import NofM
from lightning_compress.pruning.schedules.cubic import Cubic
from lightning_compress.pruning.schedules.iterative import Iterative

CONF = Path(lightning_compress.conf.__file__).parent / "compress"


def files(kind: str) -> list[Path]:
    return sorted((CONF / kind).glob("*.yaml"))


@pytest.mark.parametrize("file", files("pattern"), ids=lambda f: f.stem)
class TestPatterns:
    def test_keeps_the_promised_number_of_whole_units_nested(self, file):
        pattern = instantiate(OmegaConf.load(file))
        layer = LayerProfile("a", "conv", 8, 16, kernel=(3, 3))
        scores = torch.rand(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
        unit, before = pattern.unit(layer), None
        for density in [0.5] if isinstance(pattern, NofM) else [0.9, 0.5, 0.1, 1e-6]:
            kept = pattern.kept(layer, density)
            mask = pattern.mask(layer, scores, kept)
            assert mask.dtype == torch.bool
            assert mask.shape == scores.shape
            assert int(mask.sum()) == kept * unit
            assert kept == max(1, round(density * layer.weights / unit))
            groups = mask.reshape(-1, unit)
            assert torch.equal(groups.any(1), groups.all(1))
            assert before is None or not (mask & ~before).any()
            before = mask
            # Swapping any kept unit for a dropped one would not raise the score, within what competes.
            if not isinstance(pattern, NofM):
                units = pattern.unit_scores(layer, scores)
                chosen = groups[:, 0]
                assert units[chosen].min() >= units[~chosen].max()


def test_two_of_four_along_the_inputs_keeps_the_two_largest():
    weight = torch.randn(6, 8, 3, 3)
    layer = LayerProfile("a", "conv", 8, 6, kernel=(3, 3))
    mask = NofM().mask(layer, weight.abs(), NofM().kept(layer, 0.5))
    for o, i, y, x in [(0, 0, 0, 0), (5, 4, 2, 1), (3, 4, 1, 1)]:
        largest = set(weight.abs()[o, i : i + 4, y, x].topk(2).indices.tolist())
        assert set(mask[o, i : i + 4, y, x].nonzero().flatten().tolist()) == largest


@pytest.mark.parametrize("file", files("schedule"), ids=lambda f: f.stem)
def test_schedules_rise_to_one(file):
    schedule = instantiate(OmegaConf.load(file))
    shares = [schedule(i / 1000) for i in range(1001)]
    assert shares == sorted(shares)
    assert shares[0] >= 0
    assert shares[-1] == 1


def test_schedules_by_formula():
    assert Cubic(0.2, 0.6)(0.4) == pytest.approx(1 - 0.5**3)
    assert [Iterative(4, 0.6)(p) for p in (0, 0.19, 0.2, 0.4, 0.6)] == [0.25, 0.25, 0.5, 0.75, 1.0]
