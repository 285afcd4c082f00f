"""The cost of points of a space, computed from the layers that a choice touches.

A cost is additive over layers, and what a layer costs depends on few choices: its own and those of its neighbors. So
when one choice moves, only the layers that it touches are counted again, and a walk through n choices takes a time in
proportion to n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lightning_compress.core.plan import Number, Plan
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.core.space import Space


class LocalCost:
    """Additive cost of the points of a space.

    Which layers a choice touches is learned from plans that set this choice alone. Where choices touch a layer only
    together (such as the bits of factors that exist at some ranks alone), the sum is wrong; :class:`Budget` compares.

    Args:
        predict: plan, also of some choices alone -> profile of the network that it makes.
        cost: of a profile; additive over layers, each with the norms that follow it.
        space: the choices.
    """

    def __init__(self, predict: Callable[[Plan], Profile], cost: Callable[[Profile], float], space: Space) -> None:
        self._predict, self._cost, self.space = predict, cost, space
        self._nothing = cost(Profile({}))
        dense = _units(predict(Plan({})))
        self._fixed = self._nothing  # what no choice touches
        self.touched: list[tuple[str, ...]] = []  # choice -> units, a unit being a layer with the norms behind it
        self._choices: dict[str, list[int]] = {}  # unit -> the choices that touch it
        for number, choice in enumerate(space.choices):
            names: set[str] = set()
            for value in {choice.values[0], choice.values[-1]}:
                changed = _units(predict(Plan({choice.layer: {choice.knob: value}})))
                names |= {name for name in dense.keys() | changed.keys() if dense.get(name) != changed.get(name)}
            self.touched.append(tuple(sorted(names)))
            for name in names:
                self._choices.setdefault(name, []).append(number)
        for name, layers in dense.items():
            if name not in self._choices:
                self._fixed += self._price(layers)
        self._known: dict[tuple[str, tuple[int, ...]], float] = {}

    def whole(self, point: Sequence[int]) -> float:
        """Return the cost of a point."""
        return self._fixed + sum(self.unit(name, point) for name in self._choices)

    def unit(self, name: str, point: Sequence[int]) -> float:
        """Return what one unit costs at a point."""
        choices = self._choices[name]
        key = name, tuple(point[i] for i in choices)
        if key not in self._known:
            layers: dict[str, dict[str, Number]] = {}
            for i in choices:
                choice = self.space.choices[i]
                layers.setdefault(choice.layer, {})[choice.knob] = choice.values[point[i]]
            self._known[key] = self._price(_units(self._predict(Plan(layers))).get(name, ()))
        return self._known[key]

    def after(self, point: Sequence[int], cost: float, number: int, index: int) -> float:
        """Return the cost of a point after one choice moves.

        Args:
            point: one index per choice.
            cost: of that point.
            number: of the choice.
            index: where it moves to.
        """
        moved = [*point[:number], index, *point[number + 1 :]]
        return cost + sum(self.unit(name, moved) - self.unit(name, point) for name in self.touched[number])

    def _price(self, layers: Iterable[LayerProfile]) -> float:
        return self._cost(Profile({layer.name: layer for layer in layers})) - self._nothing


def _units(profile: Profile) -> dict[str, tuple[LayerProfile, ...]]:
    """Return the layers of a profile, each with the norms that follow it."""
    found: dict[str, tuple[LayerProfile, ...]] = {}
    for layer in profile:
        name = layer.follows or layer.name
        found[name] = (*found.get(name, ()), layer)
    return found
