"""What a packed file says of its network, in as few bytes as plain JSON allows.

One list per field rather than one mapping per layer: neighbouring layers resemble each other field by field, so the
compressed text is about half as long. Ratios such as 5/8 are written as fractions where that is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from lightning_compress.plan import Number, Plan
from lightning_compress.profile import LayerProfile, Profile

LARGEST_DENOMINATOR = 1 << 16  # more channels than any layer has


@dataclass(frozen=True)
class Description:
    """Everything in a packed file but the numbers.

    Attributes:
        profile: of the network, batch norms not yet folded.
        applied: class name of a callback -> the plan it applied.
        grids: layer -> the level of code 0, for quantised weights.
        inputs: layer -> spec of its input quantiser.
    """

    profile: Profile
    applied: Mapping[str, Plan]
    grids: Mapping[str, float]
    inputs: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        names = list(self.profile.layers)
        kinds: list[Mapping[str, Any]] = []
        for spec in self.inputs.values():
            if spec not in kinds:
                kinds.append(spec)
        return {
            "names": names,
            "layers": _layer_columns(list(self.profile), names),
            "applied": {name: _plan_columns(plan, names) for name, plan in self.applied.items()},
            "grids": [self.grids.get(name) for name in names],
            "kinds": kinds,
            "inputs": [kinds.index(self.inputs[name]) if name in self.inputs else None for name in names],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Description:
        """The inverse of :meth:`to_dict`."""
        names = data["names"]
        return cls(
            Profile({layer.name: layer for layer in _layers(names, data["layers"])}),
            {name: _plan(names, columns) for name, columns in data["applied"].items()},
            {name: zero for name, zero in zip(names, data["grids"], strict=True) if zero is not None},
            {name: data["kinds"][i] for name, i in zip(names, data["inputs"], strict=True) if i is not None},
        )


def _layer_columns(layers: Sequence[LayerProfile], names: Sequence[str]) -> dict[str, list[Any]]:
    """Field -> its value at each layer; fields at their default everywhere are left out."""
    columns = {f.name: [getattr(layer, f.name) for layer in layers] for f in fields(LayerProfile) if f.name != "name"}
    index = {name: i for i, name in enumerate(names)}
    # How many layers back, which is the same number throughout a network; 0 for none.
    columns["follows"] = [i - index[layer.follows] if layer.follows else 0 for i, layer in enumerate(layers)]
    blank = {f.name: f.default for f in fields(LayerProfile)} | {"follows": 0}
    return {key: values for key, values in columns.items() if any(value != blank[key] for value in values)}


def _layers(names: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[LayerProfile]:
    layers = []
    for i, name in enumerate(names):
        values = {key: column[i] for key, column in columns.items()}
        back = values.pop("follows", 0)
        values["kernel"] = tuple(values.get("kernel", ()))
        layers.append(LayerProfile(name, follows=names[i - back] if back else "", **values))
    return layers


def _plan_columns(plan: Plan, names: Sequence[str]) -> dict[str, Any]:
    """Knob -> its number at each layer, None where the plan says nothing; layers that have no profile come last."""
    others = [layer for layer in plan.layers if layer not in names]
    order = [*names, *others]
    columns = {knob: [_short(plan.get(layer, knob)) for layer in order] for knob in sorted(plan.knobs)}
    return {"knobs": columns, "others": others} if others else {"knobs": columns}


def _plan(names: Sequence[str], data: Mapping[str, Any]) -> Plan:
    layers: dict[str, dict[str, Number]] = {}
    for knob, column in data["knobs"].items():
        for layer, value in zip([*names, *data.get("others", ())], column, strict=True):
            if value is not None:
                layers.setdefault(layer, {})[knob] = float(Fraction(value)) if isinstance(value, str) else value
    return Plan(layers)


def _short(value: Number | None) -> Number | str | None:
    """A float as the text of a small fraction that is exactly as large, where there is one."""
    if not isinstance(value, float):
        return value
    fraction = Fraction(value).limit_denominator(LARGEST_DENOMINATOR)
    # A whole float stays one: the plan's digest tells 1.0 from 1.
    return str(fraction) if float(fraction) == value and fraction.denominator > 1 else value
