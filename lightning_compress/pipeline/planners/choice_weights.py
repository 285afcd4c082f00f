"""Weights of choices: what the outputs of the network make of the error that each choice causes in layers.

    w_i = sqrt(D_i / e_i(m_i)),     D_i = mean over samples of KL(softmax(y) || softmax(y_i))

y: class scores of the dense network; y_i: those of the network in which choice i alone has its value m_i, the one
nearest to half of its largest, with batch norms averaged over the same batches; e_i: the error of layers' outputs. The
root lies between errors that count alike in all layers and the divergence itself, which says of a choice what it does
alone, and nothing of what it does beside others. Ours, found by trying: on ResNet-8 and ResNet-20 plans for channels
had a higher accuracy with it than with either (benchmarks/results/search_real.txt); for bits it changed nothing.
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
from lightning_compress.core.errors import CompressError
from lightning_compress.core.space import Space
from lightning_compress.distillation.outputs import select_tensor
from lightning_compress.surgery import measure
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.structure import network


def choice_weights(
    errors: Sequence[Sequence[float]],
    composition: Composition,
    space: Space,
    module: LightningModule,
    inputs: list[Any],
) -> list[float]:
    """Return the weight of each choice; 1 where its middle value causes no error.

    Args:
        errors: for each choice the error of each of its values.
        composition: the callbacks, calibrated on the module.
        space: of the composition.
        module: of the network before it is compressed; it is not changed.
        inputs: input batches of the network, from train data.

    Raises:
        CompressError: the network gives no class scores.
    """
    dense, largest = _scores(network(clone(module)), inputs), [len(choice.values) - 1 for choice in space.choices]
    weights = []
    for number, (choice, own) in enumerate(zip(space.choices, errors, strict=True)):
        half = float(choice.values[-1]) / 2
        middle = min(range(len(choice.values)), key=lambda i: abs(float(choice.values[i]) - half))
        if middle == largest[number] or own[middle] <= 0:
            weights.append(1.0)
            continue
        point = [*largest[:number], middle, *largest[number + 1 :]]
        changed = clone(module)
        composition.apply(network(changed), space.plan(point))
        average_statistics(changed, inputs)
        found = _scores(network(changed), inputs)
        divergence = kl_div(found.log_softmax(1), dense.log_softmax(1), reduction="batchmean", log_target=True)
        weights.append(max(float(divergence), 0.0) ** 0.5 / own[middle] ** 0.5)
    return weights


def _scores(net: nn.Module, inputs: list[Any]) -> Tensor:
    """Return the class scores of all samples, shape ``(samples, classes)``."""
    found = [select_tensor(measure.forward_hooked(net, batch, ())).float() for batch in inputs]
    if found[0].dim() != 2 or found[0].shape[1] < 2:
        raise CompressError(
            f"OutputError: its probes compare class scores, a tensor of the shape (samples, classes), and the network "
            f"gives the shape {tuple(found[0].shape)}; set probes=0"
        )
    return torch.cat(found)
