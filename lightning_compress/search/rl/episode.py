"""Roll out a policy over the choices of a problem: observe, act in [0, 1], be clipped to the budget.

What a policy decides is an action; action 1/2 stands for the plan that the search starts from (the prior of a
closed-form planner, or the uniform plan that just meets the budget), so that a policy that knows nothing yet starts
there, rather than where clipping leaves nothing for the last layers. Shared by the reinforcement-learning searchers and
the gymnasium environment.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_compress.core.space import Choice
from lightning_compress.search.problem import Problem
from lightning_compress.search.rl.features import Features

FIRST = 1.0  # stands for the action before the first


class ActionMapping:
    """Observations and the mapping of actions, shared by all episodes of one problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.features = Features(problem)
        # Away from 0 and 1, where actions would have no inverse, but within the first and the last bin.
        finest = max((len(choice.values) for choice in problem.space.choices), default=1)
        edge = 0.05 if finest < 20 else 0.5 / finest
        if problem.prior is None:
            wanted = [problem.budget.level() + 1e-3] * len(problem.space)
        else:
            wanted = [c.unit(index) for c, index in zip(problem.space.choices, problem.prior, strict=True)]
        self.levels = [min(max(level, edge), 1 - edge) for level in wanted]

    def unit(self, number: int, action: float) -> float:
        """Return the position among the values of a choice; action 1/2 is that of the plan the search starts from.

        Args:
            number: of the choice.
            action: in [0, 1].
        """
        level = self.levels[number]
        return 2 * action * level if action < 0.5 else level + (2 * action - 1) * (1 - level)

    def action(self, number: int, unit: float) -> float:
        """Return the action of a position: the inverse of :meth:`unit`."""
        level = self.levels[number]
        return unit / level / 2 if unit < level else 0.5 + (unit - level) / (1 - level) / 2

    def along(self, point: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return observations ``(choices, len(COLUMNS))`` and actions ``(choices,)`` of an episode to ``point``.

        Each action is the middle of its bin.
        """
        choices = self.problem.space.choices
        actions = [self.action(i, choices[i].unit(index)) for i, index in enumerate(point)]
        before = [FIRST, *actions][: len(actions)]
        seen = [self.features.at(tuple(point[:i]), last) for i, last in enumerate(before)]
        return np.array(seen, dtype=np.float32), np.array(actions, dtype=np.float32)


class Episode:
    """An episode that has decided the first choices.

    Attributes:
        decided: their indices, clipped to the budget.
        last: the action before this one as it was carried out; 1 at the start.
    """

    def __init__(self, mapping: ActionMapping) -> None:
        self.mapping = mapping
        self.decided: tuple[int, ...] = ()
        self.last = FIRST

    @property
    def done(self) -> bool:
        """Whether every choice is decided."""
        return len(self.decided) == len(self.mapping.problem.space)

    @property
    def choice(self) -> Choice:
        """The choice to decide now."""
        return self.mapping.problem.space.choices[len(self.decided)]

    def observe(self) -> NDArray[np.float32]:
        """Return the observation of the choice, shape ``(len(COLUMNS),)``."""
        return self.mapping.features.at(self.decided, self.last)

    def step(self, action: float) -> float:
        """Decide by an action in [0, 1]; return the action as it was carried out: the middle of the clipped bin."""
        number = len(self.decided)
        wanted = self.choice.index(self.mapping.unit(number, action))
        index = self.mapping.problem.budget.clip(self.decided, wanted)
        self.last = action if index == wanted else self.mapping.action(number, self.choice.unit(index))
        self.decided = (*self.decided, index)
        return self.last

    def most(self) -> int:
        """Return the largest index that the budget allows."""
        return self.mapping.problem.budget.clip(self.decided, len(self.choice.values) - 1)
