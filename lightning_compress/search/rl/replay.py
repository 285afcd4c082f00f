"""The replay buffer of the actor-critic searchers: rewards less their moving average, in units of their spread."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize


class BaselineReplay(ReplayBuffer):
    """Gives out rewards less their moving average, in units of their spread, both as they are when sampled.

    Subtracted when stored, as the average was then, an early poor trial would look better than a late good one.
    """

    heard: tuple[float, ...] = ()
    baseline, spread = 0.0, 1.0

    def hear(self, reward: float, step: float) -> None:
        """Update the moving average (by ``step``) and the spread of the rewards with one more."""
        self.baseline = self.baseline + step * (reward - self.baseline) if self.heard else reward
        self.heard = (*self.heard, reward)
        self.spread = max(float(np.std(self.heard)), 1e-6)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        samples = super()._get_samples(batch_inds, env)
        return samples._replace(rewards=(samples.rewards - self.baseline) / self.spread)
