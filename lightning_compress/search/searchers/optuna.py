"""Any sampler of Optuna as a searcher: TPE, CMA-ES, GP, quasi-random, ...

    choice i  <->  an integer parameter 0 .. n_i - 1;    plan = the suggestion scaled onto the budget, the rest spent

Source: Akiba et al. 2019 (arXiv 1907.10902); its ask and tell. The sampler hears the reward of what it suggested, not
of the point after scaling: a sampler that keeps its own state per trial (CMA-ES) cannot be told of another point. The
first suggestion is the plan that the search starts from: the prior, or the largest uniform plan. Optuna is an optional
dependency, imported when a searcher is made.

Use it for small spaces (up to some 20 choices) and the 50 to 200 trials that TPE was made for.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any, final

import numpy as np
from typing_extensions import override

from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.trial import Trial


@final
class OptunaSearcher(Searcher):
    """A study in memory; the journal is its storage, since resume is replay.

    Args:
        sampler: name of a class of ``optuna.samplers``.
        settings: its arguments, but for the ``seed``. One that takes none, but another sampler instead
            (``PartialFixedSampler``), is deterministic if that one was given a seed.

    Raises:
        CompressError: Optuna is not installed, or has no such sampler, or the sampler refuses the settings.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        objective: Objective,
        sampler: str = "TPESampler",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(problem, seed, objective)
        try:
            import optuna
        except ImportError as error:
            raise CompressError(
                "searcher: OptunaSearcher needs Optuna, which is not installed; "
                "install it with: pip install 'lightning-compress[optuna]'"
            ) from error
        if not hasattr(optuna.samplers, sampler):
            known = [name for name in optuna.samplers.__all__ if name.endswith("Sampler")]
            raise CompressError(
                f"searcher: Optuna has no sampler {sampler!r}{did_you_mean(sampler, known)}; it has {known}"
            )
        try:
            cls = getattr(optuna.samplers, sampler)
            seeded = {"seed": seed} if "seed" in signature(cls).parameters else {}
            made = cls(**{**seeded, **dict(settings or {})})
        except (TypeError, ValueError, ImportError) as error:
            raise CompressError(f"searcher: Optuna's {sampler} refuses the settings {settings}: {error}") from error
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # "A new study created in memory"
        self.study = optuna.create_study(direction="maximize", sampler=made)
        optuna.logging.set_verbosity(level)
        self.study.__dict__["stop"] = _go_on
        self._failed = optuna.trial.TrialState.FAIL
        self.ranges: dict[str, optuna.distributions.BaseDistribution] = {
            f"{choice.layer}.{choice.knob}": optuna.distributions.IntDistribution(0, len(choice.values) - 1)
            for choice in problem.space.choices
        }
        if self.ranges:
            self.study.enqueue_trial(dict(zip(self.ranges, problem.start, strict=True)))
        self._open: dict[int, Any] = {}

    @override
    def propose(self, number: int) -> tuple[int, ...]:
        try:
            self._open[number] = asked = self.study.ask(self.ranges)
        except ImportError as error:  # CMA-ES loads its library when it first needs it
            raise CompressError(f"searcher: this sampler of Optuna needs another package: {error}") from error
        if number == 0:
            return self.problem.start  # as it is, since its score may be known
        # One order for all trials: a suggestion must stand for one plan, or the sampler hears noise.
        return self.fitted([asked.params[name] for name in self.ranges], np.random.default_rng(self.seed))

    @override
    def learn(self, trial: Trial, reward: float | None) -> None:
        asked = self._open.pop(trial.number)
        if reward is None:
            self.study.tell(asked, state=self._failed)
        else:
            self.study.tell(asked, reward)


def _go_on() -> None:
    """Ignore a sampler's wish to stop when it has suggested everything; repeats cost no evaluation."""
