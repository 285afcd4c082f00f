"""DDPG: an actor walks through the layers and picks an action at each; a critic learns from the final reward.

    s_t -> a_t in [0, 1] -> value of the choice -> fitted to the budget;      y_t = R - b + gamma Q'(s', mu'(s'))

The agent of paper 1 (arXiv 1912.02254), of which only the abstract says anything; the rest is AMC (arXiv 1802.03494)
and HAQ (arXiv 1811.08886): a reconstruction. Agent, replay buffer and gradient steps are stable-baselines3's. The final
reward, less its moving average, is given to every step of an episode; the actions that are stored are those of the plan
as it was carried out (AMC's code stores the raw ones, and so teaches the critic about actions that were not taken).
gamma is 0: each step then regresses the outcome. Exploration is a truncated normal whose width decays. As in HAQ, the
budget is enforced after the episode, and takes the same share from all choices (``repair.py: scale``); clipping each
action within the episode, as AMC does, leaves too little for the last layers.

Ours, in no paper: action 1/2 stands for the plan that the search starts from, where an untrained actor starts too (the
prior of a closed-form planner, without warm-up then, or the uniform plan that just meets the budget);
what a plan leaves of the budget is spent (``repair.py: spend``); after the warm-up the actor decides only some choices
of the best trial afresh; a plan that was tried is drawn again; and after each trial the actor also takes some steps
towards the actions of the best trials (self-imitation, Oh et al. 2018, arXiv 1806.05635).
What each of these is worth is measured in benchmarks/results/ddpg_parts.txt and searchers.txt: spending and the prior
help; that the learning adds to the exploring around the best trial has been seen on synthetic problems alone. Use it
from about 50 trials on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast, final

import gymnasium
import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch.nn.functional import mse_loss
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import snake_case
from lightning_compress.search.budget_repair import scale
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.rl.episode import FIRST, ActionMapping
from lightning_compress.search.rl.features import COLUMNS
from lightning_compress.search.rl.policy_file import load_policy, save_policy
from lightning_compress.search.rl.replay import BaselineReplay
from lightning_compress.search.searchers.searcher import START, Searcher, at_least, own_randomness, shares, whole
from lightning_compress.search.trial import Trial

REDRAWS = 10  # proposals that may turn out to be known plans before one is tried again: a small space has no others


@dataclass(frozen=True)
class _Draft:
    """A walk to a plan as it was carried out.

    Attributes:
        observations: shape ``(choices, len(COLUMNS))``.
        actions: shape ``(choices,)``, in [0, 1].
    """

    observations: np.ndarray
    actions: np.ndarray


@dataclass(frozen=True)
class _Episode:
    """A finished trial as the actor saw it."""

    reward: float
    number: int
    draft: _Draft


@final
class DDPG(Searcher):
    """Deep deterministic policy gradient over layers.

    Args:
        warmup: trials with random actions (AMC 100 of 800, HAQ 20 of 600).
        sigma, decay: width of the exploration after the warm-up, and its factor per trial (AMC .5, .95; HAQ .5, .99).
        redecided: choices that the actor decides afresh in a trial after the warm-up, on average; the others stay as in
            the best trial. ``inf`` lets it decide all of them, as in AMC.
        hidden: units of both hidden layers of actor and critic (AMC 300).
        learning_rate: of actor and critic (AMC 1e-4 and 1e-3).
        batch_size, tau, gamma: see the paper; gamma 0 regresses the final reward.
        baseline: step of the moving average of the reward (AMC .5).
        replay: trials that the replay buffer holds (AMC 100).
        updates: gradient steps per choice and trial.
        imitation: steps per trial towards the actions of the best ``elite`` trials.
        agent: stable-baselines3's DDPG, TD3 or SAC, or a partial of one. SAC explores by itself: give it ``sigma`` 0.
        warm_start: a policy to start from, as :meth:`save` writes it, or its folder. Then there is no warm-up, and the
            second trial is that policy as it is.

    Raises:
        CompressError: a number is too small, or ``warm_start`` is no policy of this agent and these features; and in a
            search whose policy has diverged.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        objective: Objective,
        warmup: int = 20,
        sigma: float = 0.25,
        decay: float = 0.99,
        redecided: float = 2.0,
        hidden: int = 64,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        tau: float = 0.01,
        gamma: float = 0.0,
        baseline: float = 0.5,
        replay: int = 100,
        updates: int = 1,
        imitation: int = 10,
        elite: int = 5,
        agent: Callable[..., OffPolicyAlgorithm] = stable_baselines3.DDPG,
        warm_start: str | Path | None = None,
    ) -> None:
        super().__init__(problem, seed, objective)
        whole(1, "DDPG", elite=elite, hidden=hidden, batch_size=batch_size, replay=replay)
        whole(0, "DDPG", warmup=warmup, updates=updates, imitation=imitation)
        at_least(0, "DDPG", sigma=sigma, decay=decay, redecided=redecided, learning_rate=learning_rate)
        shares("DDPG", tau=tau, gamma=gamma, baseline=baseline)
        self.warmup, self.sigma, self.decay, self.updates = warmup, sigma, decay, updates
        self.redecided = redecided
        self.baseline_step, self.batch_size = baseline, batch_size
        self.mapping = ActionMapping(problem)
        self.imitation, self.elite = imitation, elite
        self._best: list[_Episode] = []
        self._open: dict[int, _Draft] = {}
        self._tried: set[tuple[int, ...]] = set()
        size = replay * max(len(problem.space), 1)
        with own_randomness(seed, START):
            self.agent = agent(
                "MlpPolicy", _Spaces(), learning_rate, size, batch_size=batch_size, tau=tau, gamma=gamma,
                policy_kwargs={"net_arch": [hidden, hidden]}, device="cpu", replay_buffer_class=BaselineReplay,
            )  # fmt: skip
        self.agent.set_logger(Logger(None, []))
        self._own_policy = warm_start is None and problem.prior is not None
        if self._own_policy:  # random actions around a good plan teach less than neighbors of it
            self.warmup = 0
        if warm_start is not None:
            load_policy(warm_start, snake_case(self._agent_name), self.agent.policy)
            self.warmup, self.sigma = 0, sigma / 2

    @override
    def propose(self, number: int) -> tuple[int, ...]:
        rng = np.random.default_rng([self.seed, number])
        point = self._drawn(number, rng, self.redecided)
        for i in range(1, REDRAWS):
            if point not in self._tried:
                break
            point = self._drawn(number, rng, self.redecided * (1 + i))
        self._tried.add(point)
        self._open[number] = _Draft(*self.mapping.along(point))
        return point

    def _drawn(self, number: int, rng: np.random.Generator, redecided: float) -> tuple[int, ...]:
        """Draw a point within the budget that redecides on average ``redecided`` choices of the best trial."""
        budget, choices = self.problem.budget, self.problem.space.choices
        if number == 0:  # so that a search never ends below it
            return self.problem.start
        afresh = np.ones(len(choices), dtype=bool)
        if self._best and number >= self.warmup and not self._untouched(number):
            afresh = rng.random(len(choices)) * len(choices) < redecided
        wanted: tuple[int, ...] = ()
        action = FIRST
        for i, choice in enumerate(choices):
            if afresh[i]:
                action = self._act(self.mapping.features.at(wanted, action), number)
            else:
                action = float(self._best[0].draft.actions[i])
            wanted = (*wanted, choice.index(self.mapping.unit(i, action)))
        return scale(budget, wanted) if self._untouched(number) else self.fitted(wanted, rng)

    @override
    def learn(self, trial: Trial, reward: float | None) -> None:
        draft = self._open.pop(trial.number)
        observations, actions = draft.observations, draft.actions
        if reward is None or not len(actions):
            return
        replay = cast(BaselineReplay, self.agent.replay_buffer)
        replay.hear(reward, self.baseline_step)
        following = np.concatenate([observations[1:], observations[-1:]])
        for i in range(len(actions)):
            last = np.array([i == len(actions) - 1])
            replay.add(observations[i], following[i], 2 * actions[i : i + 1] - 1, np.array([reward]), last, [{}])
        best = [*self._best, _Episode(reward, trial.number, draft)]
        self._best = sorted(best, key=lambda e: (-e.reward, e.number))[: self.elite]
        if self.asked > self.warmup:
            self.agent.train(self.updates * len(actions), self.batch_size)
            self._imitate()
            broken = [n for n, value in self.agent.policy.named_parameters() if not value.isfinite().all()]
            if broken:
                raise CompressError(
                    f"{self._agent_name}: its policy diverged ({broken[0]!r} holds nan or infinity); lower its "
                    f"learning_rate or tau, and give another run_dir, as a search goes on with the settings that it "
                    f"began with"
                )

    def _imitate(self) -> None:
        """Draw the actor to the actions of the best trials."""
        observations = torch.from_numpy(np.concatenate([e.draft.observations for e in self._best]))
        actions = torch.from_numpy(np.concatenate([e.draft.actions for e in self._best]))[:, None]
        optimizer = self.agent.actor.optimizer
        for _ in range(self.imitation):
            optimizer.zero_grad()
            mse_loss(self.agent.policy(observations, deterministic=True), 2 * actions - 1).backward()
            optimizer.step()

    def width(self, number: int) -> float:
        """Return standard deviation of the exploration in this trial."""
        return self.sigma * self.decay ** max(number - self.warmup, 0)

    def save(self, folder: Path) -> Path:
        """Write actor and critic, for ``warm_start`` of another search."""
        return save_policy(folder, snake_case(self._agent_name), self.agent.policy)

    @property
    def _agent_name(self) -> str:
        return type(self.agent).__name__

    def _untouched(self, number: int) -> bool:
        """Return whether this trial follows a warm-start policy without exploration."""
        return number == 1 >= self.warmup and not self._own_policy

    @torch.no_grad()
    def _act(self, observation: np.ndarray, number: int) -> float:
        if number < self.warmup:
            return float(torch.rand(()))
        untouched = self._untouched(number)
        mean = (self.agent.policy(torch.from_numpy(observation)[None], deterministic=untouched)[0, 0] + 1) / 2
        return truncated_normal(mean, 0.0 if untouched else self.width(number))


def truncated_normal(mean: torch.Tensor, width: float) -> float:
    """Draw from the normal distribution truncated to [0, 1], by inverse transform sampling."""
    if width < 1e-6:
        return float(mean.clamp(0, 1))
    low, high = torch.special.ndtr(-mean / width), torch.special.ndtr((1 - mean) / width)
    uniform = (low + (high - low) * torch.rand(())).clamp(1e-7, 1 - 1e-7)
    return float((mean + width * torch.special.ndtri(uniform)).clamp(0, 1))


class _Spaces(gymnasium.Env):
    """Tells the agent the shapes; it is never stepped, because ask and tell drive the agent."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(COLUMNS),), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> NoReturn:
        raise NotImplementedError("ask and tell drive this agent")

    def step(self, action: np.ndarray) -> NoReturn:
        raise NotImplementedError("ask and tell drive this agent")
