"""Weights of choices: what the outputs of the network make of the error that each choice causes in layers.

    w_i = (D_i / e_i(m_i))^a     a the one of 0, 1/4, 1/2, 3/4 and 1 whose plan of least error diverges least

D_i: divergence (divergence.py) of the network in which choice i alone has its value m_i, the one nearest to half of its
largest; e_i: the error of layers' outputs. At a = 0 errors count alike in all layers; at a = 1 each choice counts by
what it does alone, which says nothing of what it does beside others. Which a is best differs from network to network
(benchmarks/results/search_real.txt), and the divergence of a plan for each tells. Ours; for bits it gained nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from statistics import geometric_mean

from lightning_compress.core.budget import Budget
from lightning_compress.core.least_error import least_error
from lightning_compress.pipeline.planners.divergence import Divergence
from lightning_compress.search.progress_bar import progress_bar

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)


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
    points = [least_error(table, budget) for table in tables]
    diverging = {point: divergence(point) for point in dict.fromkeys(points)}  # two powers may give one plan
    return min(zip(points, tables, strict=True), key=lambda pair: diverging[pair[0]])[1]


def choice_weights(errors: Sequence[Sequence[float]], divergence: Divergence) -> list[float]:
    """Return the divergence of each choice alone over its error, in units of their geometric mean.

    Weights of 0 and infinity become the least and the largest of the others: one value was tried, and others of the
    choice do cost something. A choice without an error at that value weighs 1, as all do where no weight is known.

    Args:
        errors: for each choice the error of each of its values.
        divergence: of the same space.
    """
    with progress_bar() as bar:
        task = bar.add_task("Probes", total=len(errors), note="")
        found = []
        for number, own in enumerate(errors):
            found.append(_ratio(number, own, divergence))
            bar.update(task, advance=1)
    known = [ratio for ratio in found if ratio is not None and 0 < ratio < inf]
    if not known:
        return [1.0] * len(errors)
    least, most, unit = min(known), max(known), geometric_mean(known)
    return [1.0 if ratio is None else min(max(ratio, least), most) / unit for ratio in found]


def _ratio(number: int, errors: Sequence[float], divergence: Divergence) -> float | None:
    """Return divergence over error of one choice at its middle value; None where it has no error there."""
    largest, values = divergence.space.largest, divergence.space.choices[number].values
    half = float(values[-1]) / 2
    middle = min(range(len(values)), key=lambda i: abs(float(values[i]) - half))
    if middle == largest[number] or errors[middle] <= 0:
        return None
    return divergence((*largest[:number], middle, *largest[number + 1 :])) / errors[middle]
