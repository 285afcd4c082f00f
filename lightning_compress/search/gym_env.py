"""The search as a gymnasium environment, for those who bring their own reinforcement-learning library.

One episode is one pass over the choices: the observation is that of ``features.py``, the action in [-1, 1] picks a
value (0 is the uniform policy that just meets the budget) and is held behind the budget's wall, and the reward comes
with the last step. After AMC (arXiv 1802.03494, section 3). The spaces are the same for every network, so that a policy
can be moved. Plain one-step temporal differences learn little from a reward that comes last: give the return to every
step, as :class:`~lightning_compress.search.ddpg.DDPG` does, or use a method of whole episodes.

There is no journal here: what is scored in an interrupted training is lost. ``DDPG`` and ``Reinforce`` keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lightning_compress.errors import CompressError, TrialFailedError
from lightning_compress.plan import Plan
from lightning_compress.search.features import COLUMNS
from lightning_compress.search.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.trial import Score
from lightning_compress.search.walk import Course, Walk


class PlanEnv(gymnasium.Env):
    """Decides one choice a step; the plan is scored at the last.

    Args:
        problem: choices, budget and profiles.
        evaluate: scores a plan, such as :class:`~lightning_compress.search.evaluator.Evaluator`.
        objective: score -> reward.
        failed: reward of a plan that cannot be scored (N2N: -1).

    Raises:
        CompressError: the problem has no choices.
    """

    metadata = {"render_modes": []}

    def __init__(
        self, problem: Problem, evaluate: Callable[[Plan], Score], objective: Objective, failed: float = -1.0
    ) -> None:
        if not len(problem.space):
            raise CompressError("environment: the problem has nothing to choose, so that an episode has no steps")
        self.problem, self.evaluate, self.objective, self.failed = problem, evaluate, objective, failed
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(COLUMNS),), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._course = Course(problem)
        self._walk = Walk(self._course)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode: the observation of the first choice."""
        super().reset(seed=seed)
        self._walk = Walk(self._course)
        self._seen = self._walk.observe()
        return self._seen, {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decide one choice.

        Args:
            action: shape ``(1,)``, in [-1, 1].

        Returns:
            Observation, reward, whether the episode ended, False, and the facts: always ``action``, as it was carried
            out; after the last choice also ``plan``, and ``score`` or ``failure``. The observation after the last
            choice is that of the last choice.
        """
        carried = self._walk.step((float(action[0]) + 1) / 2)
        info: dict[str, Any] = {"action": np.array([2 * carried - 1], dtype=np.float32)}
        if not self._walk.done:
            self._seen = self._walk.observe()
            return self._seen, 0.0, False, False, info
        info["plan"] = self.problem.space.plan(self._walk.decided)
        try:
            info["score"] = self.evaluate(info["plan"])
        except TrialFailedError as error:
            return self._seen, self.failed, True, False, {**info, "failure": str(error)}
        return self._seen, self.objective(info["score"]), True, False, info
