"""Optimizers of a compressed module: every weight is in the group that it would be in without compression."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.variational_dropout import VariationalDropout
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.transforms import raw_weight
from lightning_compress.testing.toys import QUIET
from tests.test_calibration import Module


def by_isinstance(module: nn.Module) -> list[dict]:
    decay, rest = [], []
    for layer in module.modules():
        if isinstance(getattr(layer, "bias", None), nn.Parameter):
            rest.append(layer.bias)
        if isinstance(getattr(layer, "weight", None), nn.Parameter):
            (rest if isinstance(layer, nn.BatchNorm2d) else decay).append(layer.weight)
    return [{"params": decay, "weight_decay": 5e-4}, {"params": rest}]


def by_name(module: nn.Module) -> list[dict]:
    named = dict(module.named_parameters())
    decay = [p for name, p in named.items() if name.endswith(".weight") and p.dim() > 1]
    return [{"params": decay, "lr": 0.02}, {"params": [p for name, p in named.items() if name.endswith("bias")]}]


def by_type(module: nn.Module) -> list[dict]:
    return [{"params": m.parameters()} for m in module.modules() if type(m) in (nn.Conv2d, nn.Linear, nn.BatchNorm2d)]


def by_layer(module: nn.Module) -> list[nn.Parameter]:
    return [module.net[0].weight, module.net[4].weight]


def by_head(module: nn.Module) -> list[nn.Parameter]:
    return [module.net[4].weight, module.net[4].bias]


def by_all(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters())


WAYS = [by_isinstance, by_name, by_type, by_layer, by_head, by_all]
CALLBACKS = {
    "quantize": lambda: QuantizationAwareTraining({k: {"weight_bits": 8, "act_bits": 8} for k in ("0", "4")}),
    "prune": lambda: WeightPruning({k: {"density": 0.5} for k in ("0", "4")}),
    "variational": lambda: VariationalDropout({k: {"variational": 1} for k in ("0", "4")}),
}


class Grouped(Module):
    """A module whose groups come from a function."""

    def __init__(self, way: Callable) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
        )
        self.way = way

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.way(self), 0.1)


def place(module: Grouped, optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> tuple | None:
    for number, group in enumerate(optimizer.param_groups):
        if any(p is parameter for p in group["params"]):
            return number, group["lr"], group["weight_decay"]
    return None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CALLBACKS)
def test_weights_are_trained_in_the_group_of_the_plain_module(way, kind):
    plain, module, x = Grouped(way), Grouped(way), torch.randn(32, 3, 8, 8)
    reference = plain.configure_optimizers()
    before = copy.deepcopy(module.net)
    trainer = Trainer(max_epochs=1, callbacks=[CALLBACKS[kind]()], **QUIET)
    trainer.fit(module, DataLoader(TensorDataset(x, torch.arange(32) % 4), 8))
    (optimizer,) = trainer.optimizers
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len({id(p) for p in held}) == len(held)
    for name in ("0", "4"):
        own, other = raw_weight(module.net.get_submodule(name)), plain.net.get_submodule(name)
        expected = place(plain, reference, other.weight)
        assert place(module, optimizer, own) == expected
        assert torch.equal(own, before.get_submodule(name).weight) == (expected is None)
        assert place(module, optimizer, module.net.get_submodule(name).bias) == place(plain, reference, other.bias)
    if way is not by_head:
        learned = [p for n, p in module.net.named_parameters() if "log_share" in n or "raw_log_variance" in n]
        assert all(place(module, optimizer, p) is not None for p in learned)


def test_the_module_is_left_as_the_callbacks_made_it():
    module = Grouped(by_all)
    CALLBACKS["quantize"]().apply(module.net, torch.zeros(2, 3, 8, 8))
    before, kinds = list(module.state_dict()), [type(m) for m in module.modules()]
    trainer = Trainer(max_epochs=0, callbacks=[CALLBACKS["quantize"]()], **QUIET)
    trainer.fit(module, DataLoader(TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8) % 4), 8))
    assert list(module.state_dict()) == before
    assert [type(m) for m in module.modules()] == kinds
    other = copy.deepcopy(module)
    held = {id(p) for group in other.configure_optimizers().param_groups for p in group["params"]}
    assert held == {id(p) for p in other.parameters()}


def test_an_error_of_the_users_leaves_the_module_whole():
    def broken(_module: nn.Module) -> list:
        raise KeyError("no groups")

    module = Grouped(broken)
    with pytest.raises(KeyError, match="no groups"):
        Trainer(max_epochs=0, callbacks=[CALLBACKS["prune"]()], **QUIET).fit(
            module, DataLoader(TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8) % 4), 8)
        )
    assert not isinstance(module.net[0].weight, nn.Parameter)


class Early(Module):
    """Makes its optimizer in ``__init__``, or only the groups of it."""

    def __init__(self, whole: bool) -> None:
        super().__init__(
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 4))
        )
        self.groups = [{"params": list(self.parameters())}]
        self.optimizer = torch.optim.SGD(self.groups, lr=0.1) if whole else None

    def configure_optimizers(self):
        return self.optimizer or torch.optim.SGD(self.groups, lr=0.1)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("callback", "trains"),
    [
        (lambda: ChannelPruning({"0": {"channels": 0.5}}), False),
        (lambda: LowRank({"4": {"rank_out": 0.5}}), False),
        (lambda: WeightPruning({"0": {"density": 0.5}}), True),
    ],
    ids=["channels", "low rank", "weights"],
)
def test_an_optimizer_of_before_trains_all_or_is_told(callback, trains, whole):
    module = Early(whole)
    trainer = Trainer(max_epochs=1, callbacks=[callback()], **QUIET)
    data = DataLoader(TensorDataset(torch.randn(16, 3, 8, 8), torch.randint(0, 4, (16,))), 8)
    if trains:
        trainer.fit(module, data)
        held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
        assert held == {id(p) for p in module.parameters()}
    else:
        with pytest.raises(CompressError, match=r"Early: .* is in none: .*; make optimizers .* inside configure_opt"):
            trainer.fit(module, data)


def test_names_of_parameters_are_as_many_as_parameters():
    module = Grouped(lambda module: module.named_parameters())
    trainer = Trainer(max_epochs=1, callbacks=[CALLBACKS["quantize"]()], **QUIET)
    trainer.fit(module, DataLoader(TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8) % 4), 8))
    (group,) = trainer.optimizers[0].param_groups
    named = dict(module.named_parameters())
    assert all(named[name] is p for name, p in zip(group["param_names"], group["params"], strict=True)
               if "log_share" in name)  # fmt: skip
    assert sum("log_share" in name for name in group["param_names"]) == 4


class Matrices(Grouped):
    """Trains one matrix by Muon, and perhaps the rest by another optimizer."""

    automatic_optimization = False

    def __init__(self, with_rest: bool) -> None:
        super().__init__(by_all)
        self.with_rest = with_rest

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        optimizers = self.optimizers() if self.with_rest else [self.optimizers()]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self):
        matrix = self.net[4].weight
        rest = [p for p in self.parameters() if p is not matrix]
        muon = torch.optim.Muon([matrix], 0.01)
        return [muon, torch.optim.SGD(rest, 0.01)] if self.with_rest else muon


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 brings Muon")
@pytest.mark.parametrize("kind", CALLBACKS)
def test_muon_gets_matrices_of_the_network_alone(kind):
    data = DataLoader(TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8) % 4), 8)
    module = Matrices(with_rest=True)
    trainer = Trainer(max_epochs=2, callbacks=[CALLBACKS[kind]()], **QUIET)
    trainer.fit(module, data)
    muon, rest = trainer.optimizers
    assert [p is raw_weight(module.net[4]) for p in muon.param_groups[0]["params"]] == [True]
    learned = [p for n, p in module.named_parameters() if "log_share" in n or "raw_log_variance" in n]
    assert all(place(module, rest, p) is not None for p in learned)
    if learned:
        with pytest.raises(CompressError, match=r"Muon, trains matrices, and .* is none"):
            Trainer(max_epochs=1, callbacks=[CALLBACKS[kind]()], **QUIET).fit(Matrices(with_rest=False), data)
