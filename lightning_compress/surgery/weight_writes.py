"""Find layers whose forward pass writes into their weight: max-norm, masked and non-negative layers.

Under a transform ``layer.weight`` is a temporary tensor: what is written into it is lost, and the constraint with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery import measure
from lightning_compress.surgery._torch import own_parameters, written_arguments
from lightning_compress.surgery.calibration import calibration_of, store_calibration
from lightning_compress.surgery.transforms import weight_transforms

NAME = "layers that write into their weight"


class _Writes(TorchDispatchMode):
    """Notes which memory operations write into."""

    def __init__(self) -> None:
        super().__init__()
        self.written: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves(written_arguments(func, args, kwargs))
        self.written |= {_memory(t) for t in leaves if isinstance(t, Tensor)}
        return func(*args, **kwargs)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def layers_that_write(net: nn.Module, example: Any) -> list[str]:
    """Return the layers into whose weight a forward pass writes, or that get another weight in it.

    Args:
        net: is run in eval mode, once: what was found is kept on it.
        example: one input batch.
    """
    found = calibration_of(net, NAME)
    if found is None:
        found = _found(net, example)
        store_calibration(net, NAME, found)
    return found


def check_constraints(callback: str, net: nn.Module, writing: Sequence[str]) -> None:
    """Raise if a layer that writes into its weight has a weight transform now.

    Args:
        callback: its class's name, for the message.
        net: after the callback.
        writing: what :func:`layers_that_write` returned before it.

    Raises:
        CompressError: naming the layer and the remedy.
    """
    for name in writing:
        layer = dict(net.named_modules()).get(name)
        if layer is not None and weight_transforms(layer):
            raise CompressError(
                f"{callback}: the forward pass of layer {name!r} ({type(layer).__bases__[0].__name__}) writes into its "
                f"weight, as max-norm, masked and non-negative layers do; that would be lost where the weight goes "
                f"through a transform. Leave the layer out of the plan, or write the constraint as a parametrization "
                f"or after each optimizer step"
            )


def _found(net: nn.Module, example: Any) -> list[str]:
    before = {
        name: (layer, weight, _memory(weight))
        for name, layer in net.named_modules()
        if isinstance(weight := own_parameters(layer).get("weight"), nn.Parameter)
    }
    with _Writes() as writes:
        measure.forward_hooked(net, example, [])
    return [
        name
        for name, (layer, weight, memory) in before.items()
        if own_parameters(layer).get("weight") is not weight or _memory(weight) != memory or memory in writes.written
    ]
