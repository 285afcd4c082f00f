"""Charts as inline SVG, colored by CSS classes, so that they follow the page's light or dark scheme.

A chart has some thousand dots at most, so that a search of 100,000 trials makes a small page: those that say most (the
Pareto front, each new best) and others evenly by trial number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from lightning_compress.app.report.axis import Axis, axis
from lightning_compress.app.report.contents import Point, Search

WIDTH, HEIGHT = 460, 300
RIGHT, TOP, BOTTOM = 24, 32, 44
LETTER = 8.4  # width of a label's letter, at the size that phones show
DOTS, FAILURES = 2000, 200  # of each, in a chart, beside those that are always shown
LABELS = 6  # side by side
LOOKS = 12  # of baselines, until one comes again; the page has a color and a dash for each


def curve(search: Search) -> str:
    """Reward of every trial, the best so far as a line, and the best so far of each baseline."""
    lines = {name: _best_so_far(points) for name, points in search.baselines.items()}
    trials = max(len(points) for points in (search.points, *search.baselines.values()))
    own = _best_so_far(search.points)
    y = axis([p.reward for p in (*search.scored, *(p for line in lines.values() for p in line))], HEIGHT - BOTTOM, TOP)
    x = axis([0, max(trials, 2) - 1], _left(y), WIDTH - RIGHT, least=1)
    failed = _evenly([point for point in search.points if point.reward is None], FAILURES)
    marks = [
        *(_mark("failed", x(point.number), y.start, f"trial {point.number}: {point.failure}") for point in failed),
        *(_mark("trial", x(p.number), y(p.reward), _label(p)) for p in _shown(search, own)),
    ]
    paths = [
        _steps(f"baseline {look(index)}", line, x, y, name) for index, (name, line) in enumerate(lines.items()) if line
    ]
    paths.append(_steps("best", own, x, y, "this search"))
    return _frame(x, y, "trial", search.reward, [*marks, *paths])


def scatter(search: Search) -> str:
    """Cost against reward of every trial, the Pareto front as a line, the chosen trial, and the limit."""
    y = axis([point.reward for point in search.scored], HEIGHT - BOTTOM, TOP)
    x = axis([*(point.cost for point in search.scored), search.limit], _left(y), WIDTH - RIGHT)
    front, best = search.front, search.best
    limit = f'<line class="limit" x1="{x(search.limit)}" x2="{x(search.limit)}" y1="{y.start}" y2="{y.end}"/>'
    marks = [_mark("trial", x(p.cost), y(p.reward), _label_with_cost(p)) for p in _shown(search, front)]
    line = f'<path class="line" d="M{"L".join(_distinct((x(p.cost), y(p.reward)) for p in front))}"/>'
    rings = [_mark("front", x(p.cost), y(p.reward), _label_with_cost(p)) for p in _evenly(front, DOTS)]
    chosen = _mark("chosen", x(best.cost), y(best.reward), f"chosen: {_label_with_cost(best)}")
    return _frame(x, y, search.cost, search.reward, [limit, *marks, line, *rings, chosen])


def thinned(search: Search) -> bool:
    """Whether the charts leave trials out."""
    return len(search.scored) > DOTS or len(search.points) - len(search.scored) > FAILURES


def look(index: int) -> str:
    """The CSS class of a baseline's line: color and dash."""
    return f"look{index % LOOKS}"


def _shown(search: Search, always: Sequence[Point]) -> list[Point]:
    """The trials that get a dot, by number."""
    chosen = {point.number: point for point in (*_evenly(search.scored, DOTS), *_evenly(always, DOTS))}
    return [chosen[number] for number in sorted(chosen)]


def _evenly(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most ``most`` of them, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _best_so_far(points: Sequence[Point]) -> list[Point]:
    """The trials at which the best reward rose, and then the last trial, with that reward."""
    found: list[Point] = []
    for point in points:
        if point.reward is not None and (not found or point.reward > found[-1].reward):
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


def _mark(kind: str, x: float, y: float, text: str) -> str:
    radius = {"trial": 2.6, "failed": 3, "front": 4, "chosen": 6}[kind]
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"><title>{escape(text)}</title></circle>'


def _left(y: Axis) -> float:
    """Where the plot begins, with room for the labels of the y axis."""
    return round(14 + LETTER * max(len(text) for _, text in y.ticks))


def _frame(x: Axis, y: Axis, x_name: str, y_name: str, content: Sequence[str]) -> str:
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
