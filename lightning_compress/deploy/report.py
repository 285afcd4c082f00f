"""The report: one HTML file that needs nothing else, readable on a phone and in the dark."""

from __future__ import annotations

from html import escape
from pathlib import Path

from lightning_compress.deploy import charts
from lightning_compress.deploy.evidence import Report, Search

KNOBS = {
    "channels": "channels kept",
    "density": "weights kept",
    "weight_bits": "bits per weight",
    "act_bits": "bits per activation",
    "rank_in": "rank, of the input channels",
    "rank_out": "rank, of the output channels",
    "keep": "layers kept",
}

STYLE = """
:root { --page: #fff; --text: #1b2430; --soft: #5b6778; --rule: #dde3ea; --panel: #f6f8fa;
  --accent: #2563eb; --dot: #94a3b8; --front: #d97706; --bad: #dc2626; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161c; --text: #e4e9f0; --soft: #98a4b5; --rule: #2b3441; --panel: #1a2029;
    --accent: #6ea0ff; --dot: #64748b; --front: #fbbf24; --bad: #f87171; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem 1rem 3rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .5rem; }
p { margin: .4rem 0; color: var(--soft); font-size: .9rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem .4rem 0; border-bottom: 1px solid var(--rule); text-align: right; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; }
th:first-child { text-align: left; }
tbody th { color: var(--text); font-size: 1rem; font-weight: 400; }
td:last-child { font-weight: 600; }
td:last-child, th:last-child { padding-right: 0; }
.grid-of { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.panel { background: var(--panel); border: 1px solid var(--rule); border-radius: .5rem; padding: .8rem; margin: 0;
  min-width: 0; }
.bar { display: grid; grid-template-columns: minmax(6rem, 40%) 1fr 3rem; gap: .6rem; align-items: center;
  font-size: .82rem; line-height: 1.55; }
.bar .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; direction: rtl; text-align: left; }
.bar .value { text-align: right; font-variant-numeric: tabular-nums; }
.track { background: var(--rule); height: .7rem; border-radius: .2rem; }
.fill { display: block; height: 100%; background: var(--accent); border-radius: .2rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11.5px; }
svg text.axis { font-size: 12.5px; }
svg .grid { stroke: var(--rule); }
svg path { fill: none; stroke-width: 2; }
.trial { fill: var(--dot); } .failed { fill: none; stroke: var(--bad); stroke-width: 1.5; }
.front { fill: var(--front); } .line { stroke: var(--front); } .best { stroke: var(--accent); }
.baseline { stroke: var(--soft); stroke-dasharray: 6 3; }
.chosen { fill: none; stroke: var(--accent); stroke-width: 2.5; }
.limit { stroke: var(--bad); stroke-dasharray: 5 4; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .82rem; color: var(--soft); margin-top: .4rem; }
.key svg { display: inline-block; width: 1.1rem; height: .9rem; vertical-align: -.1rem; margin-right: .3rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1rem; margin: 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: .8rem; background: var(--panel); border: 1px solid var(--rule); padding: .8rem;
  border-radius: .5rem; }
summary { cursor: pointer; color: var(--soft); }
@media (max-width: 36rem) {
  thead { display: none; }
  tbody tr { display: grid; grid-template-columns: repeat(3, 1fr); padding: .4rem 0; }
  tbody tr { border-bottom: 1px solid var(--rule); }
  tbody th { grid-column: 1 / -1; }
  tbody th, td { border: 0; padding: 0 .4rem 0 0; text-align: left; }
  td { font-size: .88rem; }
  svg text { font-size: 14px; } svg text.axis { font-size: 14.5px; }
  td::before { content: attr(data-name); display: block; color: var(--soft); font-size: .75rem; font-weight: 400; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: .5rem; }
}
"""


def write_report(path: str | Path, report: Report) -> None:
    """Write the report as one HTML file."""
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        _rows(report),
        _facts(report),
        *map(_search, report.searches),
        _plan(report),
        _config(report),
    ]
    Path(path).write_text(page(report.title, "\n".join(part for part in parts if part)), encoding="utf-8")


def page(title: str, body: str) -> str:
    """An HTML page that needs nothing else; ``body`` is HTML, the title is text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _rows(report: Report) -> str:
    names = ("dense", "compressed", "change")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", *names))
    body = ""
    for row in report.rows:
        first, *rest = map(escape, row.cells())
        cells = "".join(f'<td data-name="{n}">{cell}</td>' for n, cell in zip(names, rest, strict=True))
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>\n'
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def _facts(report: Report) -> str:
    if not report.facts:
        return ""
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in report.facts.items())
    return f"<h2>How it was made</h2>\n<dl>{items}</dl>"


def _search(search: Search) -> str:
    title = f"<h2>Search: {escape(search.name)}</h2>"
    failed = len(search.points) - len(search.scored)
    if not search.scored:
        return f"{title}\n<p>All {failed} trials failed.</p>"
    best = search.best
    text = f"{len(search.points)} trials, {failed} failed; trial {best.number} is the best, with {best.reward:.4f}."
    if search.baselines:
        others = "; ".join(
            f"{name} {'failed' if reward is None else f'{reward:.4f}'}"
            for name, reward in search.compared().items()
            if name in search.baselines
        )
        text += f" Best of the baselines with as many trials: {others}."
    if search.ranking is not None:
        text += f" {search.ranking.sentence}"
    baseline = ["baselines, best so far"] if search.baselines else []
    return (
        f"{title}\n<p>{escape(text)}</p>\n"
        f'<div class="grid-of"><div class="panel"><h3>Learning curve</h3>{charts.curve(search)}'
        f"{_key('trial', 'best so far', *baseline, *(['failed'] if failed else []))}</div>\n"
        f'<div class="panel"><h3>All trials</h3>{charts.scatter(search)}'
        f"{_key('trial', 'Pareto front', 'chosen', 'limit')}</div></div>"
    )


def _key(*names: str) -> str:
    signs = {
        "trial": '<circle class="trial" cx="9" cy="7" r="3"/>',
        "failed": '<circle class="failed" cx="9" cy="7" r="3.5"/>',
        "best so far": '<path class="best" d="M1 7H17"/>',
        "baselines, best so far": '<path class="baseline" d="M1 7H17"/>',
        "Pareto front": '<path class="line" d="M1 7H17"/><circle class="front" cx="9" cy="7" r="4"/>',
        "chosen": '<circle class="chosen" cx="9" cy="7" r="5"/>',
        "limit": '<line class="limit" x1="9" x2="9" y1="0" y2="14"/>',
    }
    items = "".join(f'<span><svg viewBox="0 0 18 14" aria-hidden="true">{signs[n]}</svg>{n}</span>' for n in names)
    return f'<div class="key">{items}</div>'


def _plan(report: Report) -> str:
    if not report.plan.layers:
        return ""
    panels = "".join(
        f'<div class="panel"><h3>{escape(KNOBS.get(knob, knob))}</h3>{charts.bars(report.plan.knob(knob))}</div>\n'
        for knob in sorted(report.plan.knobs, reverse=True)
    )
    return f'<h2>The plan, layer by layer</h2>\n<div class="grid-of">{panels}</div>'


def _config(report: Report) -> str:
    if not report.config:
        return ""
    return f"<h2>Configuration</h2>\n<details><summary>show</summary><pre>{escape(report.config)}</pre></details>"
