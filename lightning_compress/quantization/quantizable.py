"""Tell which layers of a network have a weight or an input that can be quantized, and why others have not."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile
from lightning_compress.surgery.graph.reasons import not_called
from lightning_compress.surgery.matrices import matrices, weight_place
from lightning_compress.surgery.transforms import weight_chains


def is_used(layer: LayerProfile) -> bool:
    """Return whether a layer runs, or another module reads its weight."""
    return bool(layer.kind == "matrix" or layer.positions or layer.read_positions)


def takes_input(layer: LayerProfile) -> bool:
    """Return whether a layer is called with the input that its weight is multiplied with."""
    return layer.kind != "matrix" and bool(layer.positions)


def has_sparse_gradients(net: nn.Module, layer: LayerProfile) -> bool:
    """Return whether a layer is an embedding with sparse gradients, which rounding has not."""
    return layer.kind == "matrix" and getattr(weight_place(net, layer.name)[0], "sparse", False)


def why_no_input(net: nn.Module, layer: LayerProfile, example: Any) -> str:
    """Return why :func:`takes_input` is false.

    Args:
        net: is left as it is.
        layer: of it.
        example: one input batch.
    """
    if layer.kind == "matrix":
        owner, key = weight_place(net, layer.name)
        kind = type(owner).__bases__[0] if weight_chains(owner) else type(owner)
        return f"{kind.__name__} reads its {key} itself"
    return not_called(net, [layer.name], example)[layer.name]


def by_weight(plan: Plan, net: nn.Module, quantizable: Collection[str]) -> Plan:
    """Return a plan with the name of a module that has matrices of its own replaced by their names.

    Args:
        plan: where it names a matrix and its module, the former wins.
        net: the network.
        quantizable: names of the layers that have a weight.
    """
    modules, inside, others = dict(net.named_modules()), {}, {}
    for name, values in plan.layers.items():
        own = [] if name in quantizable or name not in modules else matrices(modules[name])
        inside.update({f"{name}.{key}": values for key in own})
        others.update({} if own else {name: values})
    return Plan(inside).merge(Plan(others))
