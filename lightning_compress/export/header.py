"""Header of a packed file: what it says of its network, as compact JSON.

One list per field rather than one mapping per layer: neighboring layers resemble each other field by field, so the
compressed text is about half as long. Ratios such as 5/8 are written as fractions where that is exact. What follows
from the profile is not said again: plans whose numbers it holds, and the bits of input quantizers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any

from lightning_compress.core.plan import Number, Plan
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.export import untrusted

AS_PROFILED = "profile"
USUAL_CODER = "fixed_width"
FRACTION = re.compile(r"-?\d{1,20}/[1-9]\d{0,5}", re.ASCII)
LARGEST_DENOMINATOR = 1 << 16  # more channels than any layer has


@dataclass(frozen=True)
class Description:
    """Everything in a packed file but the numbers.

    Attributes:
        profile: of the network, batch norms not yet folded.
        applied: kind of a callback -> the plan it applied.
        weights: layer -> spec of the transform that decodes its codes, for quantized weights.
        inputs: layer -> spec of its input quantizer.
        coder: kind of the coder of quantized weights.
        replaced: layer of the dense network -> spec of what stands in its place.
        quantizers: of activations, which are shared or are at no layer's input (shared_quantizers.py).
        numbers: attribute of a module that counts channels -> its value (split_numbers.py).
        shapes: parameter -> its shape, where its profile fits several.
    """

    profile: Profile
    applied: Mapping[str, Plan]
    weights: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, Mapping[str, Any]]
    coder: str = USUAL_CODER
    replaced: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    quantizers: Sequence[Mapping[str, Any]] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        names = list(self.profile.layers)
        specs = {name: _without_bits(spec, self.profile[name]) for name, spec in self.inputs.items()}
        kinds, formats = _distinct(specs), _distinct(self.weights)
        return {
            "names": names,
            "layers": _layer_columns(list(self.profile), names),
            "applied": {name: _plan_columns(plan, self.profile) for name, plan in self.applied.items()},
            "weights": [formats.index(self.weights[name]) if name in self.weights else None for name in names],
            "formats": formats,
            "kinds": kinds,
            "inputs": [kinds.index(specs[name]) if name in specs else None for name in names],
            **({} if self.coder == USUAL_CODER else {"coder": self.coder}),
            **({"replaced": _spec_columns(self.replaced)} if self.replaced else {}),
            **({"quantizers": list(self.quantizers)} if self.quantizers else {}),
            **({"numbers": dict(self.numbers)} if self.numbers else {}),
            **({"shapes": dict(self.shapes)} if self.shapes else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Description:
        """Build from plain types, the inverse of :meth:`to_dict`.

        Raises:
            ValueError: the data, which may be hostile, breaks a rule; and whatever else a wrong type leads to.
        """
        needed = ("names", "layers", "applied", "weights", "formats", "kinds", "inputs")
        untrusted.check_keys("the description", data, needed, ("coder", "replaced", "quantizers", "numbers", "shapes"))
        names, kinds, formats = data["names"], data["kinds"], data["formats"]
        untrusted.check_names(names)
        profile = Profile({layer.name: layer for layer in _layers(names, data["layers"])})
        untrusted.check_profile(profile)
        inputs = zip(profile, data["inputs"], strict=True)
        weights = zip(names, data["weights"], strict=True)
        return cls(
            profile,
            {name: _plan(profile, columns) for name, columns in data["applied"].items()},
            {name: untrusted.pick(formats, i) for name, i in weights if i is not None},
            {p.name: {"bits": p.act_bits, **untrusted.pick(kinds, i)} for p, i in inputs if i is not None},
            data.get("coder", USUAL_CODER),
            _specs(data.get("replaced", {})),
            data.get("quantizers", ()),
            data.get("numbers", {}),
            data.get("shapes", {}),
        )


def _distinct(specs: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the specs without repetitions, in order."""
    found: list[Mapping[str, Any]] = []
    for spec in specs.values():
        if spec not in found:
            found.append(spec)
    return found


def _without_bits(spec: Mapping[str, Any], layer: LayerProfile) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if (key, value) != ("bits", layer.act_bits)}


