"""What every refit is: after channels were chosen, the layers that read them get the best weights in closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

RIDGE = 1e-6  # of the mean diagonal: dead inputs make the system singular


class Refit(ABC):
    """Solves least squares for the weights behind removed channels."""

    @abstractmethod
    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        """Keep on the network what the refit needs to know of its inputs."""

    @abstractmethod
    def before(self, net: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        """Change weights of the dense network whose other inputs are about to be removed.

        Args:
            net: dense.
            inputs: layer, in the order in which they run -> indices of the inputs that stay.
        """

    @abstractmethod
    def after(self, net: nn.Module, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Change weights of the thin network.

        Args:
            net: thin.
            inputs: as for :meth:`before`.
            outputs: layer -> indices of the outputs that stayed; layers that kept all are left out.
        """


def solve(moments: Tensor, cross: Tensor) -> Tensor:
    """``W`` of least ``|W x - y|^2`` (transposed), from ``moments = sum x x'`` and ``cross = sum x y'``.

    Args:
        moments: shape ``(inputs, inputs)``.
        cross: shape ``(inputs, outputs)``.

    Returns:
        Shape ``(inputs, outputs)``.
    """
    ridge = RIDGE * moments.diagonal().mean().clamp_min(1e-30)
    return torch.linalg.solve(moments + ridge * torch.eye(len(moments), dtype=moments.dtype), cross)
