"""Numbers of a module's code that count channels: the size of the parts that its forward splits a tensor into.

A split by ``self.width`` holds for the dense network alone. Where channels are removed such an attribute is set to what
is left, and its value is kept with the network, for a checkpoint and a file must tell it: no shape does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from lightning_compress.core.errors import CompressError

KEY = "_lightning_compress_numbers"


def counts(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield name and value of the attributes of a module that may count channels.

    Args:
        module: any.
    """
    for key, value in vars(module).items():
        if type(value) is int and value > 1:
            yield key, value


def set_numbers(net: nn.Module, numbers: Mapping[str, int]) -> None:
    """Set attributes, and keep their values with the network.

    Args:
        net: is changed in place.
        numbers: name of a module and an attribute, joined by a dot -> its value.

    Raises:
        CompressError: the network has no such attribute, or a value is not between 1 and the one that it has.
    """
    modules = dict(net.named_modules())
    for name, value in numbers.items():
        owner, _, key = name.rpartition(".")
        before = vars(modules[owner]).get(key) if owner in modules else None
        if type(value) is not int or type(before) is not int or not 0 < value <= before:
            raise CompressError(f"{type(net).__name__}: {name!r} cannot be set to {str(value)[:40]}; it is {before}")
        setattr(modules[owner], key, value)
    if numbers:
        net.__dict__[KEY] = {**numbers_of(net), **numbers}


def numbers_of(net: nn.Module) -> dict[str, int]:
    """Return what was set: name of an attribute -> its value.

    Args:
        net: any.
    """
    return dict(net.__dict__.get(KEY, {}))
