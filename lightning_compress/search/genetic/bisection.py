"""Bisect how far down each choice alone may go before the reward falls by a tolerance: GeneCAI's boundary extraction.

The paper lowers a layer's rate step by step from 1.00 and keeps the last that loses at most one point; here a bisection
of a few probes a choice finds it, since a reward that falls with compression (nearly) always is what both assume. A
probe is the starting point with one choice lowered: it costs less than the start, so it meets the budget when the
start does. The tolerance is in the unit of the objective, the only thing that a searcher hears.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Bisections:
    """The bisections of all choices.

    Args:
        start: indices of the starting point.
        order: positions of the choices, the one that it matters most to know about first.
        probes: trials per choice at most; 0 asks for none.
        most: trials in all at most.
        tolerance: how far the reward of a probe may be below that of the start.

    Attributes:
        reference: reward of the start, once it is known.
    """

    start: tuple[int, ...]
    order: Sequence[int]
    probes: int
    most: int
    tolerance: float
    reference: float | None = None
    _bad: list[int] = field(init=False)  # the largest index that is known to lose too much
    _good: list[int] = field(init=False)  # the smallest that is known not to
    _asked: list[int] = field(init=False)
    _open: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._bad, self._good, self._asked = [-1] * len(self.start), list(self.start), [0] * len(self.start)

    def ask(self) -> tuple[int, tuple[int, ...]] | None:
        """Return the next choice to probe and the point to probe it at, or None."""
        if self.reference is None or sum(self._asked) >= self.most:
            return None
        able = [
            i
            for i in self.order
            if i not in self._open and self._asked[i] < self.probes and self._good[i] - self._bad[i] > 1
        ]
        if not able:
            return None
        i = min(able, key=lambda i: self._asked[i])  # one round of all choices after the other
        self._open[i] = (self._good[i] + self._bad[i]) // 2
        self._asked[i] += 1
        return i, (*self.start[:i], self._open[i], *self.start[i + 1 :])

    def tell(self, choice: int, reward: float | None) -> None:
        """Hear the reward of the open probe of a choice; None, that it failed, means that it lost too much."""
        index = self._open.pop(choice)
        assert self.reference is not None  # else nothing was asked
        if reward is not None and reward >= self.reference - self.tolerance:
            self._good[choice] = index
        else:
            self._bad[choice] = index

    @property
    def lowest(self) -> tuple[int, ...]:
        """Per choice the smallest index that no probe has ruled out."""
        return tuple(bad + 1 for bad in self._bad)
