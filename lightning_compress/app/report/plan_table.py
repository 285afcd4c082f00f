"""The plan as a table: a row for each layer in the order of the network, a column of bars for each knob that varies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from lightning_compress.callbacks.base.callback import knob_titles
from lightning_compress.core.plan import Plan


@dataclass(frozen=True)
class Cell:
    """A number with a bar.

    Attributes:
        share: length of the bar, in [0, 1].
        text: the number.
        value: what stands before the bar.
    """

    share: float
    text: str
    value: str = ""


@dataclass(frozen=True)
class PlanRow:
    """A layer; a cell is None where it lacks the knob."""

    layer: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class PlanTable:
    """Rows of a plan on the page.

    Attributes:
        sentences: what holds for all layers.
        knobs: columns.
        rows: layers.
    """

    sentences: tuple[str, ...]
    knobs: tuple[str, ...]
    rows: tuple[PlanRow, ...]


def plan_table(plan: Plan, layers: Sequence[str] = ()) -> PlanTable:
    """Return the table: knobs that are the same everywhere, and what all names begin with, are said once.

    Args:
        plan: how much each layer was compressed.
        layers: names of the network's layers in the order in which they run; others come last.
    """
    knobs = {knob: plan.knob(knob) for knob in sorted(plan.knobs, reverse=True)}
    same = {knob: values for knob, values in knobs.items() if len(values) > 1 and len(set(values.values())) == 1}
    told = [_same(knob, values, len(plan.layers)) for knob, values in same.items()]
    varied = {knob: values for knob, values in knobs.items() if knob not in same}
    shared = _shared(plan.layers)
    if shared and varied:
        told.append(f"All layers are in {shared[:-1]}.")
    rows = tuple(
        PlanRow(layer.removeprefix(shared), tuple(_cell(knob, values, layer) for knob, values in varied.items()))
        for layer in _in_order(plan.layers, layers)
    )
    return PlanTable(tuple(told), tuple(title_of(knob) for knob in varied), rows)


def title_of(knob: str) -> str:
    """Return what the callback of a knob calls it in tables."""
    return knob_titles().get(knob, knob)


def amount(knob: str, value: float, top: float) -> str:
    """Return the number of a knob; shares of one are shown in per cent.

    Args:
        knob: name of the knob.
        value: that a plan gives it.
        top: the largest that the knob has anywhere.
    """
    return f"{value:g}" if top > 1 or knob.endswith("_bits") else f"{100 * value:.3g} %"


def _same(knob: str, values: Mapping[str, float], layers: int) -> str:
    value = next(iter(values.values()))
    where = f"all {layers} layers" if len(values) == layers else f"the {len(values)} of {layers} layers that have it"
    name = title_of(knob)
    return f"{name[0].upper()}{name[1:]}: {amount(knob, value, value)} in {where}."


def _cell(knob: str, values: Mapping[str, float], layer: str) -> Cell | None:
    if layer not in values:
        return None
    value, top = values[layer], max(1.0, *values.values())
    return Cell(value / top, amount(knob, value, top))


def _in_order(planned: Iterable[str], layers: Sequence[str]) -> list[str]:
    """Return the planned names by the first layer of the network that each is, holds, or was made of."""

    def place(name: str) -> int:
        related = (
            i
            for i, layer in enumerate(layers)
            if layer == name or layer.startswith(f"{name}.") or name.startswith(f"{layer}.")
        )
        return next(related, len(layers))

    return sorted(planned, key=place)


def _shared(names: Iterable[str]) -> str:
    """Return the modules that hold all layers, with a dot behind each: ``backbone.stages.``."""
    parents = [name.split(".")[:-1] for name in names]
    return "".join(f"{part[0]}." for part in takewhile(lambda part: len(set(part)) == 1, zip(*parents, strict=False)))
