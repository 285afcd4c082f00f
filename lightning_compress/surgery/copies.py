"""Copy networks that keep tensors which they have computed."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

PLAIN = frozenset((bool, int, float, str, type(None)))
COPYING = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def clone(module: ModuleT) -> ModuleT:
    """Return a deep copy of a module, also of one that keeps a computed tensor, which ``deepcopy`` alone refuses.

    LeViT and EfficientFormer keep their attention biases of the last pass in eval mode; a copy gets the values.

    Args:
        module: any.
    """
    return _Copying(_computed).of(module)


def sharing(module: ModuleT) -> ModuleT:
    """Return a copy of a module with the same parameters: layers can be replaced in it, values not written.

    Args:
        module: any.
    """
    return _Copying(lambda tensor: tensor if isinstance(tensor, nn.Parameter) else _computed(tensor)).of(module)


def copy_with(module: ModuleT, change: Callable[[Tensor], Tensor]) -> ModuleT:
    """Return a copy of a module with other tensors; parameters stay parameters.

    Args:
        module: any.
        change: tensor -> what the copy has in its place.
    """

    def changed(tensor: Tensor) -> Tensor:
        new = change(tensor)
        return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new

    with torch.no_grad():
        return _Copying(changed).of(module)


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


def _computed(tensor: Tensor) -> Tensor | None:
    """Return a copy of what was computed from other tensors; None for what ``deepcopy`` copies."""
    return None if tensor.is_leaf else tensor.detach().clone()


class _Copying:
    """Does what ``deepcopy`` does, with a say about tensors, and several times faster for modules.

    ``deepcopy`` asks each of the two dozen attributes of a module how it is to be copied, and most are numbers, or
    empty tables of hooks.

    Args:
        tensors: tensor -> what the copy has in its place; None where it is copied as ``deepcopy`` does.
    """

    def __init__(self, tensors: Callable[[Tensor], Tensor | None]) -> None:
        self.tensors = tensors
        self.memo: dict[int, Any] = {}

    def of(self, module: ModuleT) -> ModuleT:
        """Return the copy of a module."""
        parts = list(module.modules())
        plain = [part for part in parts if _copied_by_attributes(part)]
        for part in plain:  # before what refers to them
            self.memo[id(part)] = type(part).__new__(type(part))
        for part in set(parts).difference(plain):
            self._tensors_in(vars(part))
        for part in plain:
            self.memo[id(part)].__setstate__(self._attributes(part.__getstate__()))
        return copy.deepcopy(module, self.memo)

    def _attributes(self, attributes: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for name, value in attributes.items():  # this loop is most of the time that a copy takes
            kind = type(value)
            if kind in PLAIN:
                found[name] = value
            elif kind is OrderedDict and not value:  # a table of hooks
                found[name] = OrderedDict()
            else:
                found[name] = self._value(value)
        return found

    def _value(self, value: Any) -> Any:
        kind = type(value)
        if kind in PLAIN:
            return value
        if id(value) in self.memo:
            return self.memo[id(value)]
        if isinstance(value, Tensor):
            new = self.tensors(value)
            return copy.deepcopy(value, self.memo) if new is None else self.memo.setdefault(id(value), new)
        if kind in (dict, OrderedDict):
            table = self.memo[id(value)] = kind()
            table.update((key if type(key) in PLAIN else self._other(key), self._value(v)) for key, v in value.items())
            return table
        if kind is tuple and all(type(each) in PLAIN for each in value):
            return value
        if kind is set and not value:
            return self.memo.setdefault(id(value), set())
        return self._other(value)

    def _other(self, value: Any) -> Any:
        self._tensors_in(value)
        return copy.deepcopy(value, self.memo)

    def _tensors_in(self, value: Any) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor) and id(leaf) not in self.memo and (new := self.tensors(leaf)) is not None:
                self.memo[id(leaf)] = new


def _copied_by_attributes(module: nn.Module) -> bool:
    """Return whether ``deepcopy`` would copy a module attribute by attribute."""
    kind, plain = type(module), nn.Module
    own = any(getattr(kind, name, None) is not getattr(plain, name, None) for name in COPYING)
    return not own and getattr(module, "__deepcopy__", None) is None and not hasattr(kind, "__slots__")
