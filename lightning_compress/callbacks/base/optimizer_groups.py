"""Let ``configure_optimizers`` see the network as it was written, whatever is attached to its layers.

A weight that goes through a transform is no ``nn.Parameter`` of its layer any more, and its name ends differently:
groups made by ``isinstance(layer.weight, nn.Parameter)``, by names or from ``[self.net.fc.weight]`` would leave it out,
and it would never be trained. So while the optimizers are made, each trained weight is the parameter that it was, and
what is attached is out of sight. What that learns, such as scales, then joins the group of the weight that it serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery._torch import own_children, own_parameters, set_tables
from lightning_compress.surgery.transforms import (
    INPUT,
    OUTPUT,
    input_transform,
    output_transform,
    raw_weight,
    transformed,
    weight_chains,
)

MUON: type[Optimizer] | None = getattr(torch.optim, "Muon", None)  # since torch 2.9
ATTACHED = ("parametrizations", INPUT, OUTPUT)
OWN = "_own_configure_optimizers"  # in a module's __dict__: what it had there as configure_optimizers, or None


@contextmanager
def as_written(module: nn.Module) -> Iterator[None]:
    """Hide all that is attached to the layers of a module, and put it back afterwards."""
    layers = list(transformed(module).values())
    before = [(layer, type(layer), own_parameters(layer), own_children(layer)) for layer in layers]
    try:
        for layer, kind, parameters, modules in before:
            written = parameters
            chains = weight_chains(layer)
            if chains:
                written = {**{key: raw_weight(layer, key) for key in chains}, **parameters}
                layer.__class__ = kind.__bases__[0]
            set_tables(layer, written, {key: child for key, child in modules.items() if key not in ATTACHED})
        yield
    finally:
        for layer, kind, parameters, modules in before:
            layer.__class__ = kind
            set_tables(layer, parameters, modules)


def complete_groups(module: nn.Module, optimizers: list[Optimizer]) -> None:
    """Add what is learned by the transforms of layers to the groups that hold the parameters of these layers.

    Those of a layer that has no parameters itself join the first group. Those of a layer none of whose parameters is
    trained are left out with them. No group of Muon is joined: it trains matrices, and scales are none.

    Args:
        module: with transforms.
        optimizers: of the module.

    Raises:
        CompressError: there is Muon alone.
    """
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    open_groups = [group for o in optimizers if not (MUON and isinstance(o, MUON)) for group in o.param_groups]
    groups = {id(p): group for group in open_groups for p in group["params"]}
    first, names = next(iter(open_groups), None), {id(p): name for name, p in module.named_parameters()}
    for layer in transformed(module).values():
        chains = weight_chains(layer)
        attached = [transform for chain in chains.values() for transform in chain]
        attached += [t for t in (input_transform(layer), output_transform(layer)) if t is not None]
        learned = [p for transform in attached for p in transform.parameters()]
        own = [raw_weight(layer, key) for key in chains]
        own += [p for p in layer.parameters() if all(p is not other for other in learned)]
        if own and all(id(p) not in held for p in own):
            continue
        group = next((groups[id(p)] for p in own if id(p) in groups), first)
        for parameter in learned:
            if id(parameter) in held or not optimizers:
                continue
            if group is None:
                raise CompressError(
                    f"{type(module).__name__}: its one optimizer, Muon, trains matrices, and {names[id(parameter)]!r}, "
                    f"which compression adds, is none; let configure_optimizers make one for other parameters too"
                )
            group["params"].append(parameter)
            held.add(id(parameter))
            groups[id(parameter)] = group
            if "param_names" in group:  # of named_parameters(): one for each parameter
                group["param_names"].append(names[id(parameter)])


def _configure(self: LightningModule) -> Any:
    own = self.__dict__.get(OWN)
    with as_written(self):
        made = type(self).configure_optimizers(self) if own is None else own()
    optimizers = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Optimizer)]
    complete_groups(self, optimizers)
    _check_held(self, optimizers)
    return made


def _check_held(module: LightningModule, optimizers: list[Optimizer]) -> None:
    """Raise for optimizers of parameters that pruning or a replacement has put others in the place of.

    Raises:
        CompressError: they hold parameters that are not the module's, and do not hold one that is.
    """
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    own = dict(module.named_parameters())
    gone = len(held.difference(map(id, own.values())))
    left = next((name for name, p in own.items() if p.requires_grad and id(p) not in held), None)
    if gone and left is not None:
        raise CompressError(
            f"{type(module).__name__}: configure_optimizers gives optimizers of {gone} parameters that the module does "
            f"not have, and {left!r} is in none: they were made before its layers were pruned or replaced, as in "
            f"__init__; make optimizers and their groups inside configure_optimizers"
        )


def extend_configure_optimizers(module: LightningModule) -> None:
    """Extend the module's own ``configure_optimizers``, once."""
    if OWN not in module.__dict__:
        module.__dict__[OWN] = module.__dict__.get("configure_optimizers")
        # A partial: a copy, pickled ones too, then makes the optimizers of its own network (see checkpoint_hooks.py).
        module.__dict__["configure_optimizers"] = partial(_configure, module)
