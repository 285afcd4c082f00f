"""The report: figures, how they were made, the search, the plan, and the configuration, as one HTML file."""

from __future__ import annotations

from collections import Counter
from html import escape
from pathlib import Path

from lightning_compress.app.report import charts
from lightning_compress.app.report.contents import Report, Search, Sensitivities, best_of
from lightning_compress.app.report.page import page
from lightning_compress.app.report.plan_table import plan_table
from lightning_compress.app.report.search_table import search_table
from lightning_compress.app.report.sensitivity_table import sensitivity_table

REASONS = 3  # why trials failed, that are named
SIGNS = {
    "trial": '<circle class="trial" cx="17" cy="7" r="3"/>',
    "failed": '<circle class="failed" cx="17" cy="7" r="3.5"/>',
    "best": '<path class="best" d="M1 7H33"/>',
    "front": '<path class="line" d="M1 7H33"/><circle class="front" cx="17" cy="7" r="4"/>',
    "chosen": '<circle class="chosen" cx="17" cy="7" r="5"/>',
    "limit": '<line class="limit" x1="17" x2="17" y1="0" y2="14"/>',
}


def write_report(path: str | Path, report: Report) -> None:
    """Write the report as one HTML file."""
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        _rows(report),
        _facts(report),
        *map(_search, report.searches),
        *map(_sensitivities, report.sensitivities),
        _plan(report),
        _config(report),
    ]
    Path(path).write_text(page(report.title, "\n".join(part for part in parts if part)), encoding="utf-8")


def _rows(report: Report) -> str:
    names = ("dense", "compressed", "change")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", *names))
    body = ""
    for row in report.rows:
        first, *rest = map(escape, row.cells())
        cells = "".join(f'<td class="{n}" data-name="{n}">{cell}</td>' for n, cell in zip(names, rest, strict=True))
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>\n'
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def _facts(report: Report) -> str:
    if not report.facts:
        return ""
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in report.facts.items())
    return f"<h2>How it was made</h2>\n<dl>{items}</dl>"


def _search(search: Search) -> str:
    title = f"<h2>Search: {escape(search.name)}</h2>"
    if not search.scored:
        return f"{title}\n{_paragraphs([f'All {len(search.points)} trials failed. {_failures(search)}'])}"
    failed = len(search.points) - len(search.scored)
    best = search.best
    trials = f"{len(search.points):,} trial{'' if len(search.points) == 1 else 's'}"
    texts = [f"{trials}, {failed:,} failed; trial {best.number} is the best, with {best.reward:.4f}."]
    if failed:
        texts.append(_failures(search))
    if search.ranking is not None:
        texts.append(search.ranking.sentence)
    if charts.thinned(search):
        texts.append(
            f"The charts show a dot for some of the trials only: at most {charts.DOTS:,} evenly by number, at most "
            f"{charts.FAILURES} of those that failed, and those on the Pareto front or better than all before."
        )
    texts.append(f"Plans of the Pareto front: {search.name}/front/TRIAL.yaml in the run's folder, each for plan=FILE.")
    keys = [_sign("trial"), _sign("best", "this search, best so far"), *_baselines(search)]
    return (
        f"{title}\n{_paragraphs(texts)}\n{search_table(search)}\n"
        f'<div class="grid-of"><div class="panel"><h3>Learning curve</h3>{charts.curve(search)}'
        f"{_key([*keys, *([_sign('failed')] if failed else [])])}</div>\n"
        f'<div class="panel"><h3>All trials</h3>{charts.scatter(search)}'
        f"{_key([_sign('trial'), _sign('front', 'Pareto front'), _sign('chosen'), _sign('limit')])}</div></div>"
    )


def _sensitivities(found: Sensitivities) -> str:
    sentence = found.sentence[0].upper() + found.sentence[1:]
    return f"<h2>Sensitivity: {escape(found.name)}</h2>\n{_paragraphs([sentence])}\n{sensitivity_table(found)}"


def _paragraphs(texts: list[str]) -> str:
    return "\n".join(f"<p>{escape(text)}</p>" for text in texts if text)


def _failures(search: Search) -> str:
    """The most common reasons."""
    reasons = Counter(point.failure for point in search.points if point.reward is None)
    named = [f"{reason} ({count:,}x)" for reason, count in reasons.most_common(REASONS)]
    more = [f"{len(reasons) - REASONS} more reasons"] if len(reasons) > REASONS else []
    return f"Why trials failed: {'; '.join([*named, *more])}." if reasons else ""


def _baselines(search: Search) -> list[str]:
    """Signs of the baselines that have a line."""
    return [
        _sign_of(f'<path class="{charts.look(index)}" d="M1 7H33"/>', f"{name}, best so far")
        for index, (name, points) in enumerate(search.baselines.items())
        if best_of(points) is not None
    ]


def _sign(kind: str, name: str = "") -> str:
    return _sign_of(SIGNS[kind], name or kind)


def _sign_of(drawing: str, name: str) -> str:
    return f'<span><svg viewBox="0 0 34 14" aria-hidden="true">{drawing}</svg>{escape(name)}</span>'


def _key(signs: list[str]) -> str:
    return f'<div class="key">{"".join(signs)}</div>'


def _plan(report: Report) -> str:
    if not report.plan.layers:
        return ""
    return f"<h2>The plan, layer by layer</h2>\n{plan_table(report.plan)}"


def _config(report: Report) -> str:
    if not report.config:
        return ""
    return f"<h2>Configuration</h2>\n<details><summary>show</summary><pre>{escape(report.config)}</pre></details>"
