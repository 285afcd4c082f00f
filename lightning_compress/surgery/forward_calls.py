"""Let direct calls of a network's ``forward`` be seen by its hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_compress.surgery._torch import is_compiled


@contextmanager
def seen_by_hooks(net: nn.Module) -> Iterator[None]:
    """Make ``net.forward(x)`` mean ``net(x)`` inside the context; a compiled network is left as it is.

    Args:
        net: ``self.forward(x)`` in a ``training_step`` runs no hooks by itself.
    """
    if is_compiled(net):
        yield
        return
    forward, own = net.forward, net.__dict__.get("forward")
    depth = 0

    def entered(*_: Any) -> None:
        nonlocal depth
        depth += 1

    def left(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    def called(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs) if depth else net(*args, **kwargs)

    handles = [net.register_forward_pre_hook(entered), net.register_forward_hook(left, always_call=True)]
    net.forward = called
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        del net.forward
        if own is not None:
            net.forward = own
