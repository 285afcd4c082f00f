"""Rank correlation (Kendall's tau) of a search's rewards with those after fine-tuning.

    tau_b = (concordant - discordant pairs) / sqrt((pairs not tied in one)(pairs not tied in the other))
    sigma_n = sqrt(2 (2 n + 5) / (9 n (n - 1)))

Source: Kendall 1938, with ties 1945; EagleEye (arXiv 2007.02491, section 3.2) compares low-fidelity scores by it. 1:
the low-fidelity score ranks as the high-fidelity one does; 0: no better than chance. ``sigma_n`` is the standard
deviation of tau of n plans with unrelated rewards: 0.25 for ten. Taking the plans evenly from the worst reward to the
best is ours: it says how well the search tells good plans from bad ones, and little of those near the best. Use it
before trusting a search that scores without fine-tuning. It costs ``plans`` short trainings; few plans, or too few
steps, make tau mean little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import final

import numpy as np
from scipy.stats import kendalltau

from lightning_compress.core.errors import CompressError
from lightning_compress.core.space import Space
from lightning_compress.core.whole_numbers import check_whole
from lightning_compress.search.executors.executor import Evaluate, Executor
from lightning_compress.search.executors.serial import Serial
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.second_scores import score_again

CORRELATION = "correlation.sqlite"  # journal of the second scores, beside that of the search


def rank_correlation(low_fidelity: Sequence[float], high_fidelity: Sequence[float]) -> float:
    """Return Kendall's tau-b.

    Args:
        low_fidelity: low-fidelity rewards.
        high_fidelity: high-fidelity rewards of the same plans, in the same order.

    Raises:
        CompressError: there are fewer than two plans, or all have the same reward, so there is nothing to rank.
    """
    if len(low_fidelity) != len(high_fidelity) or len(low_fidelity) < 2:
        raise CompressError(
            f"rank correlation: needs two rewards each of at least two plans, got {len(low_fidelity)} and "
            f"{len(high_fidelity)}"
        )
    if len(set(low_fidelity)) == 1 or len(set(high_fidelity)) == 1:
        raise CompressError("rank correlation: all plans have the same reward; score them on more images, or by loss")
    return float(kendalltau(low_fidelity, high_fidelity).statistic)


def deviation_of_unrelated(count: int) -> float:
    """Return standard deviation of tau of ``count`` plans, two or more, whose two rewards are unrelated."""
    return sqrt(2 * (2 * count + 5) / (9 * count * (count - 1)))


def spread(entries: Sequence[Entry], objective: Objective, count: int) -> list[Entry]:
    """Return trials of a finished search, different networks, evenly from the lowest reward to the highest.

    Returns:
        ``count`` of them, or all when fewer networks were scored.
    """
    different = {entry.key: (objective(entry.score), entry) for entry in reversed(entries) if entry.score is not None}
    ranked = [entry for _, entry in sorted(different.values(), key=lambda scored: (scored[0], scored[1].number))]
    return [ranked[i] for i in np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)]


def pairs(entries: Iterable[Entry], again: Iterable[Entry], objective: Objective) -> list[tuple[float, float]]:
    """Return the two rewards of each trial that has a score in both, of the same network."""
    first = {(entry.number, entry.key): objective(entry.score) for entry in entries if entry.score is not None}
    return [
        (first[entry.number, entry.key], objective(entry.score))
        for entry in again
        if entry.score is not None and (entry.number, entry.key) in first
    ]


@final
@dataclass(frozen=True)
class Correlation:
    """Choice of the plans of a finished search that are scored again.

    Args:
        plans: how many, 2 or more.
        finetune_steps: optimizer steps before that score, more than in the search.

    Raises:
        CompressError: there are fewer than two plans, or a number is not whole.
    """

    plans: int = 8
    finetune_steps: int = 200

    def __post_init__(self) -> None:
        check_whole("correlation: plans", self.plans, 2)
        check_whole("correlation: finetune_steps", self.finetune_steps, 0)

    def score(
        self,
        entries: Sequence[Entry],
        space: Space,
        objective: Objective,
        high_fidelity: Evaluate,
        journal: Journal,
        executor: Callable[[Evaluate], Executor] = Serial,
    ) -> list[int]:
        """Score plans again; what the journal has already, of the same network, is not scored another time.

        Args:
            entries: of the search.
            space: that was searched.
            objective: score -> reward.
            high_fidelity: the evaluator with :attr:`finetune_steps`.
            journal: of these scores, under the numbers that the trials have in the search.
            executor: ``(evaluate) -> Executor``: where plans are scored.

        Returns:
            The numbers of the trials, from the lowest reward in the search to the highest.
        """
        chosen = spread(entries, objective, self.plans)
        score_again(chosen, space, objective, high_fidelity, journal, executor, title="Correlation")
        return [entry.number for entry in chosen]
