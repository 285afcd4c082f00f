"""Copy networks that keep tensors which they have computed."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_compress.surgery._torch import own_children

PLAIN = (bool, int, float, str, type(None))
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def clone(module: ModuleT) -> ModuleT:
    """Return a deep copy of a module, also of one that keeps a computed tensor, which ``deepcopy`` alone refuses.

    LeViT and EfficientFormer keep their attention biases of the last pass in eval mode; a copy gets the values.

    Args:
        module: any.
    """
    return copy.deepcopy(module, _memo(module))


def sharing(module: ModuleT) -> ModuleT:
    """Return a copy of a module with the same parameters: layers can be replaced in it, values not written.

    Args:
        module: any.
    """
    return copy.deepcopy(module, {**_memo(module), **{id(p): p for p in module.parameters()}})


def copy_with(module: ModuleT, change: Callable[[Tensor], Tensor]) -> ModuleT:
    """Return a copy of a module with other tensors; parameters stay parameters.

    Args:
        module: any.
        change: tensor -> what the copy has in its place.
    """
    tensors = {id(leaf): leaf for part in module.modules() for leaf in _tensors(part)}
    with torch.no_grad():
        changed = {key: change(tensor) for key, tensor in tensors.items()}
    for key, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter):
            changed[key] = nn.Parameter(changed[key], tensor.requires_grad)
    return copy.deepcopy(module, {**_empty(module), **changed})


def keep_copyable(net: nn.Module) -> None:
    """Let ``deepcopy`` copy modules that hand on the attributes of a module inside, as the wrappers of PEFT do.

    A parametrized layer has a ``__deepcopy__`` of its own, which such a wrapper hands on: its copy would be one of the
    layer alone.

    Args:
        net: is marked in place; copies keep the mark.
    """
    for module in net.modules():
        handed_on = getattr(module, "__deepcopy__", None)
        if handed_on is not None and handed_on.__self__ is not module:
            module.__dict__["__deepcopy__"] = None


def _memo(module: nn.Module) -> dict[int, Any]:
    """Return copies, by the id of each, of the tensors that a module has computed and of its empty tables."""
    kept = [leaf for part in module.modules() for leaf in _tensors(part)]
    return _empty(module) | {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf}


def _empty(module: nn.Module) -> dict[int, Any]:
    """Return empty tables of hooks for those of a module, by the id of each: ``deepcopy`` is slow about them."""
    tables = (value for part in module.modules() for value in part.__dict__.values())
    return {id(table): OrderedDict() for table in tables if type(table) is OrderedDict and not table}


def _tensors(module: nn.Module) -> list[Tensor]:
    """Return the tensors among a module's own attributes, parameters and buffers."""
    values = [value for value in module.__dict__.values() if type(value) not in PLAIN]
    skipped = own_children(module)  # which are modules, and empty tables of hooks
    own = [v for v in values if v is not skipped and (type(v) is not OrderedDict or v)]
    return [leaf for value in own for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
