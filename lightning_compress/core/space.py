"""The search space: an ordered list of choices, each a knob of a layer with the values it may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Number, Plan


@dataclass(frozen=True)
class Choice:
    """One decision: ``values`` of ``knob`` at ``layer``, cheapest first (cost never falls along them)."""

    layer: str
    knob: str
    values: tuple[Number, ...]

    def __post_init__(self) -> None:
        if not self.values or list(self.values) != sorted(set(self.values)):
            raise CompressError(
                f"choice: values of {self.knob!r} at {self.layer!r} must be distinct and ascending, got {self.values}"
            )

    def index(self, unit: float) -> int:
        """Return the value that ``unit`` in [0, 1] falls on, all values having bins of equal width (HAQ's mapping)."""
        return min(int(unit * len(self.values)), len(self.values) - 1)

    def unit(self, index: int) -> float:
        """Return the middle of the bin of ``index``: ``index(unit(i)) == i``."""
        return (index + 0.5) / len(self.values)


@dataclass(frozen=True)
class Space:
    """Choices of a search, in the order in which layers run. A point is one index per choice."""

    choices: tuple[Choice, ...]

    def __len__(self) -> int:
        return len(self.choices)

    def plan(self, indices: Sequence[int]) -> Plan:
        """Return the plan that picks ``choices[i].values[indices[i]]``."""
        layers: dict[str, dict[str, Number]] = {}
        for choice, index in zip(self.choices, indices, strict=True):
            layers.setdefault(choice.layer, {})[choice.knob] = choice.values[index]
        return Plan(layers)

    def indices(self, plan: Plan) -> tuple[int, ...]:
        """Return the inverse of :meth:`plan`.

        Raises:
            CompressError: the plan misses a choice, or has a value that is not on its grid.
        """
        found = []
        for choice in self.choices:
            value = plan.get(choice.layer, choice.knob)
            if value not in choice.values:
                raise CompressError(
                    f"plan: {choice.knob!r} of {choice.layer!r} is {value!r}, which is not among {choice.values}"
                )
            found.append(choice.values.index(value))
        return tuple(found)

    def to_list(self) -> list[list[Any]]:
        """Return layer, knob and values of each choice as plain types, for files."""
        return [[choice.layer, choice.knob, list(choice.values)] for choice in self.choices]

    @property
    def smallest(self) -> tuple[int, ...]:
        """The cheapest point."""
        return (0,) * len(self.choices)

    @property
    def largest(self) -> tuple[int, ...]:
        """The most expensive point."""
        return tuple(len(c.values) - 1 for c in self.choices)
