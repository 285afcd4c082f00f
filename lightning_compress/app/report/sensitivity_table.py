"""Table of sensitivities: bars of the reward lost at each value that was tried."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_compress.app.report.contents import Layer, Sensitivities
from lightning_compress.app.report.plan_table import Cell, amount, title_of

TITLE = "reward lost at each value that was tried"


@dataclass(frozen=True)
class LayerRow:
    """A layer: its knob, what the plan gives it, and a bar for each value."""

    name: str
    knob: str
    chosen: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class SensitivityTable:
    """Rows of a measurement on the page, from the least sensitive layer to the most."""

    name: str
    sentence: str
    knob: str
    layers: tuple[LayerRow, ...]
    title: str = TITLE


def sensitivity_table(found: Sensitivities) -> SensitivityTable:
    """Return the table of a measurement."""
    most = max([lost for layer in found.layers for _, lost in layer.losses if lost is not None], default=0.0)
    rows = tuple(
        LayerRow(
            layer.name,
            _knob(layer),
            amount(layer.knob, layer.chosen, _top(layer)),
            tuple(_cell(layer, value, lost, most) for value, lost in layer.losses),
        )
        for layer in found.layers
    )
    knobs = " or ".join(dict.fromkeys(map(_knob, found.layers)))
    return SensitivityTable(found.name, f"{found.sentence[0].upper()}{found.sentence[1:]}", knobs, rows)


def _cell(layer: Layer, value: float, lost: float | None, most: float) -> Cell:
    """Return a cell without a bar for a gain, which is noise, and for a failure."""
    share = 0.0 if lost is None or most <= 0 else max(lost, 0.0) / most
    return Cell(share, "failed" if lost is None else f"{lost:.4f}", amount(layer.knob, value, _top(layer)))


def _knob(layer: Layer) -> str:
    return title_of(layer.knob)


def _top(layer: Layer) -> float:
    return max(layer.chosen, *(value for value, _ in layer.losses), 0.0)
