"""NSGA-II: evolves a whole front of plans between cheap and accurate, rather than one plan.

    minimize (-reward, cost / cost of the uncompressed point);  survival by non-dominated rank, then by crowding

Source: Deb et al. 2002 (IEEE TEC 6(2)); the algorithm is pymoo's, driven by its ask and tell. The genome is one index
per choice; rounding and fitting to the budget are a ``Repair``. The first population lies around the plan that the
search starts from (the prior of a closed-form planner, or the largest uniform plan), and below. Costs are computed, not
heard.

Use it when the trade-off itself is wanted: of the journal's trials ``pareto_front`` gives the result. It spends its
trials on the whole front, so for one budget a searcher of one objective is ahead at equal trials. A generation advances
when all of it was heard; asked for more before, it proposes mutated copies, which take part in the survival too.
"""

from __future__ import annotations

from typing import final

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2 as Algorithm
from pymoo.algorithms.moo.nsga2 import binary_tournament
from pymoo.core.duplicate import DefaultDuplicateElimination
from pymoo.core.mating import Mating
from pymoo.core.population import Population
from pymoo.core.problem import Problem as Variables
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.problems.static import StaticProblem
from typing_extensions import override

from lightning_compress.core.budget import Budget
from lightning_compress.search.budget_repair import scale, spend
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.searcher import Searcher, at_least, shares, whole
from lightning_compress.search.trial import Trial

FAILED = 1e9  # in both objectives: pymoo sorts no NaN and no infinity
MATINGS = 3  # rounds in search of children that are no copies: in a small space there may be none
Genome = tuple[int, ...]


@final
class NSGA2(Searcher):
    """Non-dominated sorting genetic algorithm.

    Args:
        population: individuals of a generation.
        crossover: probability that a pair is crossed (SBX, index ``eta_crossover``).
        eta_crossover, eta_mutation: the larger, the nearer are children to their parents.
        p_mutate: probability that a child is mutated (polynomial mutation, one gene on average).
        p_spend: probability that an individual spends what it leaves of a budget that binds: these search the front's
            expensive end, where the best plan within the budget lies.

    Raises:
        CompressError: the population is empty.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        objective: Objective,
        population: int = 10,
        crossover: float = 0.9,
        eta_crossover: float = 3.0,
        eta_mutation: float = 3.0,
        p_mutate: float = 0.9,
        p_spend: float = 0.5,
    ) -> None:
        super().__init__(problem, seed, objective)
        whole(2, "NSGA2", population=population)  # a tournament has two
        at_least(0, "NSGA2", eta_crossover=eta_crossover, eta_mutation=eta_mutation)
        shares("NSGA2", crossover=crossover, p_mutate=p_mutate, p_spend=p_spend)
        top = problem.space.largest
        self.dense = max(problem.budget.cost(problem.space.plan(top)), 1.0)
        repair = OnBudget(problem.budget, p_spend if self.binds else 0.0, problem.start)
        mating = Mating(
            TournamentSelection(func_comp=binary_tournament),
            SBX(prob=crossover, eta=eta_crossover),
            PM(prob=p_mutate, eta=eta_mutation),
            repair=repair,
            eliminate_duplicates=DefaultDuplicateElimination(),
            n_max_iterations=MATINGS,
        )
        first = self._first(population)
        self.algorithm = Algorithm(pop_size=population, sampling=first, mating=mating, repair=repair)
        variables = Variables(n_var=len(top), n_obj=2, xl=np.zeros(len(top)), xu=np.array(top, dtype=float))
        self.algorithm.setup(variables, termination=NoTermination(), seed=seed)
        self._waiting: list[Genome] = []  # of this generation, not yet proposed
        self._open: set[int] = set()  # numbers of the trials of this generation that were not heard
        self._heard: list[tuple[Genome, tuple[float, float]]] = []
        self._seen: list[Genome] = []

    @override
    def propose(self, number: int) -> tuple[int, ...]:
        if not len(self.problem.space):
            return ()
        if not self._waiting and not self._open:
            self._advance()
        if not self._waiting:
            return self._copy(number)
        self._open.add(number)
        self._seen.append(self._waiting.pop(0))
        return self._seen[-1]

    @override
    def learn(self, trial: Trial, reward: float | None) -> None:
        self._open.discard(trial.number)
        share = self.problem.budget.cost(trial.plan) / self.dense
        self._heard.append((trial.indices, (FAILED, FAILED) if reward is None else (-reward, share)))

    def _advance(self) -> None:
        """Tell the algorithm the generation that was heard, and ask it for the next."""
        if self._heard:
            heard = sorted(self._heard)  # in whatever order the trials came back
            told = Population.new(X=np.array([x for x, _ in heard]))
            known = StaticProblem(self.algorithm.problem, F=np.array([f for _, f in heard]))
            self.algorithm.evaluator.eval(known, told)
            self.algorithm.tell(infills=told)
            self._heard = []
        asked = self.algorithm.ask()
        self._waiting = [] if asked is None else [tuple(int(i) for i in x) for x in asked.get("X")]

    def _copy(self, number: int) -> Genome:
        """Return a known plan with some choices moved, while the generation is open or has nothing new."""
        rng = np.random.default_rng([self.seed, number])
        origin = np.array(self._seen[rng.integers(len(self._seen))])
        moved = origin + rng.integers(-1, 2, len(origin))
        return scale(self.problem.budget, np.clip(moved, 0, self.problem.space.largest).tolist())

    def _first(self, population: int) -> np.ndarray:
        """Return the plan to start from; others around it and, every second one, below; shape (population, choices)."""
        budget, rng = self.problem.budget, np.random.default_rng(self.seed)
        start = self.problem.start
        top = np.array(self.problem.space.largest)
        found = [start]
        for i in range(1, population):
            share = rng.random() if i % 2 else 1.0
            wanted = np.rint(np.array(start) * share + rng.normal(0, top / 8)) if len(top) else top
            point = scale(budget, np.clip(wanted, 0, top).astype(int).tolist())
            found.append(point)
        return np.array(found)


class OnBudget(Repair):
    """Rounds genes to indices and fits individuals to the budget.

    Args:
        budget: that they must meet.
        p_spend: probability that an individual spends what it leaves of the budget.
        start: which stays as it is, since its score may be known.
    """

    def __init__(self, budget: Budget, p_spend: float, start: Genome) -> None:
        super().__init__()
        self.budget, self.p_spend, self.start = budget, p_spend, start

    def _do(self, problem: Variables, X: np.ndarray, random_state: np.random.Generator, **_: object) -> np.ndarray:
        fitted = [scale(self.budget, row) for row in np.rint(X).astype(int).tolist()]
        spent = random_state.random(len(fitted)) < self.p_spend
        return np.array(
            [
                spend(self.budget, x, random_state) if s and x != self.start else x
                for x, s in zip(fitted, spent, strict=True)
            ]
        )
