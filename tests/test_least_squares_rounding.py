"""Where no training follows, weights get codes that suit what their layers read, and keep them."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.errors import CompressError
from lightning_compress.quantization.least_squares_rounding import round_by_least_squares
from lightning_compress.quantization.quantizers.dorefa import DoReFa
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.quantization.quantizers.quantizer import Quantizer
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.row_layout import as_rows, attach_to_rows, weight_rows
from lightning_compress.surgery.transforms import attach_weight, raw_weight
from lightning_compress.testing.toys import QUIET, PlainModule

LAYERS = {
    "linear": lambda: nn.Linear(16, 8),
    "conv": lambda: nn.Conv2d(16, 8, 3, padding=1),
    "grouped": lambda: nn.Conv2d(16, 8, 3, groups=4),
    "depthwise": lambda: nn.Conv2d(16, 16, 3, groups=16),
    "conv of signals": lambda: nn.Conv1d(16, 8, 5),
    "transposed": lambda: nn.ConvTranspose2d(16, 8, 2, stride=2),
}
GRIDS = st.sampled_from([LSQ, MinMax])


def inputs(layer: nn.Module, seed: int = 0) -> torch.Tensor:
    """Return inputs whose channels and places depend on each other, as behind a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    places = () if isinstance(layer, nn.Linear) else (12,) if isinstance(layer, nn.Conv1d) else (7, 7)
    x = torch.rand(64, 16, *places, generator=generator) + 2 * torch.rand(64, 1, *places, generator=generator)
    return x + torch.rand(64, 16, *[1] * len(places), generator=generator)


def quantized(layer: nn.Module, make=LSQ, bits: int = 3, per_channel: bool = True) -> Quantizer:
    """Attach a quantizer to a layer."""
    weight = weight_rows(layer).detach()
    quantizer = make(bits, (len(weight), *[1] * (weight.dim() - 1)) if per_channel else ())
    quantizer.initialize(weight)
    attach_to_rows(layer, quantizer)
    return quantizer


def trained_rows(layer: nn.Module) -> torch.Tensor:
    """Return the trained weight, output channels first."""
    return as_rows(layer, raw_weight(layer).detach())


@pytest.mark.parametrize("make", [LSQ, MinMax], ids=["lsq", "min_max"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_output_is_nearer_to_that_of_before(kind, make):
    torch.manual_seed(0)
    net = nn.Sequential(LAYERS[kind]()).eval()
    x = inputs(net[0])
    wanted = net(x)
    quantizer = quantized(net[0], make)
    nearest = (net(x) - wanted).square().sum()
    before = trained_rows(net[0]).clone()
    changed = round_by_least_squares(net, [quantizer], [x])
    assert (net(x) - wanted).square().sum() < 0.5 * nearest
    assert list(changed) == [quantizer]
    torch.testing.assert_close(changed[quantizer], before)


@given(st.integers(0, 2**16), GRIDS, st.integers(2, 8), st.booleans(), st.sampled_from(sorted(LAYERS)))
def test_codes_stay_whoever_asks(seed, make, bits, per_channel, kind):
    torch.manual_seed(seed)
    net = nn.Sequential(LAYERS[kind]()).eval()
    largest = raw_weight(net[0]).detach().abs().max()
    quantizer = quantized(net[0], make, bits, per_channel)
    levels = quantizer.codes(trained_rows(net[0]))[1]
    round_by_least_squares(net, [quantizer], [inputs(net[0], seed)])
    codes, scale = quantizer.codes(trained_rows(net[0]))
    torch.testing.assert_close(scale, levels)
    net.train()
    in_training = net[0].weight.detach()  # a grid follows the largest weight
    torch.testing.assert_close(quantizer.codes(trained_rows(net[0])), (codes, scale))
    torch.testing.assert_close(net.eval()[0].weight.detach(), in_training)
    assert raw_weight(net[0]).detach().abs().max() == largest


def test_pruned_weights_stay_zero_and_the_others_make_up_for_them():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8)).eval()
    mask = Mask((8, 16))
    mask.mask.copy_(torch.rand(8, 16) < 0.6)
    attach_weight(net[0], mask)
    x = inputs(net[0])
    wanted = net(x)
    quantizer = quantized(net[0])
    nearest, raw = (net(x) - wanted).square().sum(), raw_weight(net[0]).detach().clone()
    round_by_least_squares(net, [quantizer], [x])
    assert (net(x) - wanted).square().sum() < 0.7 * nearest
    assert not net[0].weight[~mask.mask].any()
    assert raw_weight(net[0])[~mask.mask].equal(raw[~mask.mask])


