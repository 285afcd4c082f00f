"""Channels are followed around layers that mix tokens on a transposed tensor."""

from __future__ import annotations

import torch
from test_graph import check_removal
from torch import nn

import lightning_compress as lc
from lightning_compress.surgery import measure

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Mixer(nn.Module):
    """Patches, blocks of an MLP over tokens and one over channels, and a head."""

    def __init__(self, width: int = 24, tokens: int = 16, gated: bool = False) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, width, 8, 8), nn.LayerNorm(width), nn.Linear(width, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.over_tokens = nn.Linear(tokens, tokens) if gated else mlp(tokens, 20)
        self.over_channels = mlp(width, 48)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.over_tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        x = x + self.over_channels(self.norms[1](x))
        return self.head(self.norm(x).mean(1))


def mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def test_removing_equals_masking_and_prediction():
    torch.manual_seed(0)
    graph = check_removal(Mixer().eval(), IMAGES)
    assert graph.groups.keys() == {"stem", "over_tokens.0", "over_channels.0"}
    assert graph.kept_whole["over_tokens.2"] == "its channels are tokens, which other layers mix"


def test_a_single_layer_over_the_tokens_stays_and_says_why():
    torch.manual_seed(0)
    graph = check_removal(Mixer(gated=True).eval(), IMAGES)
    assert graph.groups.keys() == {"stem", "over_channels.0"}
    assert graph.kept_whole["over_tokens"] == "its channels are tokens, which other layers mix"


def test_half_of_all_channels_leaves_little_more_than_a_quarter_of_the_macs(tmp_path):
    torch.manual_seed(0)
    net, callback = Mixer().eval(), lc.ChannelPruning()
    macs = measure.measure(net, IMAGES).macs
    callback.with_plan(lc.uniform_plan(net, IMAGES, callbacks=[callback], channels=0.5)).apply(net, IMAGES)
    assert measure.measure(net, IMAGES).macs < 0.4 * macs
    lc.save(net, tmp_path / "a.safetensors", example_input=IMAGES)
    torch.testing.assert_close(lc.load(tmp_path / "a.safetensors", Mixer()).eval()(IMAGES), net(IMAGES))
