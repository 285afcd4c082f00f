"""Table of a search and its baselines: rows for the page, lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from lightning_compress.app.report.contents import Point, Search, best_of


def rows(search: Search) -> list[tuple[str, ...]]:
    """Return a label, then a cell for the search and for each baseline.

    The best reward is given after a quarter and after half of the trials too: a search that learns gets better than its
    baselines as it goes.
    """
    tried = search.tried.values()
    most = max(map(len, tried))
    early = sorted({most // 4, most // 2} - {0, most})
    best = [best_of(points) for points in tried]
    return [
        *((f"best reward, first {n:,}", *(_reward(best_of(points[:n])) for points in tried)) for n in early),
        (f"best reward, all {most:,}", *map(_reward, best)),
        (f"best plan: {search.cost}", *("-" if p is None else f"{p.cost:,.10g}" for p in best)),
        ("best plan: trial", *("-" if p is None else f"{p.number:,}" for p in best)),
        ("trials", *(f"{len(points):,}" for points in tried)),
        ("failed", *(f"{_failed(points):,}" for points in tried)),
    ]


def lines(searches: Iterable[Search]) -> Table:
    """Return a line for each search, with the best reward of each of its baselines, for a terminal."""
    searches = list(searches)
    baselines = list(dict.fromkeys(name for search in searches for name in search.baselines))
    found = Table()
    for name in ("search", "best reward", *baselines, "trials", "failed"):
        found.add_column(Text(name), justify="left" if name == "search" else "right", no_wrap=True)
    for search in searches:
        others = (_reward(best_of(search.baselines[n])) if n in search.baselines else "" for n in baselines)
        counts = f"{len(search.points):,}", f"{_failed(search.points):,}"
        found.add_row(Text(search.name), _reward(search.best), *others, *counts)
    return found


def _reward(point: Point | None) -> str:
    return "all failed" if point is None else f"{point.reward:.4f}"


def _failed(points: Sequence[Point]) -> int:
    return sum(point.failed for point in points)
