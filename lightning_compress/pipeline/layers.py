"""Inspect the layers of a network, and make plans with the same numbers for many layers.

``uniform_plan`` is a function and no constructor of ``Plan``: which layers have a knob, the callbacks know, and plans
are plain data that know neither callbacks nor networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any

from lightning import LightningModule
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.layer_removal import LayerRemoval
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.errors import CompressError, NoEffectError, did_you_mean
from lightning_compress.core.plan import Number, Plan, matching
from lightning_compress.core.space import Choice
from lightning_compress.surgery.inputs import example_of
from lightning_compress.surgery.matrices import weight_place
from lightning_compress.surgery.structure import network

METHODS = (LayerRemoval, ChannelPruning, LowRank, WeightPruning, QuantizationAwareTraining)  # in the order of a list
COLUMNS = ("layer", "type", "weights", "knobs", "coupled with", "kept whole")


@dataclass(frozen=True)
class LayerInfo:
    """Knobs of one layer, or of a block that can be removed as a whole.

    Attributes:
        name: in a plan.
        type: class of the layer.
        weights: number of its weights, those of all layers inside for a block.
        knobs: knob -> the values that a search chooses from, from the cheapest on.
        coupled: layers that are pruned together with this one, under its name in a plan.
        root: the layer under whose name in a plan this one is pruned; empty where there is none.
        kept: name of a callback -> why it leaves the layer as it is.
    """

    name: str
    type: str
    weights: int
    knobs: Mapping[str, tuple[Number, ...]]
    coupled: tuple[str, ...]
    root: str
    kept: Mapping[str, str]

    def cells(self) -> tuple[str, ...]:
        """Return its row of a table."""
        knobs = ", ".join(f"{knob} {_range(values)}" for knob, values in self.knobs.items())
        coupled = ", ".join(self.coupled) or (f"goes with {self.root}" if self.root else "")
        kept = "; ".join(f"{callback}: {reason}" for callback, reason in self.kept.items())
        return self.name, self.type, f"{self.weights:,}", knobs, coupled, kept


class LayerTable(Sequence[LayerInfo]):
    """The layers of a network in the order in which they run; prints as a table."""

    def __init__(self, layers: Sequence[LayerInfo]) -> None:
        self.layers = tuple(layers)

    def __getitem__(self, index: Any) -> Any:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        table = Table(*COLUMNS)
        for layer in self.layers:
            table.add_row(*map(Text, layer.cells()))
        out = StringIO()
        Console(file=out, width=160).print(table)
        return out.getvalue().rstrip()

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{column}</th>" for column in COLUMNS)
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in layer.cells())}</tr>" for layer in self.layers
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def inspect_layers(
    module: nn.Module, example: Any = None, callbacks: Sequence[CompressionCallback] | None = None
) -> LayerTable:
    """Say what can be done to every layer of a network, and why what is kept whole is kept.

    >>> print(lc.inspect_layers(module, images))  # doctest: +SKIP

    Args:
        module: a LightningModule or a network; it is not changed.
        example: one input batch of the network; None takes the module's ``example_input_array``.
        callbacks: in rising order; None takes those whose numbers a plan has: removal, channels, ranks, density, bits.

    Raises:
        CompressError: there is no example, or the network does not run on it.
    """
    made = [method() for method in METHODS] if callbacks is None else list(callbacks)
    example = _example(module, example)
    net = network(module)
    profile = Composition(made, net, example).profile
    found: dict[str, list[Choice]] = {}
    for callback in made:
        for choice in callback.choices(net, profile, example):
            found.setdefault(choice.layer, []).append(choice)
    kept = {type(callback).__name__: callback.kept_whole(net, example) for callback in made}
    kernels = {layer.name for layer in profile.kernels}
    coupled = {
        root: tuple(layer for layer in layers if layer in kernels)  # norms go with their layers anyway
        for callback in made
        for root, layers in callback.coupled(net, example).items()
    }
    roots = {layer: root for root, layers in coupled.items() for layer in layers}
    names = dict.fromkeys([*found, *(layer.name for layer in profile.quantizable)])
    place = {name: i for i, name in enumerate(profile.layers)}
    order = sorted(names, key=lambda name: (place[profile.inside(name)[0].name], -len(profile.inside(name))))
    return LayerTable(
        [
            LayerInfo(
                name,
                type(weight_place(net, name)[0]).__name__,
                sum(layer.weights for layer in profile.inside(name)),
                {choice.knob: choice.values for choice in found.get(name, ())},
                coupled.get(name, ()),
                roots.get(name, ""),
                {callback: reasons[name] for callback, reasons in kept.items() if name in reasons},
            )
            for name in order
        ]
    )


def uniform_plan(
    module: nn.Module,
    example: Any = None,
    patterns: Mapping[str, Mapping[str, Number]] | None = None,
    callbacks: Sequence[CompressionCallback] | None = None,
    **numbers: Number,
) -> Plan:
    """Return a plan with the same numbers for every layer that can have them.

    >>> lc.uniform_plan(module, images, channels=0.5, weight_bits=4)  # doctest: +SKIP
    >>> lc.uniform_plan(module, images, {"layer1.*": {"channels": 0.9}}, channels=0.5)  # doctest: +SKIP

    Args:
        module: a LightningModule or a network; it is not changed.
        example: one input batch of the network; None takes the module's ``example_input_array``.
        patterns: globs of layer names -> knob -> number, for some of the layers; they come after ``numbers``, and where
            several match, the last one wins.
        callbacks: that will apply the plan, in rising order, with their own settings; None takes those of
            :func:`inspect_layers`.
        numbers: knob -> number.

    Raises:
        CompressError: no callback understands a knob, a number is out of its range, or the network has no example.
        NoEffectError: no layer has a knob, or no layer that has it is matched by its pattern.
    """
    asked = {"*": numbers, **(patterns or {})} if numbers else dict(patterns or {})
    made = [method() for method in METHODS] if callbacks is None else list(callbacks)
    known = frozenset().union(*(callback.knobs for callback in made))
    knobs = {knob for given in asked.values() for knob in given}
    if unknown := sorted(knobs - known):
        raise CompressError(
            f"uniform_plan: no callback understands the knob {unknown[0]!r}{did_you_mean(unknown[0], known)}; known: "
            f"{sorted(known)}"
        )
    if not knobs:
        return Plan({})
    composition = Composition([c for c in made if c.knobs.keys() & knobs], network(module), _example(module, example))
    layers: dict[str, list[str]] = {}
    for callback in composition.callbacks:
        for choice in callback.choices(composition.net, composition.profile, composition.example):
            layers.setdefault(choice.knob, []).append(choice.layer)
    plan = Plan({})
    for pattern, given in asked.items():
        for knob, number in given.items():
            if knob not in layers:
                raise NoEffectError(
                    f"uniform_plan: no layer of {type(composition.net).__name__} can have {knob!r}; inspect_layers "
                    f"says of each layer why"
                )
            plan = plan.merge(Plan({name: {knob: number} for name in matching(pattern, layers[knob])}))
    composition.resolve(plan)
    return plan


def _example(module: nn.Module, example: Any) -> Any:
    if example is not None:
        return example
    if isinstance(module, LightningModule):
        return example_of(module, ())
    raise CompressError(
        f"{type(module).__name__} is no LightningModule with an example_input_array; pass example=, one input batch"
    )


def _range(values: Sequence[Number]) -> str:
    few = [f"{value:.3g}" for value in values]
    return "/".join(few) if len(few) <= 2 else f"{few[0]} to {few[-1]}"
