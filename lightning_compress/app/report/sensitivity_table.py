"""What a stage measured of each layer, as a table of the page: bars of the reward lost at each value that was tried."""

from __future__ import annotations

from html import escape

from lightning_compress.app.report.contents import Layer, Sensitivities
from lightning_compress.app.report.plan_table import KNOBS, amount, breakable


def sensitivity_table(found: Sensitivities) -> str:
    """A row for each layer, from the least sensitive to the most."""
    most = max([lost for layer in found.layers for _, lost in layer.losses if lost is not None], default=0.0)
    lost = "reward lost at each value that was tried"
    rows = "".join(
        f'<tr><th scope="row">{breakable(layer.name)}</th>'
        f'<td data-name="{escape(_knob(layer))} in the plan">{amount(layer.knob, layer.chosen, _top(layer))}</td>'
        f'<td data-name="{lost}">{"".join(_bar(layer, value, loss, most) for value, loss in layer.losses)}</td></tr>\n'
        for layer in found.layers
    )
    knobs = " or ".join(dict.fromkeys(map(_knob, found.layers)))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("layer", f"{knobs} in the plan", lost))
    return f'<table class="plan lost">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>'


def _bar(layer: Layer, value: float, lost: float | None, most: float) -> str:
    """The value, a bar and the loss; no bar for a gain, which is noise, and for a failure."""
    width = 0.0 if lost is None or most <= 0 else 100 * max(lost, 0.0) / most
    text = "failed" if lost is None else f"{lost:.4f}"
    return (
        f'<div class="bar"><span>{amount(layer.knob, value, _top(layer))}</span><span class="track">'
        f'<span class="fill" style="width:{width:.1f}%"></span></span><span>{text}</span></div>'
    )


def _knob(layer: Layer) -> str:
    return KNOBS.get(layer.knob, layer.knob)


def _top(layer: Layer) -> float:
    return max(layer.chosen, *(value for value, _ in layer.losses), 0.0)
