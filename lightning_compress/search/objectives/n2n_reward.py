"""The reward of N2N: accuracy and compression, multiplied.

    R = C (2 - C) acc / acc0,     C = 1 - cost / cost0
    outside a limit:  R = (e - 1) + e C (2 - C) acc / acc0,     e = clip((1 - t / anneal)^4, 0, 1)

Source: N2N learning (arXiv 1709.06030); the form of the limits from the authors' code, where t counts updates of 5
rollouts up to 15, the cost is the number of parameters, and a network no smaller than the first one gets -1. As there,
cost0 is that of the network that this search starts from, not of the first teacher. Reconstructions: t counts trials,
and any cost of the score can be taken.

C (2 - C) is .75 at half the cost and .99 at a tenth, so the reward asks for compression first and for accuracy later.
Use it with a loose budget; under a tight one every plan compresses equally, and the accuracy alone tells more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError
from lightning_compress.core.whole_numbers import check_whole
from lightning_compress.search.objectives.objective import Objective, before, name_of, pick, words
from lightning_compress.search.trial import Score


@final
@dataclass(frozen=True)
class N2NReward(Objective):
    """Accuracy times compression, within limits that are enforced little by little.

    Args:
        metric: name in the score.
        cost: a cost, or the name of one.
        acc0: accuracy of the network before the search; None takes it from the score. It only scales the reward.
        cost0: cost of the network before the search; None takes it from the score.
        least_accuracy, most_cost: limits, in the units of metric and cost; None sets none.
        anneal: trials until a plan outside a limit gets -1, whatever else it is; 0: from the first.

    Raises:
        CompressError: ``acc0``, ``cost0`` or the accuracy of the network before the search is not above 0.
    """

    kind: ClassVar[str] = "n2n_reward"

    metric: str = "val_acc"
    cost: Cost | str = "parameters"
    acc0: float | None = None
    cost0: float | None = None
    least_accuracy: float | None = None
    most_cost: float | None = None
    anneal: int = 75

    def __post_init__(self) -> None:
        for name, value in (("acc0", self.acc0), ("cost0", self.cost0)):
            if value is not None and not value > 0:
                raise CompressError(f"N2NReward: {name} must be above 0, or null to take what is measured; got {value}")
        check_whole("N2NReward: anneal", self.anneal, 0)

    @property
    @override
    def costs(self) -> tuple[Cost | str, ...]:
        return (self.cost,)

    @property
    @override
    def meaning(self) -> str:
        return (
            f"C (2 - C) times the {words(self.metric)} as a share of what it was before the search, where C is the "
            f"saved share of {words(name_of(self.cost))}"
        )

    def __call__(self, score: Score) -> float:
        """Return the reward at the end of the annealing, which ranks trials of a whole search."""
        return self.during(score, self.anneal)

    def during(self, score: Score, number: int) -> float:
        """Return the reward at trial ``number``."""
        accuracy, cost = pick(score.metrics, self.metric), pick(score.costs, name_of(self.cost))
        compression = 1 - cost / (before(score, name_of(self.cost), "cost0") if self.cost0 is None else self.cost0)
        if compression <= 0:
            return -1.0
        acc0 = before(score, self.metric, "acc0") if self.acc0 is None else self.acc0
        if not acc0 > 0:
            raise CompressError(f"N2NReward: {self.metric!r} of the network before the search is {acc0}; give acc0")
        reward = compression * (2 - compression) * accuracy / acc0
        if not self._outside(accuracy, cost):
            return reward
        still = max(1 - number / self.anneal, 0.0) ** 4 if self.anneal else 0.0
        return (still - 1) + still * reward

    def _outside(self, accuracy: float, cost: float) -> bool:
        too_dear = self.most_cost is not None and cost > self.most_cost
        return too_dear or (self.least_accuracy is not None and accuracy < self.least_accuracy)
