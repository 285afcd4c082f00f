"""Where no training follows, biases and statistics of batch norms take back what rounding does to the outputs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from torch import nn

from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.testing.toys import QUIET, PlainModule, Routed

X = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolutions with a batch norm or a bias, one that runs twice, one with neither, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.biased = nn.Conv2d(8, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 1)
        self.bare = nn.Conv2d(8, 8, 1, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.biased(self.first(x)).relu()
        x = self.bare(self.twice(self.twice(x).relu()).relu()).relu()
        return self.fc(self.up(x).mean((2, 3)))


CORRECTED, LEFT = ("first.1", "biased", "up", "fc"), ("twice", "bare")  # layers whose outputs have the mean of before


class Module(PlainModule):
    """Trains the network above on images alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = Net()

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()


def loader(x: torch.Tensor = X) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=64)


def plan(weight_bits: int, act_bits: int = 32) -> dict[str, dict[str, int]]:
    names = [name for name, module in Net().named_modules() if hasattr(module, "weight") and "1" not in name]
    return {name: {"weight_bits": weight_bits, "act_bits": act_bits} for name in names}


def fitted(module: Module, bits: dict, epochs: int = 0) -> Net:
    trainer = Trainer(max_epochs=epochs, callbacks=[QuantizationAwareTraining(bits)], **QUIET)
    trainer.fit(module, loader())
    return module.model.eval()


def means(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return the mean of each channel of each layer, of one that runs twice that of the last time."""
    found = {}

    def note(name, output):
        found[name] = output.transpose(0, 1).flatten(1).mean(1)

    handles = [
        net.get_submodule(name).register_forward_hook(lambda _m, _a, o, name=name: note(name, o))
        for name in (*CORRECTED, *LEFT)
    ]
    with torch.no_grad():
        net(X)
    for handle in handles:
        handle.remove()
    return found


@given(weight_bits=st.integers(2, 8), act_bits=st.sampled_from([4, 6, 8, 32]))
def test_the_mean_of_each_channel_is_that_without_rounding(weight_bits, act_bits):
    module = Module()
    dense = copy.deepcopy(module.model).eval()
    # What cannot be corrected stays in floating point here, for those behind it are compared with the dense network.
    bits = {name: values for name, values in plan(weight_bits, act_bits).items() if name not in LEFT}
    net = fitted(module, bits)
    expected, found = means(dense), means(net)
    for name in CORRECTED:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def outputs(net: nn.Module, name: str) -> torch.Tensor:
    """Return what a layer gives, a row for each channel."""
    found = []
    handle = net.get_submodule(name).register_forward_hook(lambda _m, _a, output: found.append(output))
    with torch.no_grad():
        net(X)
    handle.remove()
    return found[0].transpose(0, 1).flatten(1)


@given(weight_bits=st.integers(2, 4), momentum=st.sampled_from([0.1, None]), affine=st.booleans())
def test_what_a_batch_norm_gives_is_the_least_squares_of_what_it_gave(weight_bits, momentum, affine):
    module = Module()
    module.model.first[1] = nn.BatchNorm2d(8, momentum=momentum, affine=affine)
    module.model(X)  # statistics that are not those of a new batch norm
    dense = copy.deepcopy(module.model).eval()
    net = fitted(module, {"first.0": {"weight_bits": weight_bits}})
    expected = outputs(dense, "first.1").double().numpy()
    rounded, found = outputs(net, "first.0").double().numpy(), outputs(net, "first.1").double().numpy()
    for wanted, x, given_now in zip(expected, rounded, found, strict=True):
        fitted_line = np.polyval(np.polyfit(x, wanted, 1), x)
        np.testing.assert_allclose(given_now, fitted_line, atol=2e-3 * np.abs(wanted).max())


def test_a_channel_that_rounding_leaves_without_a_signal_keeps_its_variance():
    module = Module()
    with torch.no_grad():
        module.model.first[0].weight[2] = 0.0
    dense = copy.deepcopy(module.model).eval()
    net = fitted(module, {"first.0": {"weight_bits": 2}})
    assert net.first[1].running_var[2] == dense.first[1].running_var[2]
    torch.testing.assert_close(outputs(net, "first.1")[2], outputs(dense, "first.1")[2])


def test_no_factor_asks_for_a_negative_variance():
    module = Module()
    module.model.first[1].running_var.fill_(1e-6)  # below eps: no variance would double what the batch norm gives
    with torch.no_grad():
        module.model.first[0].weight.mul_(torch.tensor([1.0, 1e-3, 1e-3]).view(1, 3, 1, 1))
    net = fitted(module, {"first.0": {"weight_bits": 2}})
    assert (net.first[1].running_var >= 0).all()
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


def test_layers_that_run_twice_or_have_nothing_to_correct_are_left_as_they_were():
    module = Module()
    bias = module.model.twice.bias.clone()
    net = fitted(module, plan(3, 8))
    assert torch.equal(net.twice.bias, bias)
    assert net.bare.bias is None


def test_outputs_are_closer_to_those_of_the_dense_network():
    module = Module()
    dense, rounded = copy.deepcopy(module.model).eval(), copy.deepcopy(module.model).eval()
    QuantizationAwareTraining(plan(3)).apply(rounded, X)
    corrected = fitted(module, plan(3))
    with torch.no_grad():
        error, before = ((net(X) - dense(X)).square().mean() for net in (corrected, rounded))
    assert error < before / 4


@pytest.mark.parametrize("epochs", [0, 1])
def test_only_a_network_that_is_not_trained_is_corrected(epochs):
    module = Module()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    before = copy.deepcopy(module.model)
    net = fitted(module, plan(3), epochs)
    assert torch.equal(net.biased.bias, before.biased.bias) == bool(epochs)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_trained_network_is_not_drawn_back_to_its_weights_without_rounding(resumed, tmp_path):
    module, bits = Module(), plan(3)
    trainer = Trainer(max_epochs=1, callbacks=[QuantizationAwareTraining(bits)], **QUIET)
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    trained = copy.deepcopy(module.model.state_dict())
    again = Trainer(max_steps=0, callbacks=[QuantizationAwareTraining(bits)], **QUIET)
    module = Module() if resumed else module
    again.fit(module, loader(), ckpt_path=tmp_path / "trained.ckpt" if resumed else None)
    found = module.model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in found.items())


def test_the_last_batch_counts_by_its_rows():
    module = Module()
    dense = copy.deepcopy(module.model).eval()
    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=48)  # 48 and 16
    bits = {"first.0": {"weight_bits": 3}}
    trainer = Trainer(max_epochs=0, callbacks=[QuantizationAwareTraining(bits)], **QUIET)
    trainer.fit(module, rows)
    found, expected = (means(net)["first.1"] for net in (module.model.eval(), dense))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class TwoOutputs(nn.Conv2d):
    """Returns its output with its input."""

    def forward(self, x):
        return super().forward(x), x


class Parts(nn.Module):
    """Has a convolution that returns more than a tensor, and a layer without rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.routed = TwoOutputs(3, 4, 3), Routed()

    def forward(self, x):
        return self.routed(self.stem(x)[0].mean((2, 3)))


def test_layers_without_rows_and_outputs_that_are_no_tensor_are_left_alone():
    module = Module()
    module.model = Parts()
    before = copy.deepcopy(module.model)
    net = fitted(module, {name: {"weight_bits": 3} for name in ("stem", "routed.dark", "routed.bright")})
    assert torch.equal(net.routed.bright.bias, before.routed.bright.bias)
    assert torch.equal(net.stem.bias, before.stem.bias)
    assert not torch.equal(net.routed.dark.bias, before.routed.dark.bias)
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())
