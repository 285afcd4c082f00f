"""Objectives: score -> reward. The two forms of AMC (arXiv 1802.03494, section 3.4), and one without an accuracy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import ClassVar, final

from typing_extensions import override

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.kinds import HasKind
from lightning_compress.search.trial import Score


class Objective(HasKind, ABC):
    """The one number that a searcher maximizes.

    Attributes:
        weighs_cost: whether of two plans of equal accuracy the cheaper has the higher reward. Where it has not, nothing
            speaks for leaving some of a budget.
    """

    weighs_cost: ClassVar[bool] = True

    @property
    def costs(self) -> tuple[Cost | str, ...]:
        """The costs that it needs of a score, or their names."""
        return ()

    @property
    def meaning(self) -> str:
        """What the reward is, in words that follow "The reward is": for reports."""
        return f"what {type(self).__name__} computes"

    @abstractmethod
    def __call__(self, score: Score) -> float:
        """Return the reward of a score."""

    def during(self, score: Score, number: int) -> float:
        """Return the reward to learn from at trial ``number``; an objective may tighten along a search."""
        return self(score)


@final
@dataclass(frozen=True)
class AccuracyUnderBudget(Objective):
    """The metric, since the budget is met by every plan anyway, less a little of the loss: ``R = acc - weight loss``.

    AMC's reward is the accuracy alone (weight 0). On a validation set of a few hundred images many plans have the same
    accuracy, and the loss tells them apart; that part is ours.
    """

    weighs_cost: ClassVar[bool] = False

    metric: str = "val_acc"
    loss: str = "val_loss"
    weight: float = 0.1

    @property
    @override
    def meaning(self) -> str:
        if not self.weight:
            return f"the {words(self.metric)}"
        return f"the {words(self.metric)}, less {self.weight:g} times the {words(self.loss)}"

    @override
    def __call__(self, score: Score) -> float:
        return pick(score.metrics, self.metric) - (self.weight * pick(score.metrics, self.loss) if self.weight else 0.0)


@final
@dataclass(frozen=True)
class LossUnderBudget(Objective):
    """A metric that is better when it is smaller: ``R = -loss``, for regressions and others without an accuracy. Ours.

    Searchers whose settings are in points of accuracy, such as GeneCAI's ``tolerance``, need them in units of the loss.
    """

    weighs_cost: ClassVar[bool] = False

    metric: str = "val_loss"

    @property
    @override
    def meaning(self) -> str:
        return f"the {words(self.metric)}, negated so that more is better"

    @override
    def __call__(self, score: Score) -> float:
        return -pick(score.metrics, self.metric)


@final
@dataclass(frozen=True)
class AccuracyLogCost(Objective):
    """Accuracy first, then cost: ``R = -(1 - acc) ln(cost)``, for a search with a loose budget.

    Args:
        metric: name in the score.
        cost: a cost, or the name of one.
    """

    metric: str = "val_acc"
    cost: Cost | str = "macs"

    @property
    @override
    def costs(self) -> tuple[Cost | str, ...]:
        return (self.cost,)

    @property
    @override
    def meaning(self) -> str:
        return f"the share of errors in validation times the logarithm of {words(name_of(self.cost))}, negated"

    @override
    def __call__(self, score: Score) -> float:
        return -(1 - pick(score.metrics, self.metric)) * log(max(pick(score.costs, name_of(self.cost)), 1.0))


def name_of(cost: Cost | str) -> str:
    """Return the name under which scores have a cost."""
    return cost if isinstance(cost, str) else cost.name


def words(name: str) -> str:
    """Return a name in a score as people say it.

    >>> words("val_acc"), words("val_loss"), words("weight_bits")
    ('validation accuracy', 'validation loss', 'weight bits')
    """
    kind, _, rest = name.partition("_")
    if kind == "val" and rest:
        name = f"validation {'accuracy' if rest == 'acc' else rest}"
    return name.replace("_", " ")


def pick(values: Mapping[str, float], name: str) -> float:
    """Return ``values[name]``.

    Raises:
        CompressError: there is no such value.
    """
    if name not in values:
        raise CompressError(
            f"objective: the score has no {name!r}{did_you_mean(name, values)}; it has {sorted(values)}"
        )
    return values[name]


def before(score: Score, name: str, setting: str) -> float:
    """Return what a score says of the network before the search.

    Args:
        score: of any candidate of the search.
        name: of a metric or cost.
        setting: of the objective, that takes its place.

    Raises:
        CompressError: it says nothing of that metric or cost.
    """
    if name not in score.before:
        raise CompressError(
            f"objective: of the network before the search the score has no {name!r}{did_you_mean(name, score.before)}; "
            f"it has {sorted(score.before)}. Give it as {setting}"
        )
    return score.before[name]
