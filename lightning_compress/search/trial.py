"""Trials and their scores."""

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
        """The plan of the point; made lazily, as replaying a long journal needs nearly none."""
        return self.space.plan(self.indices)


@dataclass(frozen=True)
class Score:
    """Metrics and costs of a candidate, of which an objective makes one number.

    Attributes:
        metrics: of validation.
        costs: of the candidate.
        before: the same metrics and costs of the network that the search starts from, as it is.
    """

    metrics: Mapping[str, float]
    costs: Mapping[str, float]
    before: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return plain types."""
        return {"metrics": dict(self.metrics), "costs": dict(self.costs), "before": dict(self.before)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, float]]) -> Score:
        """Build from plain types, the inverse of :meth:`to_dict`."""
        return cls(dict(data["metrics"]), dict(data["costs"]), dict(data["before"]))
