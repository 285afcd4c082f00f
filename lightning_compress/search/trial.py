"""What a searcher proposes, and what it hears back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from lightning_compress.core.plan import Plan
from lightning_compress.core.space import Space


@dataclass(frozen=True)
class Trial:
    """A proposal: its number, and its point in the space."""

    number: int
    indices: tuple[int, ...]
    space: Space

    @cached_property
    def plan(self) -> Plan:
        """What the point stands for; made when it is asked for, as a replay of a long journal needs nearly none."""
        return self.space.plan(self.indices)


@dataclass(frozen=True)
class Score:
    """What a candidate is worth. An objective makes one number of it.

    Attributes:
        metrics: of validation.
        costs: of the candidate.
        before: the same metrics and costs of the network that the search starts from, as it is.
    """

    metrics: Mapping[str, float]
    costs: Mapping[str, float]
    before: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Plain types."""
        return {"metrics": dict(self.metrics), "costs": dict(self.costs), "before": dict(self.before)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, float]]) -> Score:
        """The inverse of :meth:`to_dict`."""
        return cls(dict(data["metrics"]), dict(data["costs"]), dict(data.get("before", {})))  # older journals lack it
