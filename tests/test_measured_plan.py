"""Limits whose costs are measured: plans use them up, and do not lose what another limit allows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from lightning import Trainer
from torch import nn

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.measured_cost import MeasuredCost
from lightning_compress.core.errors import InfeasibleBudgetError
from lightning_compress.core.profile import Profile
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.limit import Limit
from lightning_compress.pipeline.planners.output_error import OutputError
from lightning_compress.pipeline.stage import Stage
from lightning_compress.surgery import measure
from lightning_compress.surgery.structure import network
from lightning_compress.testing.toys import PlainModule, ToyData

EXAMPLE = torch.zeros(2, 1, 8, 8)


@dataclass(frozen=True)
class Stem(MeasuredCost):
    """Channels of the stem; a thin network is measured to have ``factor`` as many as its profile says."""

    name: ClassVar[str] = "stem"
    unit: ClassVar[str] = "channels"
    additive: ClassVar[bool] = False

    factor: float = 1.0

    def __call__(self, profile: Profile) -> float:
        return float(profile.layers["stem.0"].out_channels)

    def measure(self, net: nn.Module, example: Any) -> float:
        channels = self(measure.measure(net, example))
        return channels if channels == 8 else self.factor * channels

    def keep_in(self, folder: Any) -> None:
        """Keep nothing."""


def pruned(folder, planner) -> Profile:
    torch.manual_seed(0)
    dense = PlainModule()
    profile = measure.measure(dense.model, EXAMPLE)
    run = RunContext(ToyData(), dense, profile, EXAMPLE, partial(Trainer, accelerator="cpu"), folder, 0)
    module = Stage({"channels": ChannelPruning()}, planner, epochs=0).run("prune", dense, run)
    return measure.measure(network(module), EXAMPLE)


@pytest.mark.parametrize(("factor", "channels"), [(0.8, 7), (1.0, 6), (1.1, 5)])
def test_what_is_measured_is_used_up_and_not_more(factor, channels, tmp_path):
    planner = OutputError(cost=Stem(factor), budget=6.0, batches=1)
    assert Stem()(pruned(tmp_path, planner)) == channels


def test_a_plan_above_one_limit_keeps_what_the_others_allow(tmp_path):
    limits = {"stem": Limit(Stem(1.1), 6.0)}
    found = pruned(tmp_path, OutputError(cost=MACs(), budget=1.0, limits=limits, batches=1))
    assert Stem()(found) == 5
    assert found.layers["conv1"].out_channels == 16


def test_no_plan_meets_it(tmp_path):
    with pytest.raises(InfeasibleBudgetError, match="the smallest network that was tried takes"):
        pruned(tmp_path, OutputError(cost=Stem(9.0), budget=6.0, batches=1))
