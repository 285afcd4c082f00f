"""Surrogate: an additive model of the reward over the closed form's error tables, fitted to the trials so far.

    loss(x) = c + sum_i w_i f_i(x_i) + sum_i b_i sqrt(f_i(x_i) f_{i+1}(x_{i+1})),     f = min(e, 10)
    w_i = s + d_i,   d_i ~ N(0, (tau s)^2),   b_i ~ N(0, (tau s / 2)^2);    next = argmin over the budget of a sample

e: the errors that a closed-form planner measured of each choice's values (pipeline/planners/output_error.py), from 0 at
the dense value; without them (1 - u)^2 / u for the value's place u. On a ResNet-20 at a third of its MACs Kendall's tau
of the fitted loss with the rewards of plans that it had not seen was 0.78 from 24 trials (sqrt(e): 0.65, log(1 + e):
0.76; 0.70 of the plain sum). The closed form weighs all layers alike; this model
starts there (one common slope ``s``) and learns from rewards which layers count more, and which neighbors do harm
together. Two of three proposals are near the best plan so far: of some neighbors the one of the least loss under
weights drawn from the posterior (Thompson 1933), so that several open proposals differ, and what is uncertain is tried.
Every third is the plan of the least loss of all under the posterior's mean, which the solver of the closed form finds
(core/least_error.py); so are those before the model is fitted, with drawn weights, and those where cheaper plans may be
better. tau and the noise are those of the highest marginal likelihood on a small grid (MacKay 1992). The combination is
ours. What neighbors add, and the model's choice among them, is measured in benchmarks/results/curves.txt.

Use it with a prior and few evaluations, from 10 to 100. It breaks where the loss is far from additive in the tables,
and where rewards differ by noise alone: it then walks at random around the best plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lightning_compress.core.budget import Budget
from lightning_compress.core.least_error import least_error
from lightning_compress.search.budget_repair import spend
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.searcher import Searcher, at_least, whole
from lightning_compress.search.trial import Trial

Floats = NDArray[np.float64]
Point = tuple[int, ...]

SPREADS = (0.1, 0.3, 1.0, 3.0)  # of tau
NOISES = (0.03, 0.1, 0.3, 1.0)  # standard deviations of the noise, in that of the rewards
NEIGHBORS = 32  # of the best plan, of which the model chooses one
FAR = 0.3  # of the values of a choice: the largest step down to a neighbor
REDRAWS = 6  # of a proposal that was made before; each is drawn wider
EXPLOITED = 3  # every so many proposals are the best of all by the posterior's mean
MOST = 10.0  # an error is no larger: there is ten times more noise than signal
LOOSE = 0.5  # smallest share of what can be spent that is tried, where the objective weighs the cost


@dataclass(frozen=True)
class _Weights:
    """One draw of the model: weights of choices, shape ``(n,)``, and of neighbors, ``(n - 1,)``."""

    own: Floats
    pairs: Floats

    def loss(self, point: Point, tables: Sequence[Floats]) -> float:
        """Return the loss of a point, without the constant."""
        f = np.array([table[index] for table, index in zip(tables, point, strict=True)])
        return float(self.own @ f + self.pairs @ np.sqrt(f[:-1] * f[1:]))


@final
class Surrogate(Searcher):
    """Thompson sampling of an additive model.

    Args:
        warmup: trials at weights drawn around the closed form's, before the model is fitted.
        spread: standard deviation of the logarithm of these weights.

    Raises:
        CompressError: warmup is below 1, or the spread below 0.
    """

    def __init__(self, problem: Problem, seed: int, objective: Objective, warmup: int = 4, spread: float = 0.5) -> None:
        super().__init__(problem, seed, objective)
        whole(1, "Surrogate", warmup=warmup)
        at_least(0, "Surrogate", spread=spread)
        self.warmup, self.spread = warmup, spread
        self.tables = _tables(problem)
        self.heard: dict[Point, float] = {}
        self._asked: set[Point] = set()

    @override
    def propose(self, number: int) -> Point:
        point = self.problem.start if number == 0 else self._drawn(number)
        self._asked.add(point)
        return point

    @override
    def learn(self, trial: Trial, reward: float | None) -> None:
        if reward is not None:
            self.heard[trial.indices] = reward

    def _drawn(self, number: int) -> Point:
        """Return a plan of little loss under drawn weights, a new one if a few draws find one."""
        rng = np.random.default_rng([self.seed, number])
        fit = _Fit.of(self.heard, self.tables) if len(self.heard) >= self.warmup else None
        if fit is not None and self.spends:
            found = self._fitted(fit, number, rng)
            if found is not None:
                return found
        wider, budget, point = float(number % EXPLOITED != 0), self._budget(rng), self.problem.start
        for attempt in range(REDRAWS):
            width = wider + attempt
            point = self._least(self._first_weights(width, rng) if fit is None else fit.draw(width, rng), budget)
            if point not in self._asked:
                return point
        return next(iter(self._neighbors(rng)), point)

    def _fitted(self, fit: _Fit, number: int, rng: np.random.Generator) -> Point | None:
        """Return the new plan of the least loss, of all or of neighbors of the best plan; None if none is new."""
        if number % EXPLOITED == 0:
            point = self._least(fit.draw(0.0, rng), self.problem.budget)
            if point not in self._asked:
                return point
        weights = fit.draw(1.0, rng)
        return min(self._neighbors(rng), key=lambda point: weights.loss(point, self.tables), default=None)

    def _first_weights(self, wider: float, rng: np.random.Generator) -> _Weights:
        n = len(self.tables)
        return _Weights(np.exp(wider * self.spread * rng.standard_normal(n)), np.zeros(max(n - 1, 0)))

    def _budget(self, rng: np.random.Generator) -> Budget:
        """Return the budget; a tighter one where cheaper plans may have a higher reward."""
        whole, space = self.problem.budget, self.problem.space
        if self.spends:
            return whole
        least, most = (whole.cost(space.plan(point)) for point in (space.smallest, space.largest))
        most = min(most, whole.limit)
        return replace(whole, limit=least + rng.uniform(LOOSE, 1.0) * (most - least))

    def _least(self, weights: _Weights, budget: Budget) -> Point:
        """Return the point of the least loss: first without neighbors, then with the neighbors found there."""
        if not self.tables:
            return ()
        own = [w * table for w, table in zip(weights.own, self.tables, strict=True)]
        point = least_error([t.tolist() for t in own], budget)
        if weights.pairs.any():
            roots = [np.sqrt(table) for table in self.tables]
            for i, b in enumerate(weights.pairs):
                own[i] = own[i] + b * roots[i] * roots[i + 1][point[i + 1]]
                own[i + 1] = own[i + 1] + b * roots[i + 1] * roots[i][point[i]]
            point = least_error([t.tolist() for t in own], budget)
        return point

    def _neighbors(self, rng: np.random.Generator) -> list[Point]:
        """Return new points near the best one so far."""
        best = max(self.heard, key=lambda found: (self.heard[found], found), default=self.problem.start)
        found = dict.fromkeys(self._moved(best, rng) for _ in range(NEIGHBORS))
        return [point for point in found if point not in self._asked]

    def _moved(self, point: Point, rng: np.random.Generator) -> Point:
        """Return a point with one or two choices lowered, and what that frees given to a third and then to all."""
        moved = list(point)
        for i in rng.permutation([i for i, index in enumerate(point) if index])[: int(rng.integers(1, 3))]:
            farthest = max(round(FAR * len(self.tables[i])), 1)
            moved[i] = max(moved[i] - int(rng.integers(1, farthest + 1)), 0)
        if not self.spends:
            return tuple(moved)
        budget, top = self.problem.budget, self.problem.space.largest
        able = [i for i in range(len(point)) if moved[i] == point[i] < top[i]]
        if able:
            i = int(rng.choice(able))
            moved[i] = budget.moving(moved).clip(i, top[i])
        return spend(budget, moved, rng)


def _tables(problem: Problem) -> list[Floats]:
    """Return ``f`` of each choice's values: 0 at the largest, never falling towards the smallest."""
    found = []
    for i, choice in enumerate(problem.space.choices):
        if problem.errors is None:
            u = (np.arange(len(choice.values)) + 1) / len(choice.values)
            errors = (1 - u) ** 2 / u
        else:
            errors = np.asarray(problem.errors[i], dtype=np.float64)
        table = np.clip(errors, 0.0, MOST)
        table = np.maximum.accumulate(table[::-1])[::-1]
        found.append(table - table[-1])
    return found