class Shared(nn.Module):
    """Two layers with one weight, and one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.own = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.own(self.second(self.first(x)))


def test_weights_that_others_read_or_that_no_codes_stand_for_stay():
    torch.manual_seed(0)
    net = Shared().eval()
    made = [quantized(layer) for layer in (net.first, net.second, net.own)]
    before = copy.deepcopy(net.state_dict())
    assert list(round_by_least_squares(net, made, [inputs(net.own)])) == [made[2]]
    squashed = nn.Sequential(nn.Linear(16, 8)).eval()
    assert round_by_least_squares(squashed, [quantized(squashed[0], DoReFa)], [inputs(squashed[0])]) == {}
    alone = nn.Sequential(nn.Linear(16, 8)).eval()
    raw = alone[0].weight.detach().clone()
    assert round_by_least_squares(alone, [quantized(alone[0])], []) == {}
    assert raw_weight(alone[0]).equal(raw)
    changed = [key for key, value in net.state_dict().items() if not value.equal(before[key])]
    assert changed == ["own.parametrizations.weight.original"]


def test_a_layer_whose_inputs_are_not_finite_is_named():
    net = nn.Sequential(nn.Linear(16, 8)).eval()
    quantizer = quantized(net[0])
    with pytest.raises(CompressError, match="the inputs of layer '0' are not finite; check weights and data"):
        round_by_least_squares(net, [quantizer], [torch.full((4, 16), float("inf"))])


class Module(PlainModule):
    """Two convolutions with batch norms, of images alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(72, 4)
        )

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()


@pytest.mark.parametrize("pruned", [False, True], ids=["whole", "pruned"])
def test_a_training_of_no_epochs_rounds_so_and_its_file_holds_that(pruned, tmp_path):
    module = Module().eval()
    x = inputs(module.model[0])
    dense = copy.deepcopy(module.model)
    bits = {name: {"weight_bits": 3} for name in ("0", "3", "5")}
    callbacks = [QuantizationAwareTraining(bits)]
    if pruned:
        callbacks = [WeightPruning({"0": {"density": 0.5}}), *callbacks]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 64)
    Trainer(max_epochs=0, callbacks=callbacks, **QUIET).fit(module, loader)
    net = module.model.eval()
    assert not raw_weight(net[3]).equal(dense[3].weight)
    if not pruned:
        nearest = copy.deepcopy(dense)
        for name in bits:
            quantized(nearest.get_submodule(name))
        wanted = dense(x)
        assert (net(x) - wanted).square().sum() < 0.5 * (nearest(x) - wanted).square().sum()
    file = lc.save(net, tmp_path / "net", example_input=x)
    torch.testing.assert_close(lc.load(file, Module().model)(x), net(x), rtol=1e-4, atol=1e-5)


def test_a_training_begins_with_the_weights_that_there_are():
    module = Module()
    before = copy.deepcopy(module.model)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs(before[0])), 64)
    seen = []
    module.on_train_start = lambda: seen.append(raw_weight(module.model[3]).detach().clone())
    Trainer(max_epochs=1, callbacks=[QuantizationAwareTraining({"3": {"weight_bits": 3}})], **QUIET).fit(module, loader)
    assert seen[0].equal(before[3].weight)
