"""DDPG: an actor walks through the layers and picks an action at each; a critic learns from the final reward.

    s_t -> a_t in [0, 1] -> value of the choice -> behind the budget's wall;      y_t = R - b + gamma Q'(s', mu'(s'))

The agent of paper 1 (arXiv 1912.02254), of which only the abstract says anything; the rest is AMC (arXiv 1802.03494)
and HAQ (arXiv 1811.08886): a reconstruction. Agent, replay buffer and gradient steps are stable-baselines3's. The final
reward, less its moving average, is given to every step of an episode; the action that is stored is the projected one
(AMC's code stores the raw one, and so teaches the critic about actions that were not taken). gamma is 0: each step
then regresses the outcome. Exploration is a truncated normal whose width decays.

Two additions of ours: action 1/2 stands for the uniform policy that just meets the budget, so that an untrained actor
starts there rather than where the wall starves the last layers; and after each trial the actor also takes some steps
towards the actions of the best trials (self-imitation, Oh et al. 2018, arXiv 1806.05635). What they are worth beside
Random and Uniform: benchmarks/results/searchers.txt. Use it from about 50 trials on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DDPG as Agent
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.nn.functional import mse_loss

from lightning_compress.search.features import COLUMNS, Features
from lightning_compress.search.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.searcher import Searcher, own_randomness
from lightning_compress.search.trial import Trial

START = 2**32  # the random numbers of the first weights; trials count up from 0


@dataclass(frozen=True)
class _Episode:
    """A finished trial as the actor saw it."""

    reward: float
    number: int
    observations: np.ndarray
    actions: np.ndarray


@final
class DDPG(Searcher):
    """Deep deterministic policy gradient over layers.

    Args:
        warmup: trials with random actions (AMC 100 of 800, HAQ 20 of 600).
        sigma, decay: width of the exploration after the warm-up, and its factor per trial (AMC .5, .95).
        hidden: units of both hidden layers of actor and critic (AMC 300).
        learning_rate: of actor and critic (AMC 1e-4 and 1e-3).
        batch_size, tau, gamma: see the paper; gamma 0 regresses the final reward.
        baseline: step of the moving average of the reward (AMC .5).
        replay: trials that the replay buffer holds (AMC 100).
        updates: gradient steps per choice and trial.
        imitation: steps per trial towards the actions of the best ``elite`` trials.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        objective: Objective,
        warmup: int = 20,
        sigma: float = 0.5,
        decay: float = 0.95,
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
    ) -> None:
        super().__init__(problem, seed, objective)
        self.warmup, self.sigma, self.decay, self.updates = warmup, sigma, decay, updates
        self.baseline_step, self.batch_size = baseline, batch_size
        self.features = Features(problem)
        self.level = min(max(problem.budget.level() + 1e-3, 0.05), 0.95)
        self.imitation, self.elite = imitation, elite
        self._best: list[_Episode] = []
        self._open: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        size = replay * max(len(problem.space), 1)
        with own_randomness(seed, START):
            self.agent = Agent(
                "MlpPolicy", _Spaces(), learning_rate, size, batch_size=batch_size, tau=tau, gamma=gamma,
                policy_kwargs={"net_arch": [hidden, hidden]}, device="cpu", replay_buffer_class=BaselineReplay,
            )  # fmt: skip
        self.agent.set_logger(Logger(None, []))

    def propose(self, number: int) -> tuple[int, ...]:
        space, budget = self.problem.space, self.problem.budget
        decided: tuple[int, ...] = ()
        observations, actions, last = [], [], 1.0
        for choice in space.choices:
            observations.append(self.features.at(decided, last))
            last = self._act(observations[-1], number)
            wanted = choice.index(self._unit(last))
            index = budget.wall(decided, wanted)
            if index < wanted:  # the action as it was carried out: the middle of the bin behind the wall
                last = self._action(choice.unit(index))
            actions.append(last)
            decided = (*decided, index)
        self._open[number] = (np.array(observations), np.array(actions, dtype=np.float32))
        return decided

    def learn(self, trial: Trial, reward: float | None) -> None:
        observations, actions = self._open.pop(trial.number)
        if reward is None or not len(actions):
            return
        replay: BaselineReplay = self.agent.replay_buffer
        replay.hear(reward, self.baseline_step)
        following = np.concatenate([observations[1:], observations[-1:]])
        for i in range(len(actions)):
            last = np.array([i == len(actions) - 1])
            replay.add(observations[i], following[i], 2 * actions[i : i + 1] - 1, np.array([reward]), last, [{}])
        best = [*self._best, _Episode(reward, trial.number, observations, actions)]
        self._best = sorted(best, key=lambda e: (-e.reward, e.number))[: self.elite]
        if self.asked > self.warmup:
            self.agent.train(self.updates * len(actions), self.batch_size)
            self._imitate()

    def _imitate(self) -> None:
        """Draw the actor to the actions of the best trials."""
        observations = torch.from_numpy(np.concatenate([e.observations for e in self._best]))
        actions = torch.from_numpy(np.concatenate([e.actions for e in self._best]))[:, None]
        optimizer = self.agent.actor.optimizer
        for _ in range(self.imitation):
            optimizer.zero_grad()
            mse_loss(self.agent.actor(observations), 2 * actions - 1).backward()
            optimizer.step()

    def width(self, number: int) -> float:
        """Standard deviation of the exploration in this trial."""
        return self.sigma * self.decay ** max(number - self.warmup, 0)

    def _unit(self, action: float) -> float:
        """Position among a choice's values: action 1/2 is the uniform policy that just meets the budget."""
        return 2 * action * self.level if action < 0.5 else self.level + (2 * action - 1) * (1 - self.level)

    def _action(self, unit: float) -> float:
        """The inverse of :meth:`_unit`."""
        return unit / self.level / 2 if unit < self.level else 0.5 + (unit - self.level) / (1 - self.level) / 2

    @torch.no_grad()
    def _act(self, observation: np.ndarray, number: int) -> float:
        if number == 0:  # the uniform policy itself, so that a search never ends below it
            return 0.5
        if number < self.warmup:
            return float(torch.rand(()))
        mean = (self.agent.policy.actor(torch.from_numpy(observation)[None])[0, 0] + 1) / 2
        return truncated_normal(mean, self.width(number))


