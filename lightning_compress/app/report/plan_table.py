"""The plan as a table: a row for each layer, a column of bars for each knob."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from itertools import takewhile

from lightning_compress.core.plan import Plan

KNOBS = {
    "channels": "channels kept",
    "density": "weights kept",
    "weight_bits": "bits per weight",
    "act_bits": "bits per activation",
    "rank_in": "rank, of the input channels",
    "rank_out": "rank, of the output channels",
    "keep": "layers kept",
}


def plan_table(plan: Plan) -> str:
    """Layers in natural order of their names; a cell is empty where a layer lacks the knob.

    What all names begin with is said once, above.
    """
    knobs = {knob: plan.knob(knob) for knob in sorted(plan.knobs, reverse=True)}
    names = {knob: escape(KNOBS.get(knob, knob)) for knob in knobs}
    shared = _shared(plan.layers)
    note = f"<p>All layers are in {breakable(shared[:-1])}.</p>\n" if shared else ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("layer", *names.values()))
    rows = "".join(
        f'<tr><th scope="row">{breakable(layer.removeprefix(shared))}</th>'
        + "".join(f'<td data-name="{names[knob]}">{_bar(knob, values, layer)}</td>' for knob, values in knobs.items())
        + "</tr>\n"
        for layer in sorted(plan.layers, key=_natural)
    )
    return f'{note}<table class="plan">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>'


def _bar(knob: str, values: Mapping[str, float], layer: str) -> str:
    """A bar and its number."""
    if layer not in values:
        return ""
    value, top = values[layer], max(1.0, *values.values())
    return (
        f'<div class="bar"><span class="track"><span class="fill" style="width:{100 * value / top:.1f}%"></span></span>'
        f"<span>{amount(knob, value, top)}</span></div>"
    )


def amount(knob: str, value: float, top: float) -> str:
    """The number of a knob; shares of one are shown in per cent.

    Args:
        top: the largest that the knob has anywhere.
    """
    return f"{value:g}" if top > 1 or knob.endswith("_bits") else f"{100 * value:.3g} %"


def _shared(names: Iterable[str]) -> str:
    """The modules that hold all layers, with a dot behind each: ``backbone.stages.``."""
    parents = [name.split(".")[:-1] for name in names]
    return "".join(f"{part[0]}." for part in takewhile(lambda part: len(set(part)) == 1, zip(*parents, strict=False)))


def breakable(name: str) -> str:
    """The name as HTML that may break into lines behind its dots."""
    return escape(name).replace(".", ".<wbr>")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key: ``layer2`` before ``layer10``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
