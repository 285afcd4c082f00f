"""Charts as inline SVG and HTML, coloured by CSS classes, so that they follow the page's light or dark scheme."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

from lightning_compress.deploy.evidence import Point, Search

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 44


@dataclass(frozen=True)
class Axis:
    """Values between ``low`` and ``high`` on pixels between ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Three to ten round numbers inside the axis, each with its label: ``1.25M``, ``31k``, ``0.985``."""
        widest = (self.high - self.low) / 3.5
        power = 10.0 ** floor(log10(widest))
        step = next(power * factor for factor in (5, 2, 1) if power * factor <= widest)
        first, last = -floor(-self.low / step), floor(self.high / step)
        largest = max(abs(self.low), abs(self.high))
        suffix, unit = next((s, u) for s, u in (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 0)) if largest >= 2 * u)
        decimals = max(0, -floor(log10(step / (unit or 1)) + 1e-9))
        values = [index * step for index in range(first, last + 1)]
        return [(value, f"{value / (unit or 1):.{decimals}f}{suffix}" if value else "0") for value in values]


def axis(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis that shows all values, with a little room around them."""
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    room = 0.06 * (high - low) if high - low > 1e-6 * size else 0.5 * size or 0.5
    return Axis(low - room, high + room, start, end)


def bars(values: Mapping[str, float]) -> str:
    """One horizontal bar per layer, in natural order of the names; shares up to 1 are shown in per cent."""
    top = max(1.0, *values.values())
    rows = []
    for name in sorted(values, key=_natural):
        value = values[name]
        text = f"{100 * value:.0f} %" if top == 1 else f"{value:g}"
        rows.append(
            f'<div class="bar"><span class="name" title="{escape(name)}"><bdi dir="ltr">{escape(name)}</bdi></span>'
            f'<span class="track"><span class="fill" style="width:{100 * value / top:.1f}%"></span></span>'
            f'<span class="value">{text}</span></div>'
        )
    return f'<div class="bars">{"".join(rows)}</div>'


def curve(search: Search) -> str:
    """Reward of every trial, the best so far as a line, and the best so far of each baseline."""
    others = [points for points in search.baselines.values() if any(p.reward is not None for p in points)]
    x = axis([0, max(*(len(points) for points in [search.points, *others]), 2) - 1], LEFT, WIDTH - RIGHT)
    lines = [_best_so_far(points) for points in others]
    rewards = [point.reward for point in search.scored] + [best for line in lines for _, best in line]
    y = axis(rewards, HEIGHT - BOTTOM, TOP)
    marks = [
        _mark("failed", x(point.number), y.start, f"trial {point.number}: {point.failure}")
        if point.reward is None
        else _mark("trial", x(point.number), y(point.reward), _label(point.number, point.reward))
        for point in search.points
    ]
    paths = [_steps("baseline", line, x, y, name) for line, name in zip(lines, search.baselines, strict=False)]
    paths.append(_steps("best", _best_so_far(search.points), x, y, "this search"))
    return _frame(x, y, "trial", search.reward, [*marks, *paths])


def _best_so_far(points: Sequence[Point]) -> list[tuple[int, float]]:
    """Trial numbers at which the best reward rose, and the last one, with the best reward there."""
    found: list[tuple[int, float]] = []
    for point in points:
        if point.reward is not None and (not found or point.reward > found[-1][1]):
            found.append((point.number, point.reward))
    return [*found, (points[-1].number, found[-1][1])] if found else []


def _steps(kind: str, line: Sequence[tuple[int, float]], x: Axis, y: Axis, name: str) -> str:
    (first, best), *rest = line
    path = f"M{x(first)} {y(best)}" + "".join(f"H{x(number)}V{y(value)}" for number, value in rest)
    return f'<path class="{kind}" d="{path}"><title>{escape(name)}: {line[-1][1]:.4f}</title></path>'


def scatter(search: Search) -> str:
    """Cost against reward of every trial, the Pareto front as a line, the chosen trial, and the limit."""
    x = axis([*(point.cost for point in search.scored), search.limit], LEFT, WIDTH - RIGHT)
    y = axis([point.reward for point in search.scored], HEIGHT - BOTTOM, TOP)
    limit = f'<line class="limit" x1="{x(search.limit)}" x2="{x(search.limit)}" y1="{y.start}" y2="{y.end}"/>'
    labels = {p.number: f"{_label(p.number, p.reward)}, cost {p.cost:,.10g}" for p in search.scored}
    marks = [_mark("trial", x(p.cost), y(p.reward), labels[p.number]) for p in search.scored]
    front = "L".join(f"{x(p.cost)} {y(p.reward)}" for p in search.front)
    rings = [_mark("front", x(p.cost), y(p.reward), labels[p.number]) for p in search.front]
    best = _mark("chosen", x(search.best.cost), y(search.best.reward), "chosen: " + labels[search.best.number])
    return _frame(x, y, search.cost, search.reward, [limit, *marks, f'<path class="line" d="M{front}"/>', *rings, best])


def _label(number: int, reward: float) -> str:
    return f"trial {number}: {reward:.4f}"


def _mark(kind: str, x: float, y: float, text: str) -> str:
    radius = {"trial": 2.6, "failed": 3, "front": 4, "chosen": 6}[kind]
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"><title>{escape(text)}</title></circle>'


def _frame(x: Axis, y: Axis, x_name: str, y_name: str, content: Sequence[str]) -> str:
    grid = [f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(v)}" y2="{y(v)}"/>' for v, _ in y.ticks]
    grid += [f'<text x="{LEFT - 6}" y="{y(v) + 4}" text-anchor="end">{text}</text>' for v, text in y.ticks]
    grid += [f'<text x="{x(v)}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{text}</text>' for v, text in x.ticks]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    names = (
        f'<text class="axis" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text class="axis" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_name)}</text>"
    )
    label = escape(f"{y_name} over {x_name}", quote=True)
    body = "".join([*grid, names, *content])
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}</svg>'


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key: ``layer2`` before ``layer10``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
