"""Parameters that several layers share: a packed file has a weight of its own for each layer, which may differ.

They do where a batch norm was folded into one of the layers, or one was pruned or quantized and the other not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from lightning_compress.surgery._torch import own_parameters

Place = tuple[nn.Module, str]


def is_shared(parameter: Tensor, net: nn.Module) -> bool:
    """Return whether a network holds a parameter at several places, so that what is written there changes them all."""
    return sum(each is parameter for module in net.modules() for each in own_parameters(module).values()) > 1


def untie(net: nn.Module, filled: Collection[str]) -> list[list[Place]]:
    """Give each place that a file fills a parameter of its own.

    Args:
        net: the network.
        filled: names of the parameters that the file has values for.

    Returns:
        The places that shared one, for :func:`tie`.
    """
    groups: dict[nn.Parameter, list[Place]] = {}
    for name, module in net.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if (f"{name}.{key}" if name else key) in filled:
                groups.setdefault(parameter, []).append((module, key))
    tied = [places for places in groups.values() if len(places) > 1]
    for _, *others in tied:
        for module, key in others:
            shared = module.get_parameter(key)
            setattr(module, key, nn.Parameter(shared.detach().clone(), shared.requires_grad))
    return tied


def tie(groups: Sequence[Sequence[Place]]) -> None:
    """Let places share a parameter again, where they hold the same values and no transform stands before them."""
    for places in groups:
        plain = [place for place in places if place[1] in own_parameters(place[0])]
        for module, key in plain[1:]:
            first, other = plain[0][0].get_parameter(plain[0][1]), module.get_parameter(key)
            if torch.equal(first, other):
                setattr(module, key, first)
