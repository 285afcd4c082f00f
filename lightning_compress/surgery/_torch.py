"""Hold what torch has no public name for: nothing else in the package reads a private attribute of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.modules.batchnorm import _NormBase as NormBase  # of batch norms and instance norms
from torch.nn.modules.conv import _ConvNd as ConvBase
from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeBase
from torch.overrides import TorchFunctionMode

__all__ = ["BatchNormBase", "ConvBase", "ConvTransposeBase", "NormBase"]

ASSERT_METADATA = torch.ops.aten._assert_tensor_metadata.default  # a check that torch.export leaves in a graph


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return the table of a module's own parameters; changes of the table change the module."""
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the table of a module's own buffers; changes of the table change the module."""
    return module._buffers


def own_children(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return the table of a module's children; changes of the table change the module."""
    return module._modules


def take_over(new: nn.Module, old: nn.Module) -> None:
    """Give a module the parameters, buffers and children of another, which keeps them too."""
    new._parameters.update(old._parameters)
    new._buffers.update(old._buffers)
    new._modules.update(old._modules)


def take_hooks(new: nn.Module, old: nn.Module) -> None:
    """Give a module the hooks of another beside its own; both share the tables, so that handles remove from them."""
    for name in (
        "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called", "_backward_pre_hooks", "_backward_hooks",
    ):  # fmt: skip
        table = getattr(old, name)
        table.update(getattr(new, name))
        setattr(new, name, table)
    new._is_full_backward_hook = old._is_full_backward_hook


def set_tables(
    module: nn.Module, parameters: dict[str, nn.Parameter | None], children: dict[str, nn.Module | None]
) -> None:
    """Give a module other tables of parameters and children."""
    module._parameters, module._modules = parameters, children


def unsaved_buffers(module: nn.Module) -> set[str]:
    """Return the names of a module's own buffers that are not in its ``state_dict()``."""
    return module._non_persistent_buffers_set


def forward_hooks(module: nn.Module) -> dict[int, Any]:
    """Return the hooks that run after a module's forward; changes of the table change the module."""
    return module._forward_hooks


def forward_pre_hooks(module: nn.Module) -> dict[int, Any]:
    """Return the hooks that run before a module's forward; changes of the table change the module."""
    return module._forward_pre_hooks


def recurrent_weights(layer: nn.RNNBase) -> list[str]:
    """Return the names of the matrices of a recurrent layer: biases are not among them."""
    return [name for name in layer._flat_weights_names if name.startswith("weight")]


def read_weights_at_each_call(layer: nn.Module) -> None:
    """Let a recurrent layer read its weights by name at each call, as others do; it keeps them in a list of its own.

    Args:
        layer: of a class that no other layer has, as ``torch.nn.utils.parametrize`` makes; others are left as they are.
    """
    if isinstance(layer, nn.RNNBase):
        kind: Any = type(layer)
        kind._flat_weights = property(_weights_by_name, _ignored)
        kind._init_flat_weights = kind._update_flat_weights = kind.flatten_parameters = _nothing
        layer.__dict__.pop("_flat_weights", None)  # what it computed must not be copied with it


def read_weights_from_list(layer: nn.Module) -> None:
    """Let a recurrent layer keep the list of its weights again, once it is of its own class."""
    if isinstance(layer, nn.RNNBase):
        layer._init_flat_weights()


def without_weight_list(state: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a module's ``__dict__`` without what a recurrent layer keeps of its weights."""
    return {key: value for key, value in state.items() if key not in ("_flat_weights", "_flat_weight_refs")}


def _weights_by_name(layer: Any) -> list[Any]:
    return [getattr(layer, name, None) for name in layer._flat_weights_names]


def _ignored(_layer: Any, _value: Any) -> None:
    pass


def _nothing(_layer: Any) -> None:
    pass


def is_compiled(module: nn.Module) -> bool:
    """Return whether ``torch.compile`` or ``Module.compile`` was applied to a module, or to a part of it.

    A compiled module does not see hooks that come or go later.
    """
    return getattr(module, "_compiler_ctx", None) is not None or any(  # Lightning's, of a module that was unwrapped
        part._compiled_call_impl is not None or hasattr(part, "_orig_mod") for part in module.modules()
    )


def writes(value: Tensor) -> int:
    """Return how often something was written into a tensor, which a view of it counts too; -1 where nobody counts."""
    return -1 if value.is_inference() else value._version


def written_arguments(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the arguments that an operation of torch's dispatcher writes into."""
    schema = operation._schema
    if not schema.is_mutable:
        return []
    return [
        args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def is_backward() -> bool:
    """Return whether a backward pass is running, as it is while ``torch.utils.checkpoint`` recomputes."""
    return torch._C._current_graph_task_id() != -1


def padding_of(layer: Any) -> tuple[int, ...]:
    """Return the padding of a convolution as ``F.pad`` takes it."""
    return tuple(layer._reversed_padding_repeated_twice)


def convolve(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """Return the output of a convolution with another weight and without bias, padded in the layer's own mode."""
    return layer._conv_forward(x, weight, None)


class always_with_gradients(TorchFunctionMode):
    """Let autograd follow what a network computes under ``no_grad`` or detaches, as frozen backbones are run."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        if func in (torch.detach, Tensor.detach):
            return args[0]
        return func(*args, **(kwargs or {}))


def viewed(tensor: Tensor) -> Tensor | None:
    """Return the tensor that another one is a view of; None for one with memory of its own."""
    return tensor._base