def truncated_normal(mean: torch.Tensor, width: float) -> float:
    """One number from the normal distribution cut to [0, 1], by the inverse of its distribution function."""
    if width < 1e-6:
        return float(mean.clamp(0, 1))
    low, high = torch.special.ndtr(-mean / width), torch.special.ndtr((1 - mean) / width)
    uniform = (low + (high - low) * torch.rand(())).clamp(1e-7, 1 - 1e-7)
    return float((mean + width * torch.special.ndtri(uniform)).clamp(0, 1))


class BaselineReplay(ReplayBuffer):
    """Gives out rewards less their moving average, in units of their spread, both as they are when sampled.

    Subtracted when stored, as the average was then, an early poor trial would look better than a late good one.
    """

    heard: tuple[float, ...] = ()
    baseline, spread = 0.0, 1.0

    def hear(self, reward: float, step: float) -> None:
        """Follow the reward of one more trial: the average by ``step``, the spread over all trials."""
        self.baseline = self.baseline + step * (reward - self.baseline) if self.heard else reward
        self.heard = (*self.heard, reward)
        self.spread = max(float(np.std(self.heard)), 1e-6)

    def _get_samples(self, batch_inds: np.ndarray, env: object = None) -> ReplayBufferSamples:
        samples = super()._get_samples(batch_inds, env)
        return samples._replace(rewards=(samples.rewards - self.baseline) / self.spread)


class _Spaces(gymnasium.Env):
    """Tells the agent the shapes; it is never stepped, because ask and tell drive the agent."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(COLUMNS),), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        raise NotImplementedError("ask and tell drive this agent")

    def step(self, action: np.ndarray):
        raise NotImplementedError("ask and tell drive this agent")
