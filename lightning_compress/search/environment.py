"""The search as a gymnasium environment, for those who bring their own reinforcement-learning library.

One episode is one pass over the choices: the observation is that of ``features.py``, the action in [-1, 1] picks a
value (0 is the uniform policy that just meets the budget) and is clipped to the budget, and the reward comes
with the last step. After AMC (arXiv 1802.03494, section 3). The spaces are the same for every network, so that a policy
can be moved. Plain one-step temporal differences learn little from a reward that comes last: give the return to every
step, as :class:`~lightning_compress.search.searchers.ddpg.DDPG` does, or use a method of whole episodes.

:func:`lightning_compress.plan_env` makes one from a LightningModule, a LightningDataModule and a Stage. There is no
journal here: what is scored in an interrupted training is lost. ``DDPG`` and ``Reinforce`` keep it.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lightning_compress.core.errors import CompressError
from lightning_compress.search.executors.executor import Evaluate, Outcome, outcome_of
from lightning_compress.search.executors.scores import checked
from lightning_compress.search.loop import Best
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.rl.episode import ActionMapping, Episode
from lightning_compress.search.rl.features import COLUMNS


class PlanEnv(gymnasium.Env):
    """Decides one choice a step; the plan is scored at the last, each network once.

    Args:
        problem: choices, budget and profiles.
        evaluate: scores a plan, such as :class:`~lightning_compress.pipeline.evaluator.Evaluator`.
        objective: score -> reward.
        failed: reward of a plan that cannot be scored, or whose score or reward is not finite (N2N: -1).

    Attributes:
        best: the plan of the highest reward so far, the earliest of equals, with the number of its episode; None
            until an episode has ended well.

    Raises:
        CompressError: the problem has no choices.
    """

    metadata = {"render_modes": []}

    def __init__(self, problem: Problem, evaluate: Evaluate, objective: Objective, failed: float = -1.0) -> None:
        if not len(problem.space):
            raise CompressError("environment: the problem has nothing to choose, so that an episode has no steps")
        self.problem, self.evaluate, self.objective, self.failed = problem, evaluate, objective, failed
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(COLUMNS),), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.best: Best | None = None
        self._mapping = ActionMapping(problem)
        self._episode: Episode | None = None
        self._episodes = 0
        self._known: dict[str, Outcome] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode: the observation of the first choice."""
        super().reset(seed=seed)
        self._episode = Episode(self._mapping)
        self._seen = self._episode.observe()
        return self._seen.copy(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decide one choice.

        Args:
            action: shape ``(1,)``, clipped to [-1, 1].

        Returns:
            Observation, reward, whether the episode ended, False, and the facts: always ``action``, as it was carried
            out; after the last choice also ``plan``, and ``score`` or ``failure``. The observation after the last
            choice is that of the last choice.

        Raises:
            CompressError: no episode is going on, or the action is no number.
        """
        if self._episode is None or self._episode.done:
            raise CompressError("environment: no episode is going on; call reset() first, and after each end")
        wanted = float(action[0])
        if np.isnan(wanted):
            raise CompressError("environment: the action is nan, expected a number in [-1, 1]; has the agent diverged?")
        carried = self._episode.step((float(np.clip(wanted, -1, 1)) + 1) / 2)
        info: dict[str, Any] = {"action": np.array([2 * carried - 1], dtype=np.float32)}
        if self._episode.done:
            reward, found = self._scored(self._episode.decided)
            return self._seen.copy(), reward, True, False, {**info, **found}
        self._seen = self._episode.observe()
        return self._seen.copy(), 0.0, False, False, info

    def _scored(self, decided: tuple[int, ...]) -> tuple[float, dict[str, Any]]:
        """Return the reward of the plan that was decided, and the facts about it."""
        plan, number = self.problem.space.plan(decided), self._episodes
        self._episodes += 1
        key = self.evaluate.key(plan)
        if key not in self._known:
            self._known[key] = checked(outcome_of(self.evaluate, plan), self.objective)
        score = self._known[key].score
        if score is None:
            return self.failed, {"plan": plan, "failure": self._known[key].failure}
        reward = self.objective(score)
        if self.best is None or reward > self.best.reward:
            self.best = Best(plan, score, reward, number)
        return reward, {"plan": plan, "score": score}
