"""Divergence: what a plan does to the outputs of the network, without training and without labels.

    D(p) = mean over samples of KL(softmax(y) || softmax(y_p))     where y has the shape (samples, classes)
    D(p) = |y_p - y|^2 / |y|^2                                     of any other outputs

y: outputs of the dense network; y_p: those of the network under plan p, with batch norms averaged over the same
batches. The first is the measure of knowledge distillation (arXiv 1503.02531, section 2, at temperature 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import kl_div

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.base.norm_statistics import average_statistics
from lightning_compress.core.space import Space
from lightning_compress.distillation.outputs import select_tensor
from lightning_compress.surgery import measure
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.structure import network


class Divergence:
    """Measures plans.

    Args:
        composition: the callbacks, calibrated on the module.
        space: of the composition.
        module: of the network before it is compressed; it is not changed.
        inputs: input batches of the network, from train data.
    """

    def __init__(self, composition: Composition, space: Space, module: LightningModule, inputs: Sequence[Any]) -> None:
        self.composition, self.space, self.module, self.inputs = composition, space, module, list(inputs)
        self.dense = self._outputs(network(clone(module)))

    def __call__(self, point: Sequence[int]) -> float:
        """Return the divergence of a point, 0 or more; in nats where outputs are class scores."""
        changed = clone(self.module)
        self.composition.apply(network(changed), self.space.plan(point))
        average_statistics(changed, self.inputs)
        found = self._outputs(network(changed))
        if found.dim() != 2 or found.shape[1] < 2:
            return float((found - self.dense).square().sum() / self.dense.square().sum())
        scores, wanted = found.log_softmax(1), self.dense.log_softmax(1)
        return max(float(kl_div(scores, wanted, reduction="batchmean", log_target=True)), 0.0)  # rounding goes below 0

    def _outputs(self, net: nn.Module) -> Tensor:
        found = [select_tensor(measure.forward_hooked(net, batch, ())).float() for batch in self.inputs]
        return torch.cat(found)
