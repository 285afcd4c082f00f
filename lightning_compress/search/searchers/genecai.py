"""GeneCAI: a genetic algorithm over all layers at once that starts where each layer alone is known to be harmless.

    boundaries -> directed population -> { roulette -> crossover -> mutation } per generation

Source: Javaheripi et al. 2020 (arXiv 2004.04249); operators and constants from the authors' released code,
docs/papers.md (the paper's text was not available). Its score is ``GeneCAIScore``; any other objective will do. Ours
are: fitting to the budget (where it excludes the uncompressed point, the largest uniform plan takes its place, and what
a plan leaves of it is spent, unless the objective weighs the cost), ranks for the roulette, the elite, a copy of a
known plan that joins its generation without another trial, neighbors of a closed-form planner's plan, where there is
one, as first individuals, and generations that need not wait: a child is bred from the last full generation, and counts
in the one that is open when its reward is heard. Not kept of the released code: parents changed in place, mutation
across boundaries, the loop of the rejection sampling without an end.

Use it from some 100 trials on (the paper: 2550), or where several trials run at a time. It breaks down when the reward
of a single layer's change is below the noise of validation: the boundaries then mean nothing; set ``probes`` to 0.
"""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from typing_extensions import override

from lightning_compress.search.genetic.bisection import Bisections
from lightning_compress.search.genetic.operators import Gene, Genome, crossover, directed, gene, mutate, roulette
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.searcher import Searcher, at_least, shares, whole
from lightning_compress.search.trial import Trial

NEIGHBORHOOD = 0.25  # share of the genes that a first individual around a prior has mutated
REDRAWS = 30  # children that may turn out to be known plans before one is tried again: a small space has no others


@final
class GeneCAI(Searcher):
    """Genetic search.

    Args:
        population: individuals of a generation (paper 50).
        elite: best individuals that live on (paper 0).
        p_cross, p_swap: of a pair to cross, and then of each gene to be swapped.
        p_mutate, p_tweak: of a child to mutate, and then of each of its genes.
        sigma: width of a ratio's mutation as a share of its range.
        probes: trials per choice for its boundary, at most; those first whose removal saves most.
        most_probes: trials for all boundaries, at most.
        tolerance: loss of reward up to which a choice alone counts as harmless (paper: one point of accuracy).
        drop: first individuals whose reward is further below the start's are drawn again ...
        tries: ... up to this many draws per place in the population.

    Raises:
        CompressError: the population is empty, or another setting cannot be.
    """

    kind: ClassVar[str] = "genecai"

    def __init__(
        self,
        problem: Problem,
        seed: int,
        objective: Objective,
        population: int = 10,
        elite: int = 2,
        p_cross: float = 0.2,
        p_swap: float = 0.2,
        p_mutate: float = 0.8,
        p_tweak: float = 0.05,
        sigma: float = 0.2,
        probes: int = 2,
        most_probes: int = 30,
        tolerance: float = 0.01,
        drop: float = 0.1,
        tries: int = 2,
    ) -> None:
        super().__init__(problem, seed, objective)
        whole(1, "GeneCAI", population=population)
        whole(0, "GeneCAI", elite=elite, probes=probes, most_probes=most_probes)
        at_least(0, "GeneCAI", sigma=sigma, tries=tries)
        shares("GeneCAI", p_cross=p_cross, p_swap=p_swap, p_mutate=p_mutate, p_tweak=p_tweak)
        self.population, self.elite, self.drop, self.tries = population, min(elite, population - 1), drop, tries
        self.p_cross, self.p_swap, self.p_mutate, self.p_tweak = p_cross, p_swap, p_mutate, p_tweak
        self.sigma = sigma
        budget = problem.budget
        self.start = problem.start
        without = ((*self.start[:i], 0, *self.start[i + 1 :]) for i in range(len(self.start)))
        left = [budget.cost(problem.space.plan(point)) for point in without]
        order = sorted(range(len(left)), key=lambda i: left[i])
        # Errors of single layers are what probes would measure.
        self.boundary = Bisections(self.start, order, 0 if problem.errors else probes, most_probes, tolerance)
        self.known: dict[Genome, float] = {}
        self.parents: list[Genome] = []  # best first; empty before the first generation
        self.children: dict[Genome, float] = {}
        self.drawn = self.accepted = 0
        self._asked: set[Genome] = set()
        self._probing: dict[int, int] = {}

    @override
    def propose(self, number: int) -> tuple[int, ...]:
        point = self._next(number)
        self._asked.add(point)
        return point

    def _next(self, number: int) -> Genome:
        if number == 0:
            return self.start
        probe = self.boundary.ask()
        if probe is not None:
            self._probing[number], point = probe
            return point
        rng = np.random.default_rng([self.seed, number])
        if self.parents:
            return self._bred(rng)
        if self.problem.prior is not None:
            return self.fitted(mutate(self.start, self._genes(), 1.0, NEIGHBORHOOD, rng), rng)
        return self.fitted(directed(self.start, self._genes(), rng), rng)

    @override
    def learn(self, trial: Trial, reward: float | None) -> None:
        if reward is not None:
            self.known[trial.indices] = reward
        if trial.number == 0:
            self.boundary.reference = reward
        elif trial.number in self._probing:
            self.boundary.tell(self._probing.pop(trial.number), reward)
        elif self.parents:
            self._join(trial.indices, reward)
        else:
            self._found(reward)

    def _genes(self) -> list[Gene]:
        low = self.boundary.lowest
        return [gene(choice, low[i], self.sigma) for i, choice in enumerate(self.problem.space.choices)]

    def _found(self, reward: float | None) -> None:
        """Count a first individual; once there are enough, the best known ones become the first generation."""
        reference = self.boundary.reference
        self.drawn += 1
        self.accepted += reward is not None and (reference is None or reward >= reference - self.drop)
        if self.known and (self.accepted >= self.population or self.drawn >= self.tries * self.population):
            self.parents = ranked(self.known)[: self.population]

    def _bred(self, rng: np.random.Generator) -> Genome:
        """Breed a child that is a new plan; copies of known plans join the generation with the known reward."""
        genes = self._genes()
        child = self.parents[0]
        for _ in range(REDRAWS):
            one, other = (self.parents[rank] for rank in roulette(len(self.parents), 2, rng))
            child = crossover(one, other, self.p_cross, self.p_swap, rng)
            child = mutate(child, genes, self.p_mutate, self.p_tweak, rng)
            child = child if child in self.known else self.fitted(child, rng)
            if child in self.known:
                self._join(child, self.known[child])
            elif child not in self._asked:
                return child
        return child

    def _join(self, child: Genome, reward: float | None) -> None:
        if reward is not None:
            self.children[child] = reward
        if len(self.children) >= self.population - self.elite:
            best = {genome: self.known[genome] for genome in self.parents[: self.elite]}
            self.parents, self.children = ranked({**best, **self.children}), {}


def ranked(rewards: dict[Genome, float]) -> list[Genome]:
    """Return genomes, best first; ties by value, so that the order of telling does not matter."""
    return sorted(rewards, key=lambda genome: (-rewards[genome], genome))
