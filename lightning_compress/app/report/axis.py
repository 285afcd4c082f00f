"""An axis of a chart: values to pixels, and round numbers to label it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

STEPS = (5, 2, 1)  # between ticks, times a power of ten


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high`` on pixels from ``start`` to ``end``; ticks lie ``least`` or more apart."""

    low: float
    high: float
    start: float
    end: float
    least: float = 0.0

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Three to ten round numbers inside the axis, each with its label: ``1.25M``, ``31k``, ``0.985``.

        They are fewer where ``least`` leaves no room for three.
        """
        widest = (self.high - self.low) / 3.5
        power = 10.0 ** floor(log10(widest))
        step = max(next(power * factor for factor in STEPS if power * factor <= widest), self.least)
        first, last = -floor(-self.low / step), floor(self.high / step)
        largest = max(abs(self.low), abs(self.high))
        suffix, unit = next((s, u) for s, u in (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 0)) if largest >= 2 * u)
        decimals = max(0, -floor(log10(step / (unit or 1)) + 1e-9))
        values = [index * step for index in range(first, last + 1)]
        return [(value, f"{value / (unit or 1):.{decimals}f}{suffix}" if value else "0") for value in values]

    def labeled(self, most: int) -> list[tuple[float, str]]:
        """The ticks, or every second or third of them: at most ``most``, for labels that stand side by side."""
        return self.ticks[:: -(-len(self.ticks) // most)]


def axis(values: Sequence[float], start: float, end: float, least: float = 0.0) -> Axis:
    """An axis that shows all values, with a little room around them."""
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    room = 0.06 * (high - low) if high - low > 1e-6 * size else 0.5 * size or 0.5
    return Axis(low - room, high + room, start, end, least)
