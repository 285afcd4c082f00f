"""Removal policy of N2N: a bidirectional LSTM reads all layers, and says for each how likely it is to be kept.

    h = biLSTM(x_1 .. x_L);     (log P(remove), log P(keep))_t = log softmax(W h_t + start)

Source: N2N learning (arXiv 1709.06030), stage 1; sizes (2 layers, 30 units, two outputs per layer) from the authors'
code. The features are ours (see ``features.py``), since raw layer sizes cannot be moved to another network.
"""

from __future__ import annotations

from math import log
from typing import final

import torch
from torch import Tensor, nn

from lightning_compress.search.rl.features import COLUMNS, LIVE


@final
class Removal(nn.Module):
    """Decides all choices of two values at once, before any is carried out.

    Args:
        hidden, depth: units and layers of each direction.
    """

    def __init__(self, hidden: int = 30, depth: int = 2) -> None:
        super().__init__()
        self.lstm = nn.LSTM(len(COLUMNS) - LIVE, hidden, depth, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, static: Tensor, keep: float) -> Tensor:
        """Return log-probabilities.

        Args:
            static: observations of the choices, shape ``(n, len(COLUMNS))``; the live columns are not read.
            keep: P(keep) of a policy that has learned nothing.

        Returns:
            Shape ``(n, 2)``: of the first and of the second value of each choice.
        """
        hidden, _ = self.lstm(static[None, :, :-LIVE])
        start = torch.tensor([log(1 - keep), log(keep)])
        return torch.log_softmax(self.head(hidden[0]) + start, dim=-1)
