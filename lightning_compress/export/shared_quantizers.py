"""Activation quantizers that a packed file describes beside the inputs of layers: shared ones, and those elsewhere.

A network that was trained with the placement ``Tensors`` has one quantizer at several places, and some at places that
are no input of a layer. Each is described by its places, and by its state unless a layer's input has that already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from lightning_compress.core.profile import Profile
from lightning_compress.export import untrusted
from lightning_compress.export.stored_layers import input_quantizer, set_scale
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.surgery import transforms
from lightning_compress.surgery._torch import own_children

INPUT_SIDE, OUTPUT_SIDE = 0, 1
SLOTS = (transforms.INPUT, transforms.OUTPUT)


def describe(net: nn.Module, profile: Profile) -> list[dict[str, Any]]:
    """Return what :func:`attach` needs, as plain types; empty for quantizers at one layer's input each.

    Args:
        net: with its quantizers, all calibrated.
        profile: of the network, batch norms folded.
    """
    places: dict[ActivationQuantizer, list[tuple[str, int]]] = {}
    for name, layer in transforms.transformed(net).items():
        for side, slot in enumerate(SLOTS):
            quantizer = own_children(layer).get(slot)
            if isinstance(quantizer, ActivationQuantizer):
                places.setdefault(quantizer, []).append((name, side))
    found = []
    for quantizer, where in places.items():
        layers = [n for n, side in where if side == INPUT_SIDE and n in profile.layers and profile[n].act_scales]
        if len(where) == 1 and layers:
            continue
        modules, sides = [name for name, _ in where], [side for _, side in where]
        state = {} if layers else {"spec": quantizer.spec(), "state": quantizer.packed().tolist()}
        found.append({"modules": modules, "sides": sides, **({"layer": layers[0]} if layers else state)})
    return found


def attach(net: nn.Module, described: Iterable[Mapping[str, Any]]) -> None:
    """Attach the described quantizers to a network whose layers have those of their inputs.

    Raises:
        ValueError: a description, which may be hostile, breaks a rule; and whatever else a wrong type leads to.
    """
    for one in described:
        untrusted.check_keys("a quantizer", one, ["modules", "sides"], ["layer", "spec", "state"])
        if not all(side in (INPUT_SIDE, OUTPUT_SIDE) for side in one["sides"]):
            raise ValueError(f"a quantizer has the sides {str(one['sides'])[:60]}")
        quantizer = transforms.input_transform(net.get_submodule(one["layer"])) if "layer" in one else _built(one)
        for name, side in zip(one["modules"], one["sides"], strict=True):
            _attach(net.get_submodule(name), side, quantizer)


def _built(one: Mapping[str, Any]) -> ActivationQuantizer:
    quantizer, state = input_quantizer(one["spec"], str(one["modules"][:1]), 1), one["state"]
    set_scale(quantizer, torch.tensor([float(state[0]), float(state[1])]))
    return quantizer


def _attach(module: nn.Module, side: int, quantizer: Any) -> None:
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    if side == OUTPUT_SIDE:
        transforms.attach_output(module, quantizer.to(device))
    elif transforms.input_transform(module) is not quantizer:
        transforms.drop_input(module)
        transforms.attach_input(module, quantizer.to(device))
