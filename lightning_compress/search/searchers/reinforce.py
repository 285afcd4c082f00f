"""REINFORCE: policies draw whole plans; plans that scored above the average become likelier.

    loss = - mean_i A_i log p(plan_i) - beta H,      A_i = (R_i - b) / std(R)

Source: N2N learning (arXiv 1709.06030): a removal policy for choices of two values, a shrinkage policy for the others,
Adam, a few rollouts per update. Its released code gives every rollout of a batch the same advantage (batch mean less
baseline), with which nothing is learned; here each has its own. Reconstructions: actions clipped to the budget (N2N
punishes plans that are too large instead), the entropy bonus that fades, gradient clipping, and rewards in units of
their spread. The steps towards the best trials after each update are ours, as in ``ddpg.py`` (self-imitation, Oh et al.
2018, arXiv 1806.05635): 100 trials are only 20 updates. Use it from about 50 trials on.

An action that the budget clips counts with the probability of all actions that it would have clipped to the same value,
so that the gradient is that of what was carried out. Rollouts drawn before an update and told after it count as if
drawn after it. Trials that failed are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.rl.episode import ActionMapping, Episode
from lightning_compress.search.rl.policy_file import load_policy, save_policy
from lightning_compress.search.rl.removal_policy import Removal
from lightning_compress.search.rl.shrinkage_policy import Shrinkage
from lightning_compress.search.searchers.searcher import START, Searcher, at_least, own_randomness, shares, whole
from lightning_compress.search.trial import Trial


@dataclass(frozen=True)
class _Rollout:
    """A proposal as the policies saw it.

    Attributes:
        removed: which outputs of the removal policy lead to what was carried out, shape ``(binary choices, 2)``.
        observations: of the other choices, shape ``(n, len(COLUMNS))``.
        shrunk: as ``removed``, of the shrinkage policy, shape ``(n, ACTIONS)``.

    Empty, of shape ``(0,)``, where there are no such choices.
    """

    removed: Tensor
    observations: Tensor
    shrunk: Tensor


@final
class Reinforce(Searcher):
    """Policy gradient over whole plans.

    Args:
        rollouts: trials per update (N2N 5).
        removal_rate, shrinkage_rate: learning rates of the two policies (N2N .003 and .1).
        hidden, depth: units and layers of both LSTMs (N2N 30 and 2).
        keep: P(keep) before anything is learned, or what the budget can pay on average if that is less.
        width: of the first shrinkage policy around the uniform one.
        entropy: weight of the entropy bonus at first; it falls to 0 in a straight line over ``anneal`` trials.
        baseline: step of the moving average of the reward, per update.
        imitation: steps per update towards the best ``elite`` trials; 0 is N2N's rule alone.
        warm_start: policies to start from, as :meth:`save` writes them, or their folder.

    Raises:
        CompressError: a number is too small or large, or ``warm_start`` is no file of these policies
            and features.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        objective: Objective,
        rollouts: int = 5,
        removal_rate: float = 0.01,
        shrinkage_rate: float = 0.01,
        hidden: int = 30,
        depth: int = 2,
        keep: float = 0.85,
        width: float = 0.15,
        entropy: float = 0.01,
        anneal: int = 100,
        baseline: float = 0.5,
        imitation: int = 10,
        elite: int = 5,
        warm_start: str | Path | None = None,
    ) -> None:
        super().__init__(problem, seed, objective)
        whole(1, "Reinforce", rollouts=rollouts, anneal=anneal, elite=elite, hidden=hidden, depth=depth)
        whole(0, "Reinforce", imitation=imitation)
        at_least(0, "Reinforce", removal_rate=removal_rate, shrinkage_rate=shrinkage_rate, entropy=entropy)
        shares("Reinforce", keep=keep, baseline=baseline)
        self.rollouts, self.entropy, self.anneal, self.baseline_step = rollouts, entropy, anneal, baseline
        self.imitation, self.elite = imitation, elite
        self.mapping = ActionMapping(problem)
        self.keep = min(keep, max(self.mapping.features.affordable, 0.05))
        choices = problem.space.choices
        self._binary = [i for i, choice in enumerate(choices) if len(choice.values) == 2]
        self._static = torch.from_numpy(self.mapping.features.static[self._binary])
        with own_randomness(seed, START):
            self.removal, self.shrinkage = Removal(hidden, depth), Shrinkage(hidden, depth, width)
        if warm_start is not None:
            load_policy(warm_start, self.kind, self._policies)
        groups = [
            {"params": self.removal.parameters(), "lr": removal_rate},
            {"params": self.shrinkage.parameters(), "lr": shrinkage_rate},
        ]
        self.optimizer = torch.optim.Adam(groups)
        self.baseline: float | None = None
        self._heard: list[float] = []
        self._open: dict[int, _Rollout] = {}
        self._best: list[tuple[_Rollout, float, int]] = []
        self._batch: list[tuple[_Rollout, float]] = []

    @torch.no_grad()
    @override
    def propose(self, number: int) -> tuple[int, ...]:
        episode, state = Episode(self.mapping), None
        kept = iter(self.removal(self._static, self.keep) if self._binary else ())
        removed: list[Tensor] = []
        observations: list[Tensor] = []
        shrunk: list[Tensor] = []
        while not episode.done:
            if len(episode.choice.values) == 2:
                actions = [self.mapping.action(len(episode.decided), episode.choice.unit(index)) for index in (0, 1)]
                removed.append(self._carry_out(episode, next(kept), actions, number))
            else:
                observations.append(torch.from_numpy(episode.observe()))
                log_probs, state = self.shrinkage(observations[-1][None, None], state)
                shrunk.append(self._carry_out(episode, log_probs[0, 0], self.shrinkage.actions.tolist(), number))
        self._open[number] = _Rollout(
            *(torch.stack(rows) if rows else torch.empty(0) for rows in (removed, observations, shrunk))
        )
        return episode.decided

    def _carry_out(self, episode: Episode, log_probs: Tensor, actions: list[float], number: int) -> Tensor:
        """Draw an action and decide by it; which of the actions would have led to the same, as a mask.

        The first trial takes the prior, or without one the likeliest actions: of a new policy the uniform plan, of one
        from elsewhere its best.
        """
        number_of, most = len(episode.decided), episode.most()
        wanted = [episode.choice.index(self.mapping.unit(number_of, action)) for action in actions]
        if number:
            k = int(log_probs.exp().multinomial(1))
        elif self.problem.prior is None:
            k = int(log_probs.argmax())
        else:
            own = self.problem.prior[number_of]
            k = min(range(len(wanted)), key=lambda i: abs(wanted[i] - own))
        episode.step(actions[k])
        return torch.tensor([min(index, most) == episode.decided[-1] for index in wanted])

    @override
    def learn(self, trial: Trial, reward: float | None) -> None:
        rollout = self._open.pop(trial.number)
        if reward is None or not len(self.problem.space):
            return
        self._heard.append(reward)
        self._batch.append((rollout, reward))
        self._best = sorted([*self._best, (rollout, reward, trial.number)], key=lambda e: (-e[1], e[2]))[: self.elite]
        if len(self._batch) == self.rollouts:
            self._update(self.entropy * max(1 - trial.number / self.anneal, 0.0))
            self._batch.clear()

    def _update(self, entropy: float) -> None:
        """Take one step on a batch of rollouts."""
        rewards = torch.tensor([reward for _, reward in self._batch])
        average = float(rewards.mean())
        if self.baseline is None:
            self.baseline = average
        advantages = (rewards - self.baseline) / max(float(np.std(self._heard)), 1e-6)
        self.baseline += self.baseline_step * (average - self.baseline)
        chosen, spread = self._likelihood([rollout for rollout, _ in self._batch])
        self._step(-(advantages * chosen).mean() - entropy * spread)
        for _ in range(self.imitation):
            chosen, spread = self._likelihood([rollout for rollout, *_ in self._best])
            self._step(-chosen.mean() / len(self.problem.space) - entropy * spread)

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._policies.parameters(), 1.0)
        self.optimizer.step()

    def _likelihood(self, rollouts: list[_Rollout]) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each rollout, shape ``(rollouts,)``, and the mean entropy of a choice."""
        parts = []
        if self._binary:
            kept = self.removal(self._static, self.keep).expand(len(rollouts), -1, -1)
            parts.append((kept, torch.stack([rollout.removed for rollout in rollouts])))
        if len(self._binary) < len(self.problem.space):
            sized, _ = self.shrinkage(torch.stack([rollout.observations for rollout in rollouts]))
            parts.append((sized, torch.stack([rollout.shrunk for rollout in rollouts])))
        chosen = sum(log_probs.where(mask, -torch.inf).logsumexp(-1).sum(-1) for log_probs, mask in parts)
        entropies = [-(log_probs.exp() * log_probs).sum(-1).flatten() for log_probs, _ in parts]
        return chosen, torch.cat(entropies).mean()

    def save(self, folder: Path) -> Path:
        """Write both policies, for ``warm_start`` of another search."""
        return save_policy(folder, self.kind, self._policies)

    @property
    def _policies(self) -> nn.ModuleDict:
        return nn.ModuleDict({"removal": self.removal, "shrinkage": self.shrinkage})
