"""Shrinkage policy of N2N: an LSTM walks through the layers, and each decision is part of what it reads next.

    h_t = LSTM(x_t, h_(t-1));     log P(action k)_t = log softmax(W h_t + start)_k,     actions 1/22, 3/22 .. 21/22

Source: N2N learning (arXiv 1709.06030), stage 2; sizes (2 layers, 30 units, 11 actions) from the authors' code. There
the actions are a table of factors of a width; here they are positions around the uniform policy (see ``episode.py``),
so that one policy fits grids of any length. The last action is among the features. The start is ours too: a bell around
the middle action.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from lightning_compress.search.rl.features import COLUMNS

ACTIONS = 11


@final
class Shrinkage(nn.Module):
    """Decides the choices of more than two values, one after the other.

    Args:
        hidden, depth: units and layers.
        width: of the bell around action 1/2 that a policy which has learned nothing draws from.
    """

    def __init__(self, hidden: int = 30, depth: int = 2, width: float = 0.15) -> None:
        super().__init__()
        self.lstm = nn.LSTM(len(COLUMNS), hidden, depth, batch_first=True)
        self.head = nn.Linear(hidden, ACTIONS)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.actions = (torch.arange(ACTIONS) + 0.5) / ACTIONS
        self.start = -(((self.actions - 0.5) / width) ** 2) / 2

    def forward(
        self, observations: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return log-probabilities and the next LSTM state.

        Args:
            observations: shape ``(rollouts, steps, len(COLUMNS))``.
            state: after the steps before these.

        Returns:
            Shape ``(rollouts, steps, ACTIONS)``.
        """
        hidden, state = self.lstm(observations, state)
        return torch.log_softmax(self.head(hidden) + self.start, dim=-1), state