def _layer_columns(layers: Sequence[LayerProfile], names: Sequence[str]) -> dict[str, list[Any]]:
    """Return field -> its value at each layer; fields at their default everywhere are left out."""
    columns = {f.name: [getattr(layer, f.name) for layer in layers] for f in fields(LayerProfile) if f.name != "name"}
    index = {name: i for i, name in enumerate(names)}
    # How many layers back, which is the same number throughout a network; 0 for none.
    columns["follows"] = [i - index[layer.follows] if layer.follows else 0 for i, layer in enumerate(layers)]
    # A density is a ratio of integers, whose digits are many; the dropped weights are few.
    columns["density"] = [layer.weights - layer.nonzeros for layer in layers]
    blank = {f.name: f.default for f in fields(LayerProfile)} | {"follows": 0, "density": 0}
    return {key: values for key, values in columns.items() if any(value != blank[key] for value in values)}


def _layers(names: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[LayerProfile]:
    layers = []
    for i, name in enumerate(names):
        values = {key: column[i] for key, column in columns.items()}
        back = values.pop("follows", 0)
        dropped = values.pop("density", 0)
        values["kernel"] = tuple(values.get("kernel", ()))
        layer = LayerProfile(name, follows=untrusted.pick(names[:i], i - back) if back else "", **values)
        layers.append(replace(layer, density=_density(layer, dropped)) if dropped else layer)
    if any(len(column) != len(names) for column in columns.values()):
        raise ValueError("columns must be as long as there are layers")
    return layers


def _density(layer: LayerProfile, dropped: int) -> float:
    if type(dropped) is not int or not 0 <= dropped <= layer.weights:
        raise ValueError(f"layer {layer.name!r} drops {str(dropped)[:60]} of {layer.weights} weights")
    return (layer.weights - dropped) / layer.weights


def _spec_columns(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Return kind -> names and each argument, as lists."""
    found: dict[str, dict[str, list[Any]]] = {}
    for name, spec in specs.items():
        for key, value in {"names": name, **spec}.items():
            if key != "kind":
                found.setdefault(spec["kind"], {}).setdefault(key, []).append(value)
    return found


def _specs(columns: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, dict[str, Any]]:
    return {
        name: {"kind": kind, **{key: values[i] for key, values in arguments.items() if key != "names"}}
        for kind, arguments in columns.items()
        for i, name in enumerate(arguments["names"])
    }


def _plan_columns(plan: Plan, profile: Profile) -> dict[str, Any]:
    """Return knob -> its number at each layer, None where the plan says nothing.

    Layers that have no profile come last, and alone where there are only such: the plan is of what was replaced.
    """
    others = [layer for layer in plan.layers if layer not in profile.layers]
    names = others if len(others) == len(plan.layers) else [*profile.layers, *others]
    columns: dict[str, Any] = {}
    for knob in sorted(plan.knobs):
        numbers = [plan.get(layer, knob) for layer in names]
        columns[knob] = AS_PROFILED if numbers == _profiled(knob, profile) else [_short(n) for n in numbers]
    return {"knobs": columns, "others": others} if others else {"knobs": columns}


def _plan(profile: Profile, data: Mapping[str, Any]) -> Plan:
    layers: dict[str, dict[str, Number]] = {}
    untrusted.check_keys("a plan", data, ["knobs"], ["others"])
    for knob, column in data["knobs"].items():
        numbers: Any = _profiled(knob, profile) if column == AS_PROFILED else column
        names = [*profile.layers, *data.get("others", ())][-len(numbers) :]
        for layer, value in zip(names, numbers, strict=True):
            if value is not None:
                layers.setdefault(layer, {})[knob] = _number(value) if isinstance(value, str) else value
    return Plan(layers)


def _number(text: str) -> float:
    if not FRACTION.fullmatch(text):  # Fraction reads exponents too, of any size
        raise ValueError(f"{text[:60]!r} is no fraction")
    return float(Fraction(text))


def _profiled(knob: str, profile: Profile) -> list[Number | None] | None:
    """Return a knob's value in the profile of each layer; None if it is no field of it."""
    default = next((f.default for f in fields(LayerProfile) if f.name == knob), None)
    if default is None:
        return None
    return [value if (value := getattr(layer, knob)) != default else None for layer in profile]


def _short(value: Number | None) -> Number | str | None:
    """Return a float as the text of a small fraction that is exactly as large, where there is one."""
    if not isinstance(value, float):
        return value
    fraction = Fraction(value).limit_denominator(LARGEST_DENOMINATOR)
    # A whole float stays one: the plan's digest tells 1.0 from 1.
    return str(fraction) if float(fraction) == value and fraction.denominator > 1 else value
