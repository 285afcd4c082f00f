"""Gram matrices and least squares: against the direct error, and against torch.linalg.lstsq on the real inputs."""

from __future__ import annotations

import copy
from itertools import combinations, islice
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

import lightning_compress.conf
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.pruning.criteria.gram import Gram, unit_gram
from lightning_compress.pruning.criteria.l2 import L2
from lightning_compress.pruning.criteria.taylor import Taylor
from lightning_compress.pruning.initializers.least_squares import LeastSquares
from lightning_compress.pruning.input_moments import KEY, gather_moments, removal_error, removal_order
from lightning_compress.pruning.reconstruction.asymmetric import Asymmetric
from lightning_compress.pruning.reconstruction.symmetric import Symmetric, refitted
from lightning_compress.surgery import input_rows, measure
from lightning_compress.surgery.calibration import calibration_of
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.row_layout import weight_rows
from lightning_compress.testing.toys import PlainModule, toy_data

EVERYWHERE = 10_000  # places of an image: all of them
LAYERS = {
    "conv": (nn.Conv2d(6, 5, 3, padding=1), (3, 6, 7, 7)),
    "strided": (nn.Conv2d(6, 5, 3, stride=2, dilation=2), (12, 6, 9, 9)),
    "same": (nn.Conv2d(6, 5, (1, 3), padding="same"), (3, 6, 7, 7)),
    "valid": (nn.Conv2d(6, 5, 3, padding="valid"), (12, 6, 7, 7)),
    "valid, reflect": (nn.Conv2d(6, 5, 3, padding="valid", padding_mode="reflect"), (12, 6, 7, 7)),
    "uneven, circular": (nn.Conv2d(6, 5, (2, 3), padding="same", padding_mode="circular"), (3, 6, 7, 7)),
    "reflect": (nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"), (3, 6, 7, 7)),
    "pointwise": (nn.Conv2d(6, 5, 1), (3, 6, 7, 7)),
    "one dimension": (nn.Conv1d(6, 5, 4, padding="same"), (12, 6, 9)),
    "one, circular": (nn.Conv1d(6, 5, 3, 2, 2, 2, padding_mode="circular"), (20, 6, 9)),
    "three dimensions": (nn.Conv3d(6, 5, (1, 2, 3), (1, 2, 1), (0, 1, 1)), (4, 6, 3, 4, 5)),
    "three, replicate": (nn.Conv3d(6, 5, (2, 1, 1), padding=1, dilation=2, padding_mode="replicate"), (3, 6, 3, 4, 4)),
    "transposed": (nn.ConvTranspose2d(6, 5, 4, 2, 1), (12, 6, 4, 4)),
    "uneven": (nn.ConvTranspose2d(6, 5, (2, 3), (3, 1), (1, 2), (2, 0), dilation=(1, 2)), (12, 6, 4, 5)),
    "linear": (nn.Linear(6, 5), (40, 6)),
    "tokens": (nn.Linear(6, 5), (3, 11, 6)),
}


def direct_error(layer: nn.Module, x: torch.Tensor, dropped: torch.Tensor) -> float:
    cut = copy.deepcopy(layer)
    cut.weight.data[(slice(None), dropped) if not isinstance(layer, nn.ConvTranspose2d) else dropped] = 0
    return float((layer(x) - cut(x)).double().square().sum())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("double", "widest", "tolerance"),
    [(99, 99, 1e-5), (0, 99, 1e-4), (0, 0, 1e-5)],
    ids=["float64", "float32", "channels"],
)
def test_the_quadratic_form_is_the_error_of_the_outputs(name, double, widest, tolerance, monkeypatch):
    monkeypatch.setattr(input_rows, "DOUBLE", double)
    monkeypatch.setattr(input_rows, "WIDEST", widest)
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    x = torch.randn(shape)
    net = nn.Sequential(layer)
    gather_moments(net, [x[:1], x[1:]], EVERYWHERE)
    gram = calibration_of(net, KEY)["0"].channel_gram(weight_rows(layer))
    sizes = (1,) if gram.dim() == 1 else (1, 2, 5)  # of a wide linear layer only single channels are known
    sets = [s for k in sizes for s in combinations(range(6), k)]
    with torch.no_grad():
        for dropped in sets:
            mask = torch.zeros(6).index_fill(0, torch.tensor(dropped), 1)
            expected = direct_error(layer, x, mask.bool())
            assert float(removal_error(gram, mask)) == pytest.approx(expected, rel=tolerance)


