"""The settings of a search, which its planner and its run read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.context import check_least
from lightning_compress.pipeline.planners.budgeted import BudgetedPlanner
from lightning_compress.pipeline.planners.scoring import ScoringPlanner
from lightning_compress.pipeline.warm_start import start_name, start_of, start_path
from lightning_compress.search.correlation import Correlation
from lightning_compress.search.executors.executor import Evaluate, Executor, check_workers
from lightning_compress.search.executors.serial import Serial
from lightning_compress.search.final_choice import FinalChoice
from lightning_compress.search.halving import Halving
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.testing import problems


@dataclass(frozen=True, kw_only=True)
class SearchSettings(ScoringPlanner):
    """Settings of a search.

    Attributes:
        searcher: ``(problem, seed, objective) -> Searcher``.
        baselines: name -> searcher that is run after it with the same number of trials, for the report. They share
            scores: a candidate that was scored before is not scored again. None, in place of all or of one, leaves it
            out.
        trials: candidates to score.
        executor: ``(evaluate) -> Executor``: where candidates are scored.
        in_flight: candidates that are asked and not yet told; see :mod:`lightning_compress.search.loop`.
        halving: low-fidelity scores first, the full one for the best of those in flight; None scores all in full.
        correlation: how well the search's scores rank plans, measured after it; None does not.
        final_choice: how the best few are compared in the end; None takes the highest score of the search.
        prior: makes a plan with the cost and the budget of the search; the searcher starts from it or from the largest
            uniform plan, whichever scores higher. None starts at the uniform plan. Baselines have no prior.
    """

    searcher: Callable[..., Searcher]
    baselines: Mapping[str, Callable[..., Searcher] | None] | None = field(default_factory=dict)
    trials: int = 100
    executor: Callable[[Evaluate], Executor] = Serial
    in_flight: int = 1
    halving: Halving | None = None
    correlation: Correlation | None = None
    final_choice: FinalChoice | None = field(default_factory=FinalChoice)
    prior: BudgetedPlanner | None = None

    @property
    def used_baselines(self) -> dict[str, Callable[..., Searcher]]:
        """The baselines that are run."""
        return {name: make for name, make in (self.baselines or {}).items() if make is not None}

    def check(self, stage: str) -> None:
        """Raise also if there is no searcher, or a number of the search is too small.

        Raises:
            CompressError: it is so, a setting of a searcher cannot be, or the executor has more workers than trials are
                in flight.
            NoEffectError: halving with so few in flight that every plan would be scored in full.
        """
        super().check(stage)
        if self.searcher is None:
            raise CompressError(f"stage {stage}: searcher is null, which a search needs; give it one")
        check_least(stage, trials=(self.trials, 1), in_flight=(self.in_flight, 1))
        for make in self._searchers.values():
            self._try_out(make, stage, {"warm_start": None} if start_path(make) is not None else {})
        workers = signature(self.executor).parameters.get("workers")
        if workers is not None and isinstance(workers.default, int):  # before anything is measured
            check_workers(workers.default, self.in_flight)
        if self.halving is not None:
            self.halving.over(self.executor, self.objective, self.in_flight)  # which raises

    def check_starts(self, folder: Path) -> None:
        """Raise if a searcher cannot start from its policy, before anything is scored.

        Args:
            folder: of the stage, where a search that is resumed has kept it.

        Raises:
            CompressError: there is no such policy, or it is of another searcher.
        """
        for name, make in self._searchers.items():
            if start := start_of(make, folder / start_name(name)):
                self._try_out(make, folder.name, start)

    @property
    def _searchers(self) -> dict[str, Callable[..., Searcher]]:
        return {"": self.searcher, **self.used_baselines}

    def _try_out(self, make: Callable[..., Searcher], stage: str, start: Mapping[str, Any]) -> None:
        """Make a searcher for a small problem: a searcher checks its settings when it is made."""
        try:
            make(problem=problems.channels(layers=2).problem, seed=0, objective=self.objective, **start)
        except (CompressError, TypeError) as error:  # TypeError: of an argument that it does not have
            raise CompressError(f"stage {stage}: {error}") from error
