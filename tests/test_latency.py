"""Latency is measured, not asserted: only what surrounds the clock is tested."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.latency import latency
from lightning_compress.testing.toys import ToyNet


class Adder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.threads: set[int] = set()

    def forward(self, a, b):
        self.threads.add(torch.get_num_threads())
        return self.fc(a + b)


def test_a_positive_median_and_a_spread_over_many_runs():
    found = latency(ToyNet(), torch.zeros(1, 1, 8, 8), seconds=0.02)
    assert found.milliseconds > 0
    assert found.spread >= 0
    assert found.runs > 1


def test_modes_statistics_and_the_number_of_threads_are_left_as_they_were():
    net = ToyNet()
    net.bn1.eval()
    before, threads = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_num_threads()
    latency(net, torch.ones(1, 1, 8, 8), seconds=0.01)
    assert net.training
    assert not net.bn1.training
    assert torch.get_num_threads() == threads
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("threads", [1, 2])
def test_the_network_runs_with_the_threads_asked_for(threads):
    net = Adder()
    latency(net, (torch.ones(1, 3), torch.ones(1, 3)), threads=threads, seconds=0.01)
    assert threads in net.threads


def test_inputs_may_be_a_tuple_or_a_dict():
    a, b = torch.ones(1, 3), torch.ones(1, 3)
    assert latency(Adder(), (a, b), seconds=0.01).runs > 0
    assert latency(Adder(), {"b": b, "a": a}, seconds=0.01).runs > 0


@pytest.mark.parametrize("arguments", [{"threads": 0}, {"seconds": 0}])
def test_settings_out_of_range_are_refused(arguments):
    with pytest.raises(CompressError, match="must be positive"):
        latency(ToyNet(), torch.zeros(1, 1, 8, 8), **arguments)
