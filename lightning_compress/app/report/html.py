"""The pages: a report or a comparison through its template, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lightning_compress.app.report import charts
from lightning_compress.app.report.contents import Report, Search, best_of
from lightning_compress.app.report.plan_table import plan_table
from lightning_compress.app.report.search_table import rows
from lightning_compress.app.report.sensitivity_table import sensitivity_table

REASONS = 3  # why trials failed, that are named


def breakable(name: str) -> Markup:
    """Return a name that may break into lines behind its dots."""
    return Markup(escape(name).replace(".", Markup(".<wbr>")))


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("lightning_compress.app.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["breakable"] = breakable
    return made


def write_report(path: str | Path, report: Report) -> None:
    """Write the report as one HTML file."""
    page = _environment().get_template("report.html.j2").render(
        title=report.title, report=report, plan=plan_table(report.plan, report.layers),
        searches=[_view(search) for search in report.searches],
        sensitivities=[sensitivity_table(found) for found in report.sensitivities],
    )  # fmt: skip
    Path(path).write_text(page, encoding="utf-8")


def comparison(table: Sequence[Sequence[str]]) -> str:
    """Return runs side by side as an HTML page.

    Args:
        table: a header, then one row for each figure.
    """
    head, *body = table
    template = _environment().get_template("compare.html.j2")
    return template.render(title="Runs side by side", head=head, rows=body)


@dataclass(frozen=True)
class _Sign:
    """An entry of a chart's key."""

    drawing: Markup
    name: str


SIGNS = {
    "trial": _Sign(Markup('<circle class="trial" cx="17" cy="7" r="3"/>'), "trial"),
    "failed": _Sign(Markup('<circle class="failed" cx="17" cy="7" r="3.5"/>'), "failed"),
    "below": _Sign(Markup('<path class="below" d="M13 4H21L17 11Z"/>'), "below the axis"),
    "best": _Sign(Markup('<path class="best" d="M1 7H33"/>'), "this search, best so far"),
    "front": _Sign(
        Markup('<path class="line" d="M1 7H33"/><circle class="front" cx="17" cy="7" r="4"/>'), "Pareto front"
    ),
    "chosen": _Sign(Markup('<circle class="chosen" cx="17" cy="7" r="5"/>'), "chosen"),
    "limit": _Sign(Markup('<line class="limit" x1="17" x2="17" y1="0" y2="14"/>'), "limit"),
}


@dataclass(frozen=True)
class _View:
    """A search as its part of the page shows it."""

    search: Search
    sentences: list[str]
    columns: list[str]
    rows: list[tuple[str, ...]]
    curve: Markup
    curve_key: list[_Sign]
    scatter: Markup
    scatter_key: list[_Sign]


def _view(search: Search) -> _View:
    if not search.scored:
        lost = f"All {len(search.points)} trials failed. {_failures(search)}".strip()
        return _View(search, [lost], [], [], Markup(), [], Markup(), [])
    failed = len(search.points) > len(search.scored)
    below = ["below"] if charts.hidden(search) else []
    return _View(
        search,
        _sentences(search),
        ["", *search.tried],
        rows(search),
        Markup(charts.curve(search)),
        [
            SIGNS["trial"],
            SIGNS["best"],
            *_baselines(search),
            *(SIGNS[n] for n in below),
            *([SIGNS["failed"]] if failed else []),
        ],
        Markup(charts.scatter(search)),
        [SIGNS[name] for name in ("trial", "front", "chosen", "limit", *below)],
    )


def _sentences(search: Search) -> list[str]:
    failed = len(search.points) - len(search.scored)
    best = max(search.scored, key=lambda point: point.reward)
    trials = f"{len(search.points):,} trial{'' if len(search.points) == 1 else 's'}"
    found = [f"{trials}, {failed:,} failed; trial {best.number:,} is the best, with a reward of {best.reward:.4f}."]
    if search.meaning:
        found.append(f"The reward is {search.meaning}.")
    if search.starts:
        told = ", ".join(f"{name} {reward:.4f}" for name, reward in search.starts.items())
        found.append(f"It started from the better of the plans that need no search, by their rewards: {told}.")
    found += search.against_baselines
    if failed:
        found.append(_failures(search))
    found += search.remarks
    if charts.thinned(search):
        found.append(
            f"The charts show a dot for some of the trials only: at most {charts.DOTS:,} evenly by number, at most "
            f"{charts.FAILURES} of those that failed, and those on the Pareto front or better than all before."
        )
    found.append(f"Plans of the Pareto front: {search.name}/front/TRIAL.yaml in the run's folder, each for plan=FILE.")
    return found


def _failures(search: Search) -> str:
    """Return the most common reasons."""
    reasons = Counter(point.failure for point in search.points if point.failed)
    named = [f"{reason} ({count:,}x)" for reason, count in reasons.most_common(REASONS)]
    more = [f"{len(reasons) - REASONS} more reasons"] if len(reasons) > REASONS else []
    return f"Why trials failed: {'; '.join([*named, *more])}." if reasons else ""


def _baselines(search: Search) -> list[_Sign]:
    """Return the markers of the baselines that have a line."""
    return [
        _Sign(Markup(f'<path class="{charts.look(index)}" d="M1 7H33"/>'), f"{name}, best so far")
        for index, (name, points) in enumerate(search.baselines.items())
        if best_of(points) is not None
    ]