def test_backward_elimination_takes_the_cheapest_each_time():
    torch.manual_seed(0)
    gram = torch.randn(9, 20, dtype=torch.float64)
    gram = gram @ gram.T
    dropped = torch.zeros(9, dtype=torch.float64)
    for channel in removal_order(gram):
        left = [c for c in range(9) if not dropped[c]]
        errors = [float(removal_error(gram, dropped.index_fill(0, torch.tensor(c), 1))) for c in left]
        assert left[errors.index(min(errors))] == channel
        dropped[channel] = 1


def pulled(rows: torch.Tensor, target: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Return the best weight, each of its directions with one typical row more that says what it was; transposed."""
    pull = rows.square().sum(1).mean().sqrt() * torch.eye(rows.shape[1], dtype=rows.dtype)
    return torch.linalg.lstsq(torch.cat([rows, pull]), torch.cat([target, pull @ start])).solution


@pytest.mark.parametrize("name", LAYERS)
def test_the_symmetric_refit_is_least_squares_on_the_kept_inputs(name):
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    x, kept = torch.randn(shape), torch.tensor([0, 2, 3])
    net = nn.Sequential(layer)
    gather_moments(net, [x], EVERYWHERE)
    rows = input_rows.sampled_rows(layer, x, EVERYWHERE, torch.Generator().manual_seed(0)).double()
    own = weight_rows(layer).detach().double()
    size = own[0, 0].numel()
    columns = (kept[:, None] * size + torch.arange(size)).flatten()
    weight = own.flatten(1).T
    expected = pulled(rows[:, columns], rows @ weight, weight[columns]).T
    found = refitted(own, calibration_of(net, KEY)["0"], kept)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-4, atol=1e-5)


def test_a_wide_convolution_gets_the_best_factor_for_each_channel(monkeypatch):
    monkeypatch.setattr(input_rows, "WIDEST", 0)
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 5, 3), torch.randn(200, 4, 6, 6) + 1  # so many that the pull towards 1 does not count
    net, kept = nn.Sequential(layer), torch.tensor([0, 1, 3])
    gather_moments(net, [x], EVERYWHERE)
    weight = refitted(layer.weight.detach(), calibration_of(net, KEY)["0"], kept)
    with torch.no_grad():
        single = [nn.functional.conv2d(x[:, [c]], layer.weight[:, [c]]).flatten() for c in range(4)]
        columns = torch.stack([single[c] for c in kept], 1).double()
        expected = torch.linalg.lstsq(columns, sum(single)[:, None].double()).solution.flatten()
    torch.testing.assert_close(weight, layer.weight[:, kept] * expected.float().view(1, -1, 1, 1), rtol=1e-3, atol=1e-4)


def pruned(refit, ratio=0.5, criterion=None):
    torch.manual_seed(0)
    module = PlainModule()
    net, x = module.model, toy_data(0)[0].dataset.images
    with torch.no_grad():
        for _ in range(20):
            module.train()(x)
    dense = copy.deepcopy(net).eval()
    callback = ChannelPruning(
        {"conv1": {"channels": ratio}, "stem.0": {"channels": 0.75}}, criterion or L2(), refit=refit
    )
    callback.calibrate(module, toy_data(0)[0])
    callback.apply(net.eval(), x[:2])
    with torch.no_grad():
        return dense, net, float((dense(x) - net(x)).square().sum() / dense(x).square().sum())


def test_refits_bring_the_outputs_back():
    errors = [pruned(refit)[2] for refit in (None, Symmetric(EVERYWHERE), Asymmetric(EVERYWHERE))]
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < errors[1]


def test_the_asymmetric_refit_is_least_squares_on_the_thin_inputs():
    dense, net, _ = pruned(Asymmetric(EVERYWHERE))
    thin = pruned(None)[1]
    inputs, targets = [], []
    handles = [
        net.fc.register_forward_pre_hook(lambda _m, a: inputs.append(a[0])),
        dense.fc.register_forward_hook(lambda _m, _a, out: targets.append(out - dense.fc.bias)),
    ]
    with torch.no_grad():
        for x, _ in toy_data(0)[0]:
            net(x), dense(x)
    for handle in handles:
        handle.remove()
    start = thin.fc.weight.detach().double().T
    expected = pulled(torch.cat(inputs).double(), torch.cat(targets).double(), start).T
    torch.testing.assert_close(net.fc.weight.double(), expected, rtol=1e-3, atol=1e-4)


class Readers(nn.Module):
    """A layer that is read in two calls, by position and by keyword, and then in place; or in one call on all rows."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.reader, self.calls = nn.Linear(12, 8), nn.Linear(8, 4), calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small, large = self.first(0.01 * x).relu(), self.first(x).relu()
        if self.calls == 1:
            return self.reader(torch.cat([small, large]))
        out = self.reader(small), self.reader(input=large)
        small.zero_()
        return torch.cat(out)


@pytest.mark.parametrize("refit", [Symmetric(), Asymmetric()], ids=lambda refit: type(refit).__name__)
def test_all_calls_of_a_reader_count(refit):
    found = []
    for calls in (1, 2):
        module, x = PlainModule(), torch.randn(3, 64, 12, generator=torch.Generator().manual_seed(0))
        module.model = Readers(calls)
        before = module.model.reader.weight.detach().clone()
        callback = ChannelPruning({"first": {"channels": 0.5}}, refit=refit)
        callback.calibrate(module, x)
        callback.apply(module.model, x[0, :2])
        found.append(module.model.reader.weight)
        assert all((before - column[:, None]).norm(dim=0).min() > 1e-3 for column in found[-1].T)
    torch.testing.assert_close(*found)


def test_gram_ranks_a_dead_and_a_doubled_channel_first():
    torch.manual_seed(0)
    module = PlainModule()
    net = module.model
    with torch.no_grad():
        net.conv2.weight[:, 7] = 0
        net.conv1.weight[3], net.conv1.bias[3] = net.conv1.weight[2], net.conv1.bias[2]
        net.conv2.weight[:, 3] = -net.conv2.weight[:, 2]  # the two cancel: without both, nothing changes
    graph = trace_channels(net, measure.measure(net, torch.zeros(2, 1, 8, 8)), torch.zeros(2, 1, 8, 8))
    Gram(EVERYWHERE).gather(module, islice(toy_data(0)[0], 2))
    order = Gram()(graph.groups["conv1"], net).argsort()
    assert int(order[0]) == 7
    gram = unit_gram(graph.groups["conv1"], net)
    pair = torch.zeros(16).index_fill(0, torch.tensor([2, 3]), 1)
    assert float(removal_error(gram, pair)) < 1e-6 * float(gram.diagonal()[2])


@pytest.mark.parametrize(
    "file", sorted((Path(lightning_compress.conf.__file__).parent / "compress/refit").glob("*.yaml"))
)
@pytest.mark.parametrize("criterion", [Gram(), Taylor(), L2()], ids=lambda c: type(c).__name__)
def test_candidates_of_a_search_share_what_was_gathered(file, criterion):
    module, example = PlainModule(), torch.zeros(2, 1, 8, 8)
    callback = ChannelPruning(criterion=criterion, refit=instantiate(OmegaConf.load(file)))
    composition = Composition([callback], module.model, example)
    callback.calibrate(module, toy_data(0)[0])
    before = {k: v.clone() for k, v in module.state_dict().items()}
    outputs = []
    for ratio in (0.5, 0.25, 0.5):
        copied = copy.deepcopy(module)
        composition.apply(copied.model, Plan({"conv1": {"channels": ratio}}))
        outputs.append(copied.eval()(toy_data(0)[0].dataset.images[:4]))
    assert torch.equal(outputs[0], outputs[2])
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


class Expert(nn.Sequential):
    """A layer, and one that gets no rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[0](x) + self[1](x[:0]).sum()


def test_a_layer_that_gets_no_rows_has_no_moments():
    net = Expert(nn.Linear(6, 5), nn.Linear(6, 5))
    gather_moments(net, [torch.randn(4, 6)])
    assert calibration_of(net, KEY).keys() == {"0"}


def test_what_was_not_gathered_is_said():
    with pytest.raises(CompressError, match="refit: no inputs were gathered for this network"):
        ChannelPruning({"conv1": {"channels": 0.5}}, refit=Symmetric()).apply(
            PlainModule().model, torch.zeros(2, 1, 8, 8)
        )
    with pytest.raises(CompressError, match="Gram: no inputs were gathered"):
        ChannelPruning({"conv1": {"channels": 0.5}}, Gram()).apply(PlainModule().model, torch.zeros(2, 1, 8, 8))
    with pytest.raises(CompressError, match="there is no batch to gather inputs of ToyNet from"):
        Gram().gather(PlainModule(), [])
    for gather in (Asymmetric().gather, LeastSquares().gather):
        with pytest.raises(CompressError, match="there is no train batch to gather inputs of ToyNet from"):
            gather(PlainModule(), [])
