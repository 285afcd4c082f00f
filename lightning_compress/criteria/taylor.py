"""First-order Taylor: the change of the loss if a channel's weights were zero, squared.

    score = ( sum over the channel's weights of w dL/dw )^2

Source: Molchanov et al. 2019 (arXiv 1906.10771, eq. 8). Needs gradients, which ``ChannelPruning`` gathers over some
train batches. It breaks on a network trained to zero loss, whose gradients vanish.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn

from lightning_compress.criteria.criterion import Criterion, over_units, producer_weights
from lightning_compress.errors import CompressError
from lightning_compress.graph import ChannelGroup


@final
@dataclass(frozen=True)
class Taylor(Criterion):
    """The squared first-order change of the loss.

    Raises:
        CompressError: a weight has no gradient.
    """

    needs_gradients: ClassVar[bool] = True

    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        weights = producer_weights(group, net)
        missing = [name for name, weight in weights.items() if weight.grad is None]
        if missing:
            raise CompressError(
                f"Taylor: the weight of layer {missing[0]!r} has no gradient; run a backward pass first, or use l2"
            )
        return over_units(group, {n: (w.detach() * w.grad).flatten(1).sum(1).square() for n, w in weights.items()})