@dataclass(frozen=True)
class _Fit:
    """Posterior of ``(c, s, d, b)``, Gaussian.

    Attributes:
        mean: shape ``(2 + n + n - 1,)``.
        root: of the covariance: ``root @ root.T``.
        choices: n.
    """

    mean: Floats
    root: Floats
    choices: int

    @classmethod
    def of(cls, heard: dict[Point, float], tables: Sequence[Floats]) -> _Fit:
        """Fit the model; tau and the noise by the marginal likelihood."""
        points = sorted(heard)  # the order of telling does not matter
        y = -np.array([heard[point] for point in points])
        f = np.array([[table[i] for table, i in zip(tables, point, strict=True)] for point in points])
        f = f.reshape(len(points), len(tables))
        roots = np.sqrt(f)
        design = np.column_stack([np.ones(len(points)), f.sum(1), f, roots[:, :-1] * roots[:, 1:]])
        scale = max(float(y.std()), 1e-6)
        slope = scale / max(float(f.sum(1).std()), 1e-6)
        best, found = -np.inf, None
        for spread in SPREADS:
            deviations = np.concatenate(
                [
                    [10 * scale, slope],
                    np.full(len(tables), spread * slope),
                    np.full(max(len(tables) - 1, 0), spread * slope / 2),
                ]
            )
            start = np.zeros(len(deviations))
            start[:2] = y.mean() - slope * f.sum(1).mean(), slope
            for noise in NOISES:
                covariance = (design * deviations**2) @ design.T + (noise * scale) ** 2 * np.eye(len(points))
                factor = np.linalg.cholesky(covariance)
                rest = np.linalg.solve(factor, y - design @ start)
                likelihood = -0.5 * float(rest @ rest) - float(np.log(factor.diagonal()).sum())
                if likelihood > best:
                    best, found = likelihood, (deviations, start, factor, rest)
        assert found is not None
        deviations, start, factor, rest = found
        gain = np.linalg.solve(factor, design * deviations**2)
        covariance = np.diag(deviations**2) - gain.T @ gain
        values, vectors = np.linalg.eigh(covariance)
        return cls(start + gain.T @ rest, vectors * np.sqrt(values.clip(0)), len(tables))

    def draw(self, wider: float, rng: np.random.Generator) -> _Weights:
        """Return weights from the posterior, ``wider`` times as wide; none below a tenth of the common slope's mean."""
        drawn = self.mean + wider * (self.root @ rng.standard_normal(len(self.mean)))
        n = self.choices
        least = 0.1 * abs(float(self.mean[1])) + 1e-12
        own = np.maximum(drawn[1] + drawn[2 : 2 + n], least)
        return _Weights(own, np.maximum(drawn[2 + n :], -least))
