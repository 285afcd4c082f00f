"""Divergence: what a plan does to the outputs of the network, without training and without labels.

    D(p) = mean over samples of KL(softmax(y) || softmax(y_p))     where y has the shape (samples, classes)
    D(p) = |y_p - y|^2 / |y|^2                                     of any other outputs

y: outputs of the dense network, of several tensors those that are named ``logits``, else all; y_p: those of the network
under plan p; both with batch norms averaged over the same batches, so that the dense plan has 0. The first is the
measure of knowledge distillation (arXiv 1503.02531, section 2, at temperature 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

from lightning import LightningModule
from torch import Tensor
from torch.nn.functional import kl_div

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.base.norm_statistics import average_statistics
from lightning_compress.core.space import Space
from lightning_compress.distillation.outputs import LOGITS
from lightning_compress.surgery import measure
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.structure import network
from lightning_compress.surgery.tensors import parts_of, tensors_in


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
        self.dense = self._averaged_outputs(clone(module))

    def __call__(self, point: Sequence[int]) -> float:
        """Return the divergence of a point, 0 or more; in nats where outputs are class scores.

        It is infinite where outputs cannot be compared: they have other shapes, as those of detectors, or no values, or
        values that are not finite.
        """
        changed = clone(self.module)
        self.composition.apply(network(changed), self.space.plan(point))
        found = self._averaged_outputs(changed)
        if [y.shape for y in found] != [y.shape for y in self.dense] or not sum(y.numel() for y in found):
            return inf
        pairs = list(zip(found, self.dense, strict=True))
        if len(pairs) == len(self.inputs) and all(y.dim() == 2 and y.shape[1] > 1 for y in found):
            divergences = [
                kl_div(y_p.log_softmax(1), y.log_softmax(1), reduction="sum", log_target=True) for y_p, y in pairs
            ]
            value = float(sum(divergences)) / sum(map(len, found))
        else:
            value = float(sum((y_p - y).square().sum() for y_p, y in pairs) / sum(y.square().sum() for _, y in pairs))
        return max(value, 0.0) if isfinite(value) else inf  # rounding goes below 0

    def _averaged_outputs(self, module: LightningModule) -> list[Tensor]:
        """Average the batch norms of a module; return the floating-point tensors that it gives for all batches."""
        average_statistics(module, self.inputs)
        outputs = [measure.forward_hooked(network(module), batch, ()) for batch in self.inputs]
        chosen = [parts_of(output).get(LOGITS, output) for output in outputs]
        return [part.float() for part in tensors_in(chosen) if part.is_floating_point()]
