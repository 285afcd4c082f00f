"""First-order Taylor: the change of the loss if a channel's weights were zero, squared.

    score = ( sum over the channel's weights of w dL/dw )^2

Source: Molchanov et al. 2019 (arXiv 1906.10771, eq. 8). Needs gradients, gathered once over some train batches. Use it
where the loss says more than magnitudes do, as behind batch norms without scales. It breaks on a network trained to
zero loss, whose gradients vanish.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from lightning import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.criteria.criterion import Criterion, over_units, producer_weights
from lightning_compress.pruning.gradients import gather_gradients
from lightning_compress.surgery.calibration import calibration_of, store_calibration
from lightning_compress.surgery.graph.channels import ChannelGroup
from lightning_compress.surgery.matrices import weight_place
from lightning_compress.surgery.row_layout import as_rows
from lightning_compress.surgery.structure import network

KEY = "gradients"


@final
@dataclass(frozen=True)
class Taylor(Criterion):
    """The squared first-order change of the loss.

    Raises:
        CompressError: a weight has no gradient, or is frozen.
    """

    @override
    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        net = network(module)
        if calibration_of(net, KEY) is None:
            gather_gradients(module, batches)
            store_calibration(net, KEY, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})
            module.zero_grad()

    @override
    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        weights, known = producer_weights(group, net), calibration_of(net, KEY) or {}
        slopes: dict[str, Tensor] = {}
        for name in weights:
            owner, key = weight_place(net, name)
            slope = known.get(name, known.get(f"{name}.weight", getattr(owner, key).grad))
            if slope is not None:
                slopes[name] = as_rows(owner, slope)
        missing = [name for name in weights if name not in slopes]
        if missing:
            if not weights[missing[0]].requires_grad:
                raise CompressError(
                    f"Taylor: the weight of layer {missing[0]!r} is frozen, so it has no gradient; unfreeze it "
                    f"until its channels are removed, ignore the layer, or use l2"
                )
            raise CompressError(
                f"Taylor: the weight of layer {missing[0]!r} has no gradient; run a backward pass first, or use l2"
            )
        return over_units(group, {n: (w.detach() * slopes[n]).flatten(1).sum(1).square() for n, w in weights.items()})
