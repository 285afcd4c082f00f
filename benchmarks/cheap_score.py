"""How well cheap scores rank pruned networks: ``python benchmarks/cheap_score.py``.

ResNet-8 on scikit-learn's digits, random keep-ratios at 20 % of the MACs. Kendall's tau between the validation loss as
a search sees it and after a fine-tuning of all plans, for each way to make the search's score; its spread is the
standard deviation over bootstrap samples of the plans. Scores with a refit are compared with a fine-tuning after one.
The last row is the fine-tuning with the images in another order: no score can be expected to rank better than that.
"""

from __future__ import annotations

import copy
from functools import partial
from statistics import mean, stdev
from time import perf_counter

import torch
from lightning import Trainer, seed_everything

from lightning_compress.budget import Budget
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.composition import Composition
from lightning_compress.cost import MACs
from lightning_compress.criteria.l2 import L2
from lightning_compress.data.digits import Digits
from lightning_compress.models.classifier import ImageClassifier
from lightning_compress.models.resnet_cifar import resnet8
from lightning_compress.quiet import quiet
from lightning_compress.refits.symmetric import Symmetric
from lightning_compress.search.correlation import rank_correlation
from lightning_compress.search.evaluator import Evaluator
from lightning_compress.search.objective import AccuracyUnderBudget
from lightning_compress.search.problem import Problem
from lightning_compress.search.random import Random

PLANS, SHARE, DENSE_EPOCHS, FINETUNE = 24, 0.2, 15, 160
SUBSETS = 200  # bootstrap samples of the plans, for the spread of tau


def digits(seed: int) -> Digits:
    """The same images for each seed, in another order."""
    data = Digits(10, 1, 8, batch_size=64, shift=1, seed=seed)
    data.prepare_data()
    data.setup("fit")
    return data


def trained(data: Digits) -> ImageClassifier:
    seed_everything(0, verbose=False)
    module = ImageClassifier(resnet8(num_classes=10, in_channels=1), 10, lr=0.1)
    with quiet():
        Trainer(
            max_epochs=DENSE_EPOCHS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", limit_val_batches=0,
        ).fit(module, datamodule=data)  # fmt: skip
    module.lr = 0.03
    return module


def spread_of_tau(cheap: list[float], dear: list[float]) -> float:
    generator = torch.Generator().manual_seed(0)
    taus = []
    for _ in range(SUBSETS):
        picks = torch.randint(len(cheap), (len(cheap),), generator=generator).tolist()
        if len({cheap[i] for i in picks}) > 1 and len({dear[i] for i in picks}) > 1:
            taus.append(rank_correlation([cheap[i] for i in picks], [dear[i] for i in picks]))
    return stdev(taus)


def main() -> None:
    torch.set_num_threads(1)
    data, other = digits(0), digits(1)
    module = trained(data)
    example = next(iter(data.val_dataloader()))[0][:2]
    plain, refitted = ChannelPruning(criterion=L2()), ChannelPruning(criterion=L2(), refit=Symmetric())
    refitted.prepare(module, data.train_dataloader())

    def evaluator(pruning: ChannelPruning, train: Digits = data, **settings: int) -> Evaluator:
        composition = Composition([pruning], module.net, example)
        loaders = train.train_dataloader(), data.val_dataloader()
        return Evaluator(partial(copy.deepcopy, module), composition, *loaders, **settings)

    final = evaluator(plain, finetune_steps=FINETUNE)
    composition = final.composition
    space, dense = composition.space(), MACs()(composition.profile)
    budget = Budget(lambda plan: MACs()(composition.predict(plan)), SHARE * dense, space)
    problem = Problem(budget, composition.profile, composition.predict)
    searcher = Random(problem, 0, AccuracyUnderBudget())
    plans = [searcher.ask().plan for _ in range(PLANS)]
    after = evaluator(refitted, finetune_steps=FINETUNE)
    ways = {
        "as pruned": (evaluator(plain, recalibration_batches=0), final),
        "recalibrated": (evaluator(plain), final),
        "recalibrated, 1/3 of the data": (evaluator(plain).cheaper(1 / 3), final),
        "10 steps": (evaluator(plain, finetune_steps=10), final),
        "40 steps": (evaluator(plain, finetune_steps=40), final),
        "refit": (evaluator(refitted, recalibration_batches=0), after),
        "refit, recalibrated": (evaluator(refitted), after),
        "refit, 10 steps": (evaluator(refitted, finetune_steps=10), after),
        f"{FINETUNE} steps, other order": (evaluator(plain, other, finetune_steps=FINETUNE), final),
    }
    targets = {evaluate: [evaluate(plan).metrics for plan in plans] for evaluate in (final, after)}
    for name, evaluate in (("no refit", final), ("refit", after)):
        accuracies = [metrics["val_acc"] for metrics in targets[evaluate]]
        print(
            f"{PLANS} plans, {name}: accuracy after {FINETUNE} steps {mean(accuracies):.4f} +- {stdev(accuracies):.4f}"
        )
    print(f"{'score in the search':38}{'accuracy':>10}{'tau, by loss':>24}{'seconds a plan':>16}")
    for name, (evaluate, target) in ways.items():
        began = perf_counter()
        found = [evaluate(plan).metrics for plan in plans]
        seconds = (perf_counter() - began) / PLANS
        cheap, dear = ([-metrics["val_loss"] for metrics in scores] for scores in (found, targets[target]))
        tau = f"{rank_correlation(cheap, dear):.2f} +- {spread_of_tau(cheap, dear):.2f}"
        print(f"{name:38}{mean(s['val_acc'] for s in found):10.4f}{tau:>24}{seconds:16.2f}", flush=True)


if __name__ == "__main__":
    main()
