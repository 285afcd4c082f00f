"""Greedy: move budget from the least to the most sensitive choice, one exchange at a time.

    g_i   = reward lost by one step down of choice i        (one trial per choice, around the current point)
    next  = the pair (i down until one step of j up fits) with the largest  g_j - steps_i g_i > 0
    heard = R:  g += (R - predicted) s / (s's),  s = steps of the exchange;  the point moves when R is the best so far

The textbook greedy walks down from the uncompressed network until the budget is met, so that all its trials but the
last break the budget. Every proposal of ours must meet it, so the walk starts at the prior of a closed-form planner or
the largest uniform plan instead, and what one choice gives up another takes: the same marginal rule, on the budget's
surface. This form is ours; the correction of the slopes is a projection onto what was heard (Kaczmarz 1937). When no
exchange promises a gain, slopes are measured again at the new point; when the point did not move either, random
exchanges follow.

Deterministic up to that point. Use it as a strong baseline with at least two trials per choice. It assumes that choices
act alone and stops in local optima; noise in the reward above one step's effect leads it astray.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import final

import numpy as np
from typing_extensions import override

from lightning_compress.search.budget_repair import spend
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.trial import Trial

Point = tuple[int, ...]


@dataclass(frozen=True)
class _Asked:
    """Purpose of a proposal: the point and reward it is compared with, and the choice whose slope it measures."""

    origin: Point
    reward: float
    probed: int | None = None
    predicted: float | None = None


@final
class Greedy(Searcher):
    """Greedy exchange of budget between choices; no settings."""

    def __init__(self, problem: Problem, seed: int, objective: Objective) -> None:
        super().__init__(problem, seed, objective)
        self.point: Point = problem.start
        self.reward = -inf  # of the point
        self.slopes: dict[int, float] = {}  # reward lost per step down
        self.probed: Point | None = None  # where the slopes were measured
        self._probes: list[int] = []
        self._asked: dict[int, _Asked] = {}
        self._tried: set[Point] = set()

    @override
    def propose(self, number: int) -> tuple[int, ...]:
        if number == 0:
            return self._ask(number, self.point)
        if self.reward > -inf:
            found = self._probe(number) or self._exchange(number)
            if found is not None:
                return found
        return self._ask(number, self._shuffled(number))

    @override
    def learn(self, trial: Trial, reward: float | None) -> None:
        asked = self._asked.pop(trial.number)
        if reward is None:
            return
        steps = np.subtract(trial.indices, asked.origin)
        if asked.probed is not None:
            self.slopes[asked.probed] = asked.reward - reward
        elif asked.predicted is not None:
            correction = (reward - asked.predicted) / max(float(steps @ steps), 1.0)
            for i in np.flatnonzero(steps):
                self.slopes[int(i)] = self.slopes.get(int(i), 0.0) + correction * float(steps[i])
        if reward > self.reward:
            self.point, self.reward = trial.indices, reward

    def _ask(self, number: int, point: Point, probed: int | None = None, predicted: float | None = None) -> Point:
        self._asked[number] = _Asked(self.point, self.reward, probed, predicted)
        self._tried.add(point)
        return point

    def _probe(self, number: int) -> Point | None:
        """Return the next choice to lower by one step, around the point at which this round of probes began."""
        # The origin is that of the round, not of a better point found during it.
        origin = self._begin() if self.probed is None else self.probed
        while self._probes:
            i = self._probes.pop(0)
            lowered = self._moved(origin, i, -1)
            self._asked[number] = _Asked(origin, self._base, i)
            self._tried.add(lowered)
            return lowered
        return None

    def _begin(self) -> Point:
        self.probed, self._base = self.point, self.reward
        self._probes = [i for i, index in enumerate(self.point) if index > 0]
        return self.probed

    def _exchange(self, number: int) -> Point | None:
        """Return the exchange with the largest predicted gain; None if there is none, or slopes are still open."""
        if any(asked.probed is not None for asked in self._asked.values()):
            return None
        for gain, giver, taker in sorted(self._pairs(), key=lambda pair: (-pair[0], pair[1:])):
            point = self._given(giver, taker) if gain > 0 else None
            if point is None or point in self._tried:
                continue
            steps = np.subtract(point, self.point)
            predicted = self.reward + sum(self.slopes.get(i, 0.0) * float(s) for i, s in enumerate(steps))
            if predicted > self.reward:
                return self._ask(number, point, predicted=predicted)
        if self.point != self.probed:
            self._begin()
            return self._probe(number)
        return None

    def _pairs(self) -> list[tuple[float, int, int]]:
        """Return (predicted gain, giver, taker) of all exchanges; -1 is the rest of the budget, or nobody."""
        cost, space = self.problem.budget.cost, self.problem.space
        here, top = cost(space.plan(self.point)), space.largest
        down = {i: here - cost(space.plan(self._moved(self.point, i, -1))) for i in self.slopes if self.point[i] > 0}
        up = {i: cost(space.plan(self._moved(self.point, i, 1))) - here for i in self.slopes if self.point[i] < top[i]}
        rest = self.problem.budget.limit - here
        pairs = [(-self.slopes[i], i, -1) for i in down] + [(self.slopes[j], -1, j) for j in up if up[j] <= rest]
        for j, price in up.items():
            for i, saved in down.items():
                if i != j and saved > 0:
                    steps = max(ceil((price - rest) / saved), 1)
                    pairs.append((self.slopes[j] - steps * self.slopes[i], i, j))
        return pairs

    def _given(self, giver: int, taker: int) -> Point | None:
        """Return the point after the exchange; None when the giver has too little."""
        point = self.point if taker < 0 else self._moved(self.point, taker, 1)
        if giver >= 0:
            point = self._moved(point, giver, -1)
        while not self.problem.budget.meets(self.problem.space.plan(point)):
            if giver < 0 or point[giver] == 0:
                return None
            point = self._moved(point, giver, -1)
        return point

    def _shuffled(self, number: int) -> Point:
        """Return two random choices a step down, and their share spent in a random order."""
        rng = np.random.default_rng([self.seed, number])
        point = self.point
        for i in rng.permutation(len(point))[:2]:
            point = self._moved(point, int(i), -1) if point[i] > 0 else point
        return spend(self.problem.budget, point, rng)

    @staticmethod
    def _moved(point: Point, i: int, steps: int) -> Point:
        return (*point[:i], point[i] + steps, *point[i + 1 :])
