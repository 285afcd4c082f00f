"""Charts as inline SVG, colored by CSS classes, so that they follow the page's light or dark scheme.

A chart has some thousand dots at most, so that a search of 100,000 trials makes a small page: those that say most (the
Pareto front, each new best) and others evenly by trial number. Axes show where most trials are: the few far worse ones
stand at the lower edge, and where nearly all plans lie just below the limit, the axis is logarithmic in what they leave
of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from lightning_compress.app.report.contents import Point, Search

WIDTH, HEIGHT = 460, 300
RIGHT, TOP, BOTTOM = 24, 32, 44
LETTER = 8.4  # width of a label's letter, at the size that phones show
DOTS, FAILURES = 2000, 200  # of each, in a chart, beside those that are always shown
LABELS = 6  # side by side
LOOKS = 12  # of baselines, until one comes again; the page has a color and a dash for each
STEPS = (5, 2, 1)  # between ticks, times a power of ten
FENCE = 3.0  # a reward is far worse if it is so many times farther below the lower quartile than this is below the best
NEAR = 0.02  # share of the limit, that most plans leave less of where the axis is logarithmic


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high`` on pixels from ``start`` to ``end``; ticks lie ``least`` or more apart."""

    low: float
    high: float
    start: float
    end: float
    least: float = 0.0

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; of one below the axis, its start."""
        share = max((value - self.low) / (self.high - self.low), 0.0)
        return round(self.start + share * (self.end - self.start), 1)

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
        """Return the ticks, or every second or third of them: at most ``most``, for labels that stand side by side."""
        return self.ticks[:: -(-len(self.ticks) // most)]


@dataclass(frozen=True)
class LimitAxis:
    """Costs up to ``limit`` by what they leave of it: evenly by decade, the limit itself at the end.

    Attributes:
        limit: the largest cost.
        first, last: the decades, as powers of ten of a share of the limit: 0 is all of it, -2 a hundredth.
    """

    limit: float
    first: int
    last: int
    start: float
    end: float

    def __call__(self, cost: float) -> float:
        """Return the pixel of a cost."""
        left = max(1 - cost / self.limit, 10.0**self.last)
        share = (log10(left) - self.first) / (self.last - self.first)
        return round(self.start + max(share, 0.0) * (self.end - self.start), 1)

    def labeled(self, most: int) -> list[tuple[float, str]]:
        """Return the costs at whole decades below the limit, each with its label (``-1 %``), and the limit."""
        decades = range(self.first, self.last, -1)
        shown = decades[:: max(1, ceil(len(decades) / (most - 1)))]
        return [*((self.limit * (1 - 10.0**d), f"-{100 * 10.0**d:.10g} %") for d in shown), (self.limit, "limit")]


def axis(values: Sequence[float], start: float, end: float, least: float = 0.0) -> Axis:
    """Return an axis that shows all values, with a little room around them."""
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    room = 0.06 * (high - low) if high - low > 1e-6 * size else 0.5 * size or 0.5
    return Axis(low - room, high + room, start, end, least)


def curve(search: Search) -> str:
    """Draw the reward of every trial, the best so far as a line, and that of each baseline."""
    lines = {name: _best_so_far(points) for name, points in search.baselines.items()}
    trials = max(len(points) for points in (search.points, *search.baselines.values()))
    own = _best_so_far(search.points)
    y = _rewards(search, [p.reward for line in lines.values() for p in line[-1:]])
    x = axis([0, max(trials, 2) - 1], _left(y), WIDTH - RIGHT, least=1)
    failed = _evenly([point for point in search.points if point.failed], FAILURES)
    marks = [
        *(_mark("failed", x(point.number), y.start, f"trial {point.number}: {point.failure}") for point in failed),
        *(_trial(p, x(p.number), y, _label(p)) for p in _shown(search, own[:-1])),
    ]
    paths = [
        _steps(f"baseline {look(index)}", line, x, y, name) for index, (name, line) in enumerate(lines.items()) if line
    ]
    paths.append(_steps("best", own, x, y, "this search"))
    return _frame(x, y, "trial", "reward", [*marks, *paths])


def scatter(search: Search) -> str:
    """Draw cost against reward of every trial, the Pareto front, the chosen trial, and the limit."""
    y = _rewards(search, [])
    x = _costs(search, _left(y), WIDTH - RIGHT)
    front, best = search.front, max(search.scored, key=lambda point: point.reward)
    limit = f'<line class="limit" x1="{x(search.limit)}" x2="{x(search.limit)}" y1="{y.start}" y2="{y.end}"/>'
    marks = [_trial(p, x(p.cost), y, _label_with_cost(p)) for p in _shown(search, front)]
    seen = [point for point in front if point.reward >= y.low]
    line = f'<path class="line" d="M{"L".join(_distinct((x(p.cost), y(p.reward)) for p in seen))}"/>'
    rings = [_mark("front", x(p.cost), y(p.reward), _label_with_cost(p)) for p in _evenly(seen, DOTS)]
    chosen = _mark("chosen", x(best.cost), y(best.reward), f"chosen: {_label_with_cost(best)}")
    name = search.cost if isinstance(x, Axis) else f"{search.cost}, below the limit of {search.limit:,.10g}"
    return _frame(x, y, name, "reward", [limit, *marks, line, *rings, chosen])


def hidden(search: Search) -> bool:
    """Return whether some rewards are so low that they stand at the edge of the charts."""
    low = _rewards(search, []).low
    return any(point.reward < low for point in search.scored)


def thinned(search: Search) -> bool:
    """Return whether the charts leave trials out."""
    return len(search.scored) > DOTS or len(search.points) - len(search.scored) > FAILURES


def look(index: int) -> str:
    """Return the CSS class of a baseline's line: color and dash."""
    return f"look{index % LOOKS}"


