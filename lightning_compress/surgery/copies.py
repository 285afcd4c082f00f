"""Copy networks that keep tensors which they have computed."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def clone(module: ModuleT) -> ModuleT:
    """Return a deep copy of a module, also of one that keeps a computed tensor, which ``deepcopy`` alone refuses.

    LeViT and EfficientFormer keep their attention biases of the last pass in eval mode; a copy gets the values.

    Args:
        module: any.
    """
    kept = [leaf for part in module.modules() for leaf in tree_leaves(part.__dict__) if isinstance(leaf, Tensor)]
    return copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf})


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
