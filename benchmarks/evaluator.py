"""Measure a candidate beside the forward passes that it needs: ``python benchmarks/evaluator.py``.

ResNet-20 on CIFAR-10-shaped random images; bits for every layer. The bare passes are those of a quantized network of
the same plan over the same batches: recalibration in train mode for batch norms, then validation.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from timing import medians
from torch import nn

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.pipeline.evaluator import Batches, Evaluator
from lightning_compress.vision.models.classifier import ImageClassifier
from lightning_compress.vision.models.resnet_cifar import resnet20

TRAIN, VAL, BATCH = 8, 16, 128


def main() -> None:
    torch.set_num_threads(1)  # so that what else the machine does disturbs least
    torch.manual_seed(0)
    batches = [(torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))) for _ in range(TRAIN + VAL)]
    module = ImageClassifier(resnet20(), 10)
    composition = Composition([QuantizationAwareTraining()], module.net, batches[0][0][:2])
    space = composition.space()
    plan = space.plan([len(choice.values) // 2 for choice in space.choices])
    train, validation = Batches(batches[:TRAIN]), Batches(batches[TRAIN:])
    evaluate = Evaluator(
        partial(copy.deepcopy, module), composition, train, validation=validation, recalibration_batches=TRAIN
    )
    net = copy.deepcopy(module.net)
    composition.apply(net, plan)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]

    @torch.no_grad()
    def bare() -> None:
        net.eval()
        for norm in norms:
            norm.train()
        for x, _ in train:
            net(x)
        net.eval()
        for x, _ in validation:
            net(x)

    found = medians({"candidate": partial(evaluate, plan), "bare forward passes": bare}, rounds=5)
    for name, seconds in found.items():
        print(f"{name:22} {seconds:8.3f} s")
    print(f"{'ratio':22} {found['candidate'] / found['bare forward passes']:8.3f}   (aim: 1.15 or less)")


if __name__ == "__main__":
    main()
