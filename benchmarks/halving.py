"""Measure what successive halving saves and misses: ``python benchmarks/halving.py``.

Random keep-ratios of ResNet-8 on scikit-learn's digits, at 20 % of the MACs, each scored after 40 steps of fine-tuning:
all of them in full, and in batches of 9 by thirds. The place is that of the plan that halving picks among the full
scores (0: the best); the reward lost is against the best.
"""

from __future__ import annotations

import copy
from functools import partial
from time import perf_counter

import torch
from cheap_score import digits, trained

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.macs import MACs
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.search.executors.executor import Executor
from lightning_compress.search.executors.serial import Serial
from lightning_compress.search.halving import Halving
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.trial import Score

SEEDS, PLANS, BATCH, SHARE, STEPS = (0, 1, 2), 36, 9, 0.2, 40
OBJECTIVE = AccuracyUnderBudget()


def scored(executor: Executor, plans: list) -> tuple[list[Score], float]:
    began, scores = perf_counter(), []
    with executor:
        for start in range(0, PLANS, BATCH):
            found = dict(executor.run(dict(enumerate(plans[start : start + BATCH]))))
            scores += [found[i].score for i in range(BATCH)]
    return scores, perf_counter() - began


def main() -> None:
    torch.set_num_threads(1)
    data = digits(0)
    module = trained(data)
    composition = Composition([ChannelPruning()], module.net, next(iter(data.val_dataloader()))[0][:2])
    space, dense = composition.space(), MACs()(composition.profile)
    budget = Budget(lambda plan: MACs()(composition.predict(plan)), SHARE * dense, space)
    evaluate = Evaluator(
        partial(copy.deepcopy, module),
        composition,
        data.train_dataloader(),
        validation=data.val_dataloader(),
        finetune_steps=STEPS,
    )
    print(f"{'seed':>4}{'full, s':>10}{'halving, s':>12}{'place':>14}{'reward lost':>13}{'spread of rewards':>19}")
    for seed in SEEDS:
        searcher = Random(Problem(budget, composition.profile, composition.predict), seed, OBJECTIVE)
        plans = [searcher.ask().plan for _ in range(PLANS)]
        full, whole_seconds = scored(Serial(evaluate), plans)
        halved, seconds = scored(Halving().over(Serial, OBJECTIVE, BATCH)(evaluate), plans)
        rewards = [OBJECTIVE(score) for score in full]
        picked = max(range(PLANS), key=lambda i: OBJECTIVE(halved[i]))
        place, lost = sum(r > rewards[picked] for r in rewards), max(rewards) - rewards[picked]
        spread = max(rewards) - min(rewards)
        print(f"{seed:4}{whole_seconds:10.1f}{seconds:12.1f}{place:8} of {PLANS}{lost:13.4f}{spread:19.4f}", flush=True)


if __name__ == "__main__":
    main()
