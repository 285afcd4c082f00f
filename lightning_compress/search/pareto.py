"""The Pareto front of plans: those that no other plan beats in cost and score at once.

(c, s) is dominated  <=>  some (c', s') differs from it and has c' <= c and s' >= s
front = by rising cost, those with a higher score than all before
"""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return positions of the non-dominated points, by rising cost; equal points stand or fall together.

    Args:
        points: ``(cost, score)`` pairs, the cost to be small and the score to be large; finite.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        last = points[front[-1]] if front else None
        if last is None or points[i][1] > last[1] or points[i] == last:
            front.append(i)
    return front
