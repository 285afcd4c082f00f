"""The contract of planners. Sub-class, and give the fixtures ``make_plan``, ``resolve`` and ``net``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_compress.core.plan import Plan


class PlannerContract:
    """A plan that the network can have, the same every time, and a sentence on how it came about."""

    @pytest.fixture
    def make_plan(self) -> Callable[[Path], Any]:
        """Return the planner under test: folder of a stage -> what it plans."""
        raise NotImplementedError

    @pytest.fixture
    def resolve(self) -> Callable[[Plan], Plan]:
        """Return what a plan rounds to on the network."""
        raise NotImplementedError

    @pytest.fixture
    def net(self) -> nn.Module:
        """Return the network as it came into the stage."""
        raise NotImplementedError

    def test_the_network_can_have_the_plan(self, make_plan, resolve, tmp_path) -> None:
        plan = resolve(make_plan(tmp_path).plan)
        assert plan.layers
        assert resolve(plan) == plan

    def test_how_it_came_about_is_one_sentence(self, make_plan, tmp_path) -> None:
        origin = make_plan(tmp_path).origin
        assert origin[0].islower()
        assert "\n" not in origin
        assert not origin.endswith((".", ";", ","))

    def test_layers_come_in_an_order_that_has_all_of_the_plan(self, make_plan, tmp_path) -> None:
        planned = make_plan(tmp_path)
        assert not planned.order or set(planned.order) >= planned.plan.layers.keys()

    def test_a_second_call_goes_on_and_another_folder_begins_again_to_the_same_plan(self, make_plan, tmp_path) -> None:
        folders = [tmp_path / name for name in ("one", "one", "other")]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        first, again, fresh = (make_plan(folder) for folder in folders)
        assert first.plan == again.plan == fresh.plan

    def test_network_and_random_numbers_stay_as_they_were(self, make_plan, net, tmp_path) -> None:
        before, state = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_rng_state()
        make_plan(tmp_path)
        assert torch.equal(state, torch.get_rng_state())
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
