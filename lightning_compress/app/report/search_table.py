"""What a search found beside its baselines, as a table of the page and as lines in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from rich.table import Table
from rich.text import Text

from lightning_compress.app.report.contents import Point, Search, best_of


def search_table(search: Search) -> str:
    """HTML: a column for the search and for each baseline, a row for each figure."""
    names = list(search.tried)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", *names))
    lines = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f'<td data-name="{escape(n)}">{escape(c)}</td>' for n, c in zip(names, cells, strict=True))
        + "</tr>\n"
        for label, *cells in rows(search)
    )
    table = f'<table class="tried">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table>'
    return f'<div class="scroll">{table}</div>'


def rows(search: Search) -> list[tuple[str, ...]]:
    """Label, then a cell for the search and for each baseline.

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
        (f"its cost, {search.cost}", *("-" if p is None else f"{p.cost:,.10g}" for p in best)),
        ("its trial", *("-" if p is None else f"{p.number:,}" for p in best)),
        ("trials", *(f"{len(points):,}" for points in tried)),
        ("failed", *(f"{_failed(points):,}" for points in tried)),
    ]


def lines(searches: Iterable[Search]) -> Table:
    """A line for each search, with the best reward of each of its baselines, for a terminal."""
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
    return sum(point.reward is None for point in points)
