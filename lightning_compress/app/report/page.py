"""The skeleton and the style of our HTML pages: they need nothing else, and are readable on a phone and in the dark."""

from __future__ import annotations

from html import escape

STYLE = """
:root { --page: #fff; --text: #1b2430; --soft: #556274; --rule: #dde3ea; --panel: #f6f8fa;
  --accent: #2563eb; --dot: #7d8ca1; --front: #c2610a; --bad: #dc2626;
  --hue0: #0f766e; --hue1: #9333ea; --hue2: #b45309; --hue3: #be185d; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161c; --text: #e4e9f0; --soft: #98a4b5; --rule: #2b3441; --panel: #1a2029;
    --accent: #6ea0ff; --dot: #708097; --front: #fbbf24; --bad: #f87171;
    --hue0: #2dd4bf; --hue1: #c4a1ff; --hue2: #f5a524; --hue3: #f98fc0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem 1rem 3rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 0 0 .5rem; }
p { margin: .4rem 0; color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem .4rem 0; border-bottom: 1px solid var(--rule); text-align: right; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; overflow-wrap: anywhere; }
th:first-child { text-align: left; }
tbody th { color: var(--text); font-size: 1rem; font-weight: 400; overflow-wrap: normal; }
td.change { font-weight: 600; }
td:last-child, th:last-child { padding-right: 0; }
.scroll { overflow-x: auto; }
.tried { margin: .6rem 0 .2rem; font-size: .92rem; } .tried tbody th { font-size: .92rem; }
.plan { table-layout: fixed; font-size: .82rem; line-height: 1.3; }
.plan th, .plan td { padding: .22rem 1.2rem .22rem 0; text-align: left; }
.plan thead th:first-child { width: 32%; }
.plan tbody th { font-size: .82rem; overflow-wrap: anywhere; }
.bar { display: grid; grid-template-columns: 1fr 3.4rem; gap: .5rem; align-items: center; text-align: right; }
.lost .bar { grid-template-columns: 3.4rem 1fr 3.8rem; } .lost th:nth-child(2) { width: 22%; }
.track { background: var(--rule); height: .65rem; border-radius: .2rem; }
.fill { display: block; height: 100%; background: var(--accent); border-radius: .2rem; }
.grid-of { display: grid; gap: 1rem; align-items: start; margin-top: .7rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.panel { background: var(--panel); border: 1px solid var(--rule); border-radius: .5rem; padding: .8rem; margin: 0;
  min-width: 0; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11.5px; }
svg text.axis { font-size: 12.5px; }
svg .grid { stroke: var(--rule); }
svg path { fill: none; stroke-width: 2; }
.trial { fill: var(--dot); } .failed { fill: none; stroke: var(--bad); stroke-width: 1.5; }
.front { fill: var(--front); } .line { stroke: var(--front); }
.best { stroke: var(--accent); stroke-linecap: round; } svg path.best { stroke-width: 3; }
.look0, .look4, .look8 { stroke: var(--hue0); } .look1, .look5, .look9 { stroke: var(--hue1); }
.look2, .look6, .look10 { stroke: var(--hue2); } .look3, .look7, .look11 { stroke: var(--hue3); }
.look0, .look5, .look10 { stroke-dasharray: 7 3; } .look1, .look6, .look11 { stroke-dasharray: 2 3; }
.look2, .look7, .look8 { stroke-dasharray: 9 3 2 3; } .look3, .look4, .look9 { stroke-dasharray: 4 2; }
.chosen { fill: none; stroke: var(--accent); stroke-width: 2.5; }
.limit { stroke: var(--bad); stroke-dasharray: 5 4; stroke-width: 1.5; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .82rem; color: var(--soft); margin-top: .4rem; }
.key span { overflow-wrap: anywhere; }
.key svg { display: inline-block; width: 1.9rem; height: .9rem; vertical-align: -.1rem; margin-right: .35rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1rem; margin: 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: .8rem; background: var(--panel); border: 1px solid var(--rule); padding: .8rem;
  border-radius: .5rem; }
summary { cursor: pointer; color: var(--soft); }
@media (max-width: 36rem) {
  thead { display: none; }
  tbody tr { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); padding: .4rem 0; }
  .plan tbody tr { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .lost tbody tr { grid-template-columns: minmax(0, 1fr); }
  tbody tr { border-bottom: 1px solid var(--rule); }
  tbody th { grid-column: 1 / -1; }
  tbody th, td { border: 0; padding: 0 .4rem 0 0; text-align: left; overflow-wrap: anywhere; }
  td { font-size: .88rem; } td:empty { display: none; }
  .tried thead { display: table-header-group; } .tried tbody tr { display: table-row; }
  .tried th, .tried td { padding: .3rem .5rem .3rem 0; border-bottom: 1px solid var(--rule); }
  .tried thead th, .tried td { text-align: right; white-space: nowrap; } .tried td::before { content: none; }
  .plan tbody th { padding: .1rem 0; } .plan td { padding: .1rem 1rem .1rem 0; }
  svg text { font-size: 14px; } svg text.axis { font-size: 14.5px; }
  td::before { content: attr(data-name); display: block; color: var(--soft); font-size: .75rem; font-weight: 400; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: .5rem; }
}
"""


def page(title: str, body: str) -> str:
    """An HTML page that needs nothing else; ``body`` is HTML, the title is text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
