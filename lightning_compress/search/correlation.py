"""How well a cheap score ranks plans: Kendall's tau of cheap against dear rewards of the same plans.

    tau_b = (concordant - discordant pairs) / sqrt((pairs not tied in one)(pairs not tied in the other))

Source: Kendall 1945; EagleEye (arXiv 2007.02491, section 3.2) compares cheap scores by it. 1: the cheap score ranks as
the dear one does; 0: no better than chance. With n plans that are unrelated, tau has a standard deviation of
``sqrt(2 (2 n + 5) / (9 n (n - 1)))``: 0.25 for ten. Use it before trusting a search that scores without fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import kendalltau

from lightning_compress.errors import CompressError
from lightning_compress.plan import Plan
from lightning_compress.search.executor import Evaluate
from lightning_compress.search.journal import Entry
from lightning_compress.search.objective import Objective
from lightning_compress.space import Space


def rank_correlation(cheap: Sequence[float], dear: Sequence[float]) -> float:
    """Kendall's tau-b.

    Args:
        cheap, dear: rewards of the same plans, in the same order.

    Raises:
        CompressError: there are fewer than two plans, or all have the same reward, so there is nothing to rank.
    """
    if len(cheap) != len(dear) or len(cheap) < 2:
        raise CompressError(
            f"rank correlation: needs two rewards each of at least two plans, got {len(cheap)} and {len(dear)}"
        )
    if len(set(cheap)) == 1 or len(set(dear)) == 1:
        raise CompressError("rank correlation: all plans have the same reward; score them on more images, or by loss")
    return float(kendalltau(cheap, dear).statistic)


def spread(entries: Sequence[Entry], objective: Objective, count: int) -> list[Entry]:
    """``count`` trials of a finished search, different networks, evenly from the lowest reward to the highest.

    Raises:
        CompressError: fewer than ``count`` different networks were scored.
    """
    different = {entry.key: entry for entry in reversed(entries) if entry.score is not None}
    ranked = sorted(different.values(), key=lambda entry: (objective(entry.score), entry.number))
    if count < 2 or count > len(ranked):
        raise CompressError(
            f"rank correlation: cannot take {count} plans of {len(ranked)} different networks that were scored; take "
            f"from 2 to {len(ranked)}, or search longer"
        )
    return [ranked[i] for i in np.linspace(0, len(ranked) - 1, count).round().astype(int)]


def of_search(
    entries: Sequence[Entry], space: Space, objective: Objective, dear: Evaluate, count: int = 10
) -> tuple[float, Mapping[Plan, tuple[float, float]]]:
    """The rank correlation between the scores of a finished search and dearer ones, such as after fine-tuning.

    Args:
        entries: of its journal.
        space: that was searched.
        objective: score -> reward.
        dear: the evaluator to compare with, such as one with more ``finetune_steps``.
        count: plans to evaluate with it.

    Returns:
        Tau, and plan -> (reward in the search, reward by ``dear``).

    Raises:
        CompressError: as :func:`spread` and :func:`rank_correlation`.
        TrialFailedError: a plan cannot be scored by ``dear``.
    """
    chosen = {space.plan(entry.indices): objective(entry.score) for entry in spread(entries, objective, count)}
    pairs = {plan: (cheap, objective(dear(plan))) for plan, cheap in chosen.items()}
    return rank_correlation(*zip(*pairs.values(), strict=True)), pairs
