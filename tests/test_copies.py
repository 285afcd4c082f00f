"""Copies of modules are those that ``deepcopy`` makes."""

from __future__ import annotations

import copy
from types import MethodType

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lightning_compress.surgery.copies import clone, copy_with, sharing
from lightning_compress.testing.toys import ToyNet


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Odd(nn.Module):
    """Holds what modules seldom hold: itself, a method, layers twice and as keys, a computed tensor, a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = self.again = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.layer.weight
        self.lists, self.me, self.names = [self.layer, {"deep": [self.tied]}], (self,), {self.tied: "tied"}
        self.scaled = parametrize.register_parametrization(nn.Linear(4, 4), "weight", Doubled())
        self.rnn, self.norm = nn.LSTM(4, 4, batch_first=True), nn.BatchNorm1d(4)
        self.extra = MethodType(lambda net, x: net.layer(x), self)
        self.kept = None
        self.norm.register_forward_hook(hooked)

    def forward(self, x):
        self.kept = self.again(x)
        x = self.tied(self.extra(x)) + self.scaled(x) + self.rnn(x[None])[0][0]
        return self.norm(x)


def hooked(_module, _args, output):
    return output + 1


@pytest.mark.parametrize("make", [clone, sharing, lambda net: copy_with(net, lambda tensor: tensor.detach().clone())])
@pytest.mark.parametrize("net", [Odd(), ToyNet()], ids=lambda net: type(net).__name__)
def test_a_copy_is_what_deepcopy_makes(net, make):
    x = torch.rand(3, 4) if isinstance(net, Odd) else torch.rand(2, 1, 8, 8)
    net.eval()
    expected = net(x)
    if isinstance(net, Odd):
        net.kept = None
    wanted = copy.deepcopy(net)
    if isinstance(net, Odd):
        net(x)  # it keeps a tensor, which deepcopy refuses
    made = make(net)
    assert [(n, type(m)) for n, m in made.named_modules()] == [(n, type(m)) for n, m in wanted.named_modules()]
    assert made.state_dict().keys() == wanted.state_dict().keys()
    assert not {id(module) for module in made.modules()} & {id(module) for module in net.modules()}
    for found, other in zip(made.modules(), wanted.modules(), strict=True):
        assert list(vars(found)) == list(vars(other))
        assert found.training == other.training
    torch.testing.assert_close(made(x), expected)
    own = {id(p) for p in net.parameters()} & {id(p) for p in made.parameters()}
    assert len(own) == (len(list(net.parameters())) if make is sharing else 0)
    if isinstance(net, Odd):
        assert made.layer is made.again is made.lists[0]
        assert made.lists[1]["deep"][0] is made.tied
        assert made.names == {made.tied: "tied"}
        assert made.tied.weight is made.layer.weight
        assert made.me[0] is made is made.extra.__self__
        assert made.kept is not net.kept
    made.register_forward_hook(hooked)
    torch.testing.assert_close(net(x), expected)
