"""Calibration data (gradients, input moments) cached on a network.

It is kept on the network and shared, not copied, by the network's deepcopies: every candidate of a search reads the
same numbers. It is no part of checkpoints, since it describes the network before the change.
"""

from __future__ import annotations

from typing import Any

from torch import nn

KEY = "_lightning_compress_gathered"


class _Shared(dict[str, Any]):
    """A dict that deepcopy hands on as it is."""

    def __deepcopy__(self, memo: Any) -> _Shared:
        return self


def store_calibration(net: nn.Module, name: str, value: Any) -> None:
    """Keep a value on the network, in place of an earlier one of that name."""
    net.__dict__[KEY] = _Shared({**net.__dict__.get(KEY, {}), name: value})


def calibration_of(net: nn.Module, name: str) -> Any:
    """Return the value of that name, or None."""
    return net.__dict__.get(KEY, {}).get(name)


def drop_calibration(net: nn.Module) -> None:
    """Drop all: the network has changed. Copies that share the values keep them."""
    net.__dict__.pop(KEY, None)
