"""Layers that nobody calls as ``layer(x)``: inputs that hooks do not see are refused with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lightning_compress as lc


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(input=x)


@pytest.mark.parametrize(
    "callback",
    [
        lc.QuantizationAwareTraining({"fc": {"act_bits": 4}}),
        lc.VariationalDropout({"fc": {"variational": 1}}),
    ],
)
def test_a_layer_that_is_called_by_keyword(callback):
    net = ByKeyword()
    callback.apply(net, torch.zeros(2, 4))
    with pytest.raises(lc.CompressError, match=r"Linear is called as layer\(input=x\); call it as layer\(x\)"):
        net(torch.zeros(2, 4))


def test_inputs_of_a_layer_that_only_gives_its_weight():
    net, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.zeros(2, 3, 8)
    with pytest.raises(
        lc.CompressError, match=r"'self_attn.out_proj' has .* it is not called: something else reads its"
    ):
        lc.QuantizationAwareTraining({"self_attn.out_proj": {"weight_bits": 4, "act_bits": 4}}).apply(net, x)
    lc.QuantizationAwareTraining({"self_attn.out_proj": {"weight_bits": 4, "act_bits": 32}}).apply(net, x)
