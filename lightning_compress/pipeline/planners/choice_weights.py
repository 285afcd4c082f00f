"""Weights of choices: what the outputs of the network make of the error that each choice causes in layers.

    w_i = (D_i / e_i(m_i))^a     a the one of 0, 1/2 and 1 whose plan of least error has the least divergence

D_i: divergence (divergence.py) of the network in which choice i alone has its value m_i, the one nearest to half of its
largest; e_i: the error of layers' outputs. At a = 0 errors count alike in all layers; at a = 1 each choice counts by
what it does alone, which says nothing of what it does beside others. Which a is best differs from network to network
(benchmarks/results/search_real.txt), and three more plans tell. Ours; for bits it changed nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from lightning_compress.core.budget import Budget
from lightning_compress.core.least_error import least_error
from lightning_compress.pipeline.planners.divergence import Divergence
from lightning_compress.search.progress_bar import progress_bar

POWERS = (0.0, 0.5, 1.0)


def weighed(errors: Sequence[Sequence[float]], budget: Budget, divergence: Divergence) -> tuple[tuple[float, ...], ...]:
    """Return the errors of all choices times their weights.

    Args:
        errors: for each choice the error of each of its values.
        budget: that the plan must meet.
        divergence: of the same space.
    """
    weights = choice_weights(errors, divergence)
    tables = [
        tuple(tuple(weight**power * error for error in own) for weight, own in zip(weights, errors, strict=True))
        for power in POWERS
    ]
    return min(tables, key=lambda table: divergence(least_error(table, budget)))


def choice_weights(errors: Sequence[Sequence[float]], divergence: Divergence) -> list[float]:
    """Return the divergence of each choice alone over its error; 1 where that is not known or there is no error.

    Args:
        errors: for each choice the error of each of its values.
        divergence: of the same space.
    """
    with progress_bar() as bar:
        task = bar.add_task("Probes", total=len(errors), note="")
        weights = []
        for number, own in enumerate(errors):
            weights.append(_weight(number, own, divergence))
            bar.update(task, advance=1)
        return weights


def _weight(number: int, errors: Sequence[float], divergence: Divergence) -> float:
    """Return the weight of one choice."""
    largest, values = divergence.space.largest, divergence.space.choices[number].values
    half = float(values[-1]) / 2
    middle = min(range(len(values)), key=lambda i: abs(float(values[i]) - half))
    if middle == largest[number] or errors[middle] <= 0:
        return 1.0
    weight = divergence((*largest[:number], middle, *largest[number + 1 :])) / errors[middle]
    return weight if isfinite(weight) else 1.0