def _rewards(search: Search, others: Sequence[float]) -> Axis:
    """Return the axis of rewards, from the lowest, or from where the far worse ones begin.

    Args:
        search: the search of a stage.
        others: what is shown in any case.
    """
    rewards = sorted(point.reward for point in search.scored)
    quartile, best = rewards[len(rewards) // 4], rewards[-1]
    least = quartile - FENCE * (best - quartile)
    shown = [r for r in rewards if r >= least] if rewards[0] < least - (best - least) else rewards
    return axis([*shown, *others], HEIGHT - BOTTOM, TOP)


def _costs(search: Search, start: float, end: float) -> Axis | LimitAxis:
    costs = sorted(point.cost for point in search.scored)
    left = [1 - cost / search.limit for cost in costs] if search.limit else [1.0]
    positive = [share for share in left if share > 0]
    if min(left) < 0 or not positive or left[len(left) // 4] > NEAR:
        return axis([*costs, search.limit], start, end)
    first, last = ceil(log10(max(positive))), floor(log10(max(min(positive), 1e-6)))
    return LimitAxis(search.limit, first, min(last, first - 1), start, end)


def _shown(search: Search, always: Sequence[Point]) -> list[Point]:
    """Return the trials that get a dot, by number."""
    chosen = {point.number: point for point in (*_evenly(search.scored, DOTS), *_evenly(always, DOTS))}
    return [chosen[number] for number in sorted(chosen)]


def _evenly(points: Sequence[Point], most: int) -> Sequence[Point]:
    """Return at most ``most`` of them, including the first and the last."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _best_so_far(points: Sequence[Point]) -> list[Point]:
    """Return the trials at which the best reward rose, and then the last trial, with that reward."""
    found: list[Point] = []
    for point in points:
        if not point.failed and (not found or point.reward > found[-1].reward):
            found.append(point)
    return [*found, Point(points[-1].number, found[-1].cost, found[-1].reward)] if found else []


def _steps(kind: str, line: Sequence[Point], x: Axis, y: Axis, name: str) -> str:
    (start, *_), top = line, line[-1].reward
    steps = dict.fromkeys((x(point.number), y(point.reward)) for point in line[1:])
    path = f"M{x(start.number)} {y(start.reward)}" + "".join(f"H{across}V{up}" for across, up in steps)
    return f'<path class="{kind}" d="{path}"><title>{escape(name)}: {top:.4f}</title></path>'


def _distinct(places: Iterable[tuple[float, float]]) -> Iterable[str]:
    return (f"{x} {y}" for x, y in dict.fromkeys(places))


def _label(point: Point) -> str:
    return f"trial {point.number}: {point.reward:.4f}"


def _label_with_cost(point: Point) -> str:
    return f"{_label(point)}, cost {point.cost:,.10g}"


def _trial(point: Point, x: float, y: Axis, text: str) -> str:
    """Return a dot, or a triangle at the edge for a reward below the axis."""
    if point.reward >= y.low:
        return _mark("trial", x, y(point.reward), text)
    path = f"M{x - 4} {y.start - 7}H{x + 4}L{x} {y.start}Z"
    return f'<path class="below" d="{path}"><title>{escape(text)}</title></path>'


def _mark(kind: str, x: float, y: float, text: str) -> str:
    radius = {"trial": 2.6, "failed": 3, "front": 4, "chosen": 6}[kind]
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"><title>{escape(text)}</title></circle>'


def _left(y: Axis) -> float:
    """Return where the plot begins, with room for the labels of the y axis."""
    return round(14 + LETTER * max(len(text) for _, text in y.ticks))


def _frame(x: Axis | LimitAxis, y: Axis, x_name: str, y_name: str, content: Sequence[str]) -> str:
    grid = [f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(v)}" y2="{y(v)}"/>' for v, _ in y.ticks]
    grid += [f'<text x="{x.start - 8}" y="{y(v) + 4}" text-anchor="end">{text}</text>' for v, text in y.ticks]
    grid += [
        f'<text x="{x(v)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>'
        for v, text in x.labeled(LABELS)
    ]
    names = (
        f'<text class="axis" x="{(x.start + x.end) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text class="axis" x="4" y="14">{escape(y_name)}</text>'
    )
    label = escape(f"{y_name} over {x_name}", quote=True)
    body = "".join([*grid, names, *content])
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}</svg>'
