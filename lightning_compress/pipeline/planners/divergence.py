"""Divergence: what a plan does to the outputs of the network, without training and without labels.

    D(p) = loss(y_p, y)              a distillation loss, where y is one tensor that it can compare
    D(p) = |y_p - y|^2 / |y|^2       of any other outputs, and without a loss

y: outputs of the dense network, of several tensors those that are named ``logits``, else all; y_p: those of the network
under plan p; both with batch norms averaged over the same batches, so that the dense plan has 0. The loss is the one
that the network is distilled with, for it knows what the outputs are: Hinton's takes them for class scores (arXiv
1503.02531, section 2), and does not see what all of them share.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

from lightning import LightningModule
from torch import Tensor

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.base.norm_statistics import average_statistics
from lightning_compress.core.errors import CompressError
from lightning_compress.core.space import Space
from lightning_compress.distillation.loss import DistillationLoss
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
        loss: of distillation; None takes the relative squared error.
    """

    def __init__(
        self,
        composition: Composition,
        space: Space,
        module: LightningModule,
        inputs: Sequence[Any],
        loss: DistillationLoss | None,
    ) -> None:
        self.composition, self.space, self.module, self.inputs = composition, space, module, list(inputs)
        self.loss = loss
        self.dense = self._averaged_outputs(clone(module))

    def __call__(self, point: Sequence[int]) -> float:
        """Return the divergence of a point, 0 or more, in units of the loss.

        It is infinite where outputs cannot be compared: they have other shapes, as those of detectors, or no values, or
        values that are not finite.
        """
        changed = clone(self.module)
        self.composition.apply(network(changed), self.space.plan(point))
        found = self._averaged_outputs(changed)
        if [y.shape for y in found] != [y.shape for y in self.dense] or not sum(y.numel() for y in found):
            return inf
        value = self._distance(list(zip(found, self.dense, strict=True)))
        return max(value, 0.0) if isfinite(value) else inf  # rounding goes below 0

    def _distance(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
        """Return how far outputs are from those of the dense network."""
        if self.loss is not None and len(pairs) == len(self.inputs) and all(y.dim() for _, y in pairs):
            try:
                samples = [len(y) for _, y in pairs]
                losses = [float(self.loss(y_p, y)) for y_p, y in pairs]
                return sum(loss * count for loss, count in zip(losses, samples, strict=True)) / sum(samples)
            except CompressError:  # it does not compare such outputs
                pass
        return float(sum((y_p - y).square().sum() for y_p, y in pairs) / sum(y.square().sum() for _, y in pairs))

    def _averaged_outputs(self, module: LightningModule) -> list[Tensor]:
        """Average the batch norms of a module; return the floating-point tensors that it gives for all batches."""
        average_statistics(module, self.inputs)
        outputs = [measure.forward_hooked(network(module), batch, ()) for batch in self.inputs]
        chosen = [parts_of(output).get(LOGITS, output) for output in outputs]
        return [part.float() for part in tensors_in(chosen) if part.is_floating_point()]
