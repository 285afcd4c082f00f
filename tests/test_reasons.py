"""Test that reasons for what stays are words, whatever the tracer ran into."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lightning_compress as lc
from lightning_compress.surgery import measure
from lightning_compress.testing.toys import Routed

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
JARGON = ("torch-pruning", "Error", "recursive", "irregular", "size of tensor", "IMAGES")


class OptionA(nn.Module):
    """A strided block whose shortcut is sliced and padded with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.conv(x) + F.pad(x[..., ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.fc(x.relu().mean((2, 3)))


class Parts(nn.Module):
    """Has a layer for each way not to be called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.read, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 4)
        self.aux, self.never = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        x = F.linear(self.conv(x).mean((2, 3)), self.read.weight).relu()
        if x.isnan().any():
            return self.never(x)
        return (self.fc(x), self.aux(x)) if self.training else self.fc(x)


class Rolls(nn.Module):
    """Moves its channels along, so that none can be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.b(self.a(x).view(len(x), 2, 4, -1).transpose(1, 2).reshape(len(x), 8, 8, 8))


def reasons(net: nn.Module) -> dict[str, str]:
    return lc.ChannelPruning().kept_whole(net, IMAGES)


def test_a_zero_padded_shortcut_is_called_that():
    assert "zero-padded shortcut (option A)" in reasons(OptionA())["conv"]


def test_each_way_not_to_be_called_has_its_reason():
    found = reasons(Parts())
    assert found["never"] == "it never ran on the example input"
    assert "something else reads its weight" in found["read"]
    assert found["fc"] == "its output channels are the output of the network"


def test_a_layer_that_gets_no_rows_is_told_from_one_of_training_alone():
    found = lc.WeightPruning().kept_whole(Routed(), torch.rand(2, 4))
    assert found == {"bright": "it gets no rows of the example input"}


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("never", "'never' has no input to quantize: it never ran on the example input"),
        ("aux", "'aux' has no input to quantize: it runs in training mode alone"),
        ("read", "'read' has no input to quantize: it is not called: something else reads its weight"),
    ],
)
def test_inputs_of_what_is_not_called_are_not_quantized(layer, message):
    with pytest.raises(lc.CompressError, match=message):
        lc.QuantizationAwareTraining({layer: {"act_bits": 8}}).apply(Parts(), IMAGES)


@pytest.mark.parametrize("net", [OptionA(), Parts(), Rolls()])
def test_no_reason_is_cut_or_in_the_words_of_a_tracer(net):
    found = reasons(net)
    found |= lc.LayerRemoval().kept_whole(net, IMAGES)
    assert found
    for reason in found.values():
        assert not any(word in reason for word in JARGON)
        assert reason[0].islower()
        assert reason.count("(") == reason.count(")")


def test_a_network_with_nothing_to_prune_warns():
    net = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())
    with pytest.warns(UserWarning, match=r"nothing of Sequential can be pruned: of 1 of its 1 layers, its output"):
        assert lc.ChannelPruning().choices(net, measure.measure(net, IMAGES), IMAGES) == []
