"""Count what code multiplies with the weight of a layer that it does not call: ``F.linear(x, self.qkv.weight)``."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_compress.surgery._torch import own_parameters, viewed
from lightning_compress.surgery.matrices import EMBEDDING
from lightning_compress.surgery.transforms import WEIGHT

PRODUCTS: frozenset[Callable[..., Any]] = frozenset(
    {F.linear, torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__}
)
CONVOLUTIONS: frozenset[Callable[..., Any]] = frozenset({F.conv1d, F.conv2d, F.conv3d})
TRANSPOSED: frozenset[Callable[..., Any]] = frozenset({F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d})
COUNTED = PRODUCTS | CONVOLUTIONS | TRANSPOSED


class ReadWeights(TorchFunctionMode):
    """Counts the positions of a batch that are multiplied with each weight of a network, whoever multiplies.

    A view of a weight, such as its transpose or some of its rows, counts by its share of the weight.

    Args:
        net: whose weights have no transforms.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._names: dict[int, str] = {}
        for name, module in net.named_modules():
            weight = own_parameters(module).get(WEIGHT)
            if weight is not None:  # of one that is shared, the first layer counts
                layer = f"{name}.{WEIGHT}".removeprefix(".") if isinstance(module, EMBEDDING) else name
                self._names.setdefault(id(weight), layer)
        self._counts: dict[str, Fraction] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in COUNTED:
            x, weight = [*args, *(kwargs or {}).values()][:2]
            base = viewed(weight)
            whole = weight if base is None else base
            name = self._names.get(id(whole))
            if name is not None:
                count = _positions(func, x, weight, result) * Fraction(weight.numel(), whole.numel())
                self._counts[name] = self._counts.get(name, Fraction(0)) + count
        return result

    @property
    def positions(self) -> dict[str, int]:
        """The positions of the batch at which each weight is multiplied with something, by name of its layer."""
        return {name: round(count) for name, count in self._counts.items()}


def _positions(func: Callable[..., Any], x: Tensor, weight: Tensor, result: Tensor) -> int:
    """Return the positions of a product: of the output of a convolution, of the input of the others."""
    if func in CONVOLUTIONS:
        return result.numel() // max(weight.shape[0], 1)
    return x.numel() // max(weight.shape[0] if func in TRANSPOSED else x.shape[-1], 1)
