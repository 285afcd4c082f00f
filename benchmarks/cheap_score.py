"""Measure how well low scores rank pruned networks.

    python benchmarks/cheap_score.py digits
    python benchmarks/cheap_score.py cifar --npz cifar10.npz --ckpt cache/dense-01a4bfce4259/final.ckpt

Random keep-ratios, of ResNet-8 on scikit-learn's digits at 20 % of the MACs, or of the ResNet-20 on CIFAR-10 that
``methods.py cifar`` trains at half of them. Kendall's tau between the validation loss as a search sees it and after a
fine-tuning of all plans, for each way to make the search's score; its spread is the standard deviation over bootstrap
samples of the plans. Scores with a refit are compared with a fine-tuning after one. The last row is the fine-tuning
with the images in another order: no score can be expected to rank better than that.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter

import torch
from lightning import Trainer, seed_everything

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.macs import MACs
from lightning_compress.pipeline.checkpoint import load_checkpoint
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pipeline.quiet import quiet
from lightning_compress.pruning.criteria.l2 import L2
from lightning_compress.pruning.reconstruction.symmetric import Symmetric
from lightning_compress.search.correlation import rank_correlation
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.random import Random
from lightning_compress.vision.data.digits import Digits
from lightning_compress.vision.data.images import ImageDataModule
from lightning_compress.vision.data.npz import Npz
from lightning_compress.vision.models.classifier import ImageClassifier
from lightning_compress.vision.models.resnet_cifar import resnet8, resnet20

SUBSETS = 200  # bootstrap samples of the plans, for the spread of tau
DENSE_EPOCHS = 15  # of the ResNet-8
FINETUNING_LR = 0.03


@dataclass(frozen=True)
class Case:
    """A network and its data.

    Attributes:
        data: of a seed: the same images for each, in another order.
        network: with trained weights.
        share: of the MACs that plans keep.
        plans: how many.
        steps: of the fine-tuning that all scores are compared with.
        validation_batches: of each score; None takes all.
    """

    data: Callable[[int], ImageDataModule]
    network: Callable[[ImageDataModule], ImageClassifier]
    share: float
    plans: int
    steps: int
    validation_batches: int | None = None


def ready(data: ImageDataModule) -> ImageDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def digits(seed: int) -> ImageDataModule:
    return ready(Digits(10, 1, 8, batch_size=64, shift=1, seed=seed))


def trained(data: ImageDataModule) -> ImageClassifier:
    seed_everything(0, verbose=False)
    module = ImageClassifier(resnet8(num_classes=10, in_channels=1), 10, lr=0.1)
    with quiet():
        Trainer(
            max_epochs=DENSE_EPOCHS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", limit_val_batches=0,
        ).fit(module, datamodule=data)  # fmt: skip
    module.lr = FINETUNING_LR
    return module


def restored(ckpt: str) -> ImageClassifier:
    module = ImageClassifier(resnet20(num_classes=10, in_channels=3), 10, lr=FINETUNING_LR)
    return load_checkpoint(module, Path(ckpt))


def case(arguments: argparse.Namespace) -> Case:
    if arguments.data == "digits":
        return Case(digits, trained, share=0.2, plans=24, steps=160)
    return Case(
        lambda seed: ready(Npz(arguments.npz, 10, 3, 32, shift=4, flip=True, seed=seed)),
        lambda data: restored(arguments.ckpt),
        share=0.5,
        plans=16,
        steps=100,
        validation_batches=8,
    )


def spread_of_tau(low: list[float], high: list[float]) -> float:
    generator = torch.Generator().manual_seed(0)
    taus = []
    for _ in range(SUBSETS):
        picks = torch.randint(len(low), (len(low),), generator=generator).tolist()
        if len({low[i] for i in picks}) > 1 and len({high[i] for i in picks}) > 1:
            taus.append(rank_correlation([low[i] for i in picks], [high[i] for i in picks]))
    return stdev(taus)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("data", choices=["digits", "cifar"])
    asked.add_argument("--npz", default="cifar10.npz")
    asked.add_argument("--ckpt", help="the dense ResNet-20")
    given = case(asked.parse_args())
    torch.set_num_threads(1)
    data, other = given.data(0), given.data(1)
    module = given.network(data)
    example = next(iter(data.val_dataloader()))[0][:2]
    plain, refitted = ChannelPruning(criterion=L2()), ChannelPruning(criterion=L2(), refit=Symmetric())
    refitted.calibrate(module, data.train_dataloader())

    def evaluator(pruning: ChannelPruning, train: ImageDataModule = data, **settings: int) -> Evaluator:
        composition = Composition([pruning], module.net, example)
        return Evaluator(
            partial(copy.deepcopy, module),
            composition,
            train.train_dataloader(),
            validation=data.val_dataloader(),
            validation_batches=given.validation_batches,
            costs=[MACs()],
            **settings,
        )

    final = evaluator(plain, finetune_steps=given.steps)
    composition = final.composition
    space, dense = composition.space(), MACs()(composition.profile)
    budget = Budget(lambda plan: MACs()(composition.predict(plan)), given.share * dense, space)
    problem = Problem(budget, composition.profile, composition.predict)
    searcher = Random(problem, 0, AccuracyUnderBudget())
    plans = [searcher.ask().plan for _ in range(given.plans)]
    after = evaluator(refitted, finetune_steps=given.steps)
    ways = {
        "as pruned": (evaluator(plain, recalibration_batches=0), final),
        "recalibrated": (evaluator(plain), final),
        "recalibrated, 1/3 of the data": (evaluator(plain).cheaper(1 / 3), final),
        "10 steps": (evaluator(plain, finetune_steps=10), final),
        "40 steps": (evaluator(plain, finetune_steps=40), final),
        "refit": (evaluator(refitted, recalibration_batches=0), after),
        "refit, recalibrated": (evaluator(refitted), after),
        "refit, 10 steps": (evaluator(refitted, finetune_steps=10), after),
        f"{given.steps} steps, other order": (evaluator(plain, other, finetune_steps=given.steps), final),
    }
    targets = {evaluate: [evaluate(plan).metrics for plan in plans] for evaluate in (final, after)}
    for name, evaluate in (("no refit", final), ("refit", after)):
        accuracies = [metrics["val_acc"] for metrics in targets[evaluate]]
        after_all = f"{mean(accuracies):.4f} +- {stdev(accuracies):.4f}"
        print(f"{given.plans} plans, {name}: accuracy after {given.steps} steps {after_all}", flush=True)
    print(f"{'score in the search':38}{'accuracy':>10}{'tau, by loss':>24}{'seconds a plan':>16}")
    for name, (evaluate, target) in ways.items():
        began = perf_counter()
        found = [evaluate(plan).metrics for plan in plans]
        seconds = (perf_counter() - began) / given.plans
        low, high = ([-metrics["val_loss"] for metrics in scores] for scores in (found, targets[target]))
        tau = f"{rank_correlation(low, high):.2f} +- {spread_of_tau(low, high):.2f}"
        print(f"{name:38}{mean(s['val_acc'] for s in found):10.4f}{tau:>24}{seconds:16.2f}", flush=True)


if __name__ == "__main__":
    main()
