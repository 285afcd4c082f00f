"""Channels that feed norms over channels are removed: the statistics are then those of the channels that stay."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import lightning_compress as lc
from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.channels import OUT, ChannelGroup
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.structure import load_structure, save_structure

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
WIDTH = 8


class Stream(nn.Module):
    """A residual stream of tokens with positions, norms, and layers that read it and add to it."""

    def __init__(self, norm) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(6, WIDTH), nn.Parameter(torch.randn(1, 5, WIDTH))
        self.norm, self.up, self.down = norm(), nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.scale, self.last, self.head = nn.Parameter(torch.randn(WIDTH)), norm(), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        x = x + self.scale * self.down(self.up(self.norm(x)).relu())
        return self.head(self.last(x).mean(1))


class OwnRMS(nn.Module):
    """A norm of a user's own, and one that weighs channels against each other."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.gain


def by_formula(net: Stream, x: Tensor, kept: Tensor, hidden: Tensor) -> Tensor:
    """Return the forward pass on some of its channels, written out."""

    def norm(module: nn.Module, x: Tensor) -> Tensor:
        if isinstance(module, nn.LayerNorm):
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + module.eps).sqrt()
            return x * module.weight[kept] + module.bias[kept]
        weight = module.gain if isinstance(module, OwnRMS) else module.weight
        eps = 1e-6 if isinstance(module, OwnRMS) else (module.eps or torch.finfo(x.dtype).eps)
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight[kept]

    x = x @ net.embed.weight[kept].T + net.embed.bias[kept] + net.position[..., kept]
    y = (norm(net.norm, x) @ net.up.weight[hidden][:, kept].T + net.up.bias[hidden]).relu()
    x = x + net.scale[kept] * (y @ net.down.weight[kept][:, hidden].T + net.down.bias[kept])
    return norm(net.last, x).mean(1) @ net.head.weight[:, kept].T + net.head.bias


NORMS = {"layer": lambda: nn.LayerNorm(WIDTH), "rms": lambda: nn.RMSNorm(WIDTH), "own": OwnRMS}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_a_stream_loses_channels_with_all_that_reads_and_feeds_it(norm):
    torch.manual_seed(0)
    net = Stream(norm)
    dense, profile, callback = copy.deepcopy(net), measure.measure(net, TOKENS), lc.ChannelPruning()
    choices = {choice.layer for choice in callback.choices(net, profile, TOKENS)}
    assert choices == {"embed", "up"}
    plan = lc.Plan({name: {"channels": 0.5} for name in choices})
    graph = trace_channels(net, profile, TOKENS)
    kept, hidden = (callback.criterion.kept(graph.groups[n], net, graph.groups[n].units // 2) for n in ("embed", "up"))
    callback.with_plan(plan).apply(net, TOKENS)
    assert callback.predict(plan, profile) == measure.measure(net, TOKENS)
    assert net.position.shape == (1, 5, 4)
    torch.testing.assert_close(net(TOKENS), by_formula(dense, TOKENS, kept, hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_a_thin_stream_is_rebuilt_from_a_checkpoint_and_a_file(norm, tmp_path):
    torch.manual_seed(0)
    net = Stream(norm)
    lc.ChannelPruning({"embed": {"channels": 0.5}}).apply(net, TOKENS)
    checkpoint = {"state_dict": net.state_dict()}
    save_structure(net, checkpoint)
    other = Stream(norm)
    load_structure(other, checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    torch.testing.assert_close(other(TOKENS), net(TOKENS))
    lc.save(net, tmp_path / "a.safetensors")
    torch.testing.assert_close(lc.load(tmp_path / "a.safetensors", Stream(norm))(TOKENS), net(TOKENS))


def test_a_group_norm_loses_whole_groups():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 12, 1), nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv2d(12, 2, 1))
    images, dense = torch.randn(2, 3, 4, 4), copy.deepcopy(net)
    group = trace_channels(net, measure.measure(net, images), images).groups["0"]
    assert (group.units, group.width) == (4, 3)
    lc.ChannelPruning({"0": {"channels": 0.5}}).apply(net, images)
    assert (net[1].num_groups, net[1].num_channels, net[0].out_channels) == (2, 6, 6)
    kept = lc.ChannelPruning().criterion.kept(group, dense, 2)
    channels = group.producers[0].index[kept].flatten()
    normalized = dense[1](dense[0](images)).relu()[:, channels]
    expected = torch.einsum("nchw,oc->nohw", normalized, dense[3].weight[:, channels, 0, 0])
    torch.testing.assert_close(net(images), expected + dense[3].bias[:, None, None], rtol=1e-4, atol=1e-5)


class Standardized(nn.Conv2d):
    """A convolution with a standardized weight and a gain."""

    def __init__(self, *args, **settings) -> None:
        super().__init__(*args, **settings)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        weight = self.gain * (self.weight - mean) / (variance + 1e-6).sqrt()
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding)


def test_a_standardized_convolution_takes_its_statistics_over_the_inputs_that_stay():
    torch.manual_seed(0)
    net = nn.Sequential(Standardized(3, 8, 3), nn.ReLU(), Standardized(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    images, callback = torch.randn(2, 3, 6, 6), lc.ChannelPruning()
    dense, profile = copy.deepcopy(net), measure.measure(net, images)
    plan = lc.Plan({choice.layer: {"channels": 0.5} for choice in callback.choices(net, profile, images)})
    assert set(plan.layers) == {"0", "2"}
    graph = trace_channels(net, profile, images)
    first, second = (callback.criterion.kept(graph.groups[n], net, graph.groups[n].units // 2) for n in ("0", "2"))
    callback.with_plan(plan).apply(net, images)
    assert callback.predict(plan, profile) == measure.measure(net, images)
    thin = Standardized(4, 3, 3)
    thin.weight.data, thin.bias.data = dense[2].weight[second][:, first].data, dense[2].bias[second].data
    thin.gain.data = dense[2].gain[second].data
    x = thin(dense[0](images).relu()[:, first]).relu()
    expected = nn.functional.conv2d(x, dense[4].weight[:, second], dense[4].bias)
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-5)


def test_norms_without_weights_keep_what_feeds_them():
    net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 2))
    reason = lc.ChannelPruning().kept_whole(net, TOKENS)["0"]
    assert "a LayerNorm without a weight" in reason


def test_members_of_raw_parameters_say_where_their_channels_are():
    net = Stream(NORMS["layer"])
    group: ChannelGroup = trace_channels(net, measure.measure(net, TOKENS), TOKENS).groups["embed"]
    found = {m.layer: (m.dim, m.extent) for m in group.members if m.side == OUT and m.extent}
    assert found == {"position": (2, WIDTH), "scale": (0, WIDTH)}
