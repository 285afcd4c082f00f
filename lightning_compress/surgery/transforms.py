"""Attaching weight, input and output transforms to layers, and baking them in.

The only file that knows ``torch.nn.utils.parametrize``. What it must get right, each a trap found by running it: a
deepcopy shares the dynamic class that parametrize makes, so removing a parametrization from the copy through torch's
own function breaks the original; hooks must be bound methods, because a closure in a copy keeps the original's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import HasKind, class_of
from lightning_compress.surgery._torch import (
    forward_hooks,
    forward_pre_hooks,
    own_children,
    own_parameters,
    read_weights_at_each_call,
    read_weights_from_list,
    without_weight_list,
)

INPUT, OUTPUT = "input_transform", "output_transform"
WEIGHT = "weight"  # name of the weight of a layer that has one


class Transform(nn.Module, HasKind):
    """Something that a weight, an input or an output goes through: a quantizer, a mask, a noise.

    Sub-classes implement ``forward(x) -> x``, same shape, and :meth:`config`. All state is buffers and parameters, so
    that checkpoints hold it. One that needs layer, input and output together overrides :meth:`after_forward`.
    """

    def config(self) -> dict[str, Any]:
        """Return plain constructor arguments with which an equally shaped transform can be made again."""
        raise NotImplementedError

    def spec(self) -> dict[str, Any]:
        """Return the kind and the constructor arguments, as plain types."""
        return {"kind": self.kind, **self.config()}

    @staticmethod
    def build(spec: Mapping[str, Any]) -> Transform:
        """Return the transform that :meth:`spec` described, its state not yet loaded.

        Only subclasses of ``Transform`` that ship with this package, or that the program has imported, are made: a
        file cannot name any other code to run.

        Raises:
            CompressError: no transform of that kind is known.
        """
        arguments = {k: v for k, v in spec.items() if k != "kind"}
        return class_of(spec["kind"], Transform)(**arguments)

    def before_forward(self, _layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Forward pre-hook of the layer whose input this transforms: the first argument goes through it."""
        return (self(first_input(_layer, args)), *args[1:])

    def after_forward(self, _layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Forward hook of the layer whose output this transforms."""
        return self(output)


def first_input(layer: nn.Module, args: tuple[Any, ...]) -> Tensor:
    """Return what a layer was called with.

    Raises:
        CompressError: it was called by keyword, which hooks do not show.
    """
    if not args:
        raise CompressError(f"a {type(layer).__name__} is called as layer(input=x); call it as layer(x): {layer}")
    return args[0]


def attach_weight(layer: nn.Module, transform: Transform, first: bool = False, key: str = WEIGHT) -> None:
    """Let a weight of a layer go through a transform at each access; the raw weight stays the trained parameter.

    Args:
        layer: any module with a weight.
        transform: comes after those that are there, or before them if ``first``.
        first: whether it comes before transforms that are there.
        key: name of the weight, for layers with several.
    """
    parametrize.register_parametrization(layer, key, transform, unsafe=True)
    if first:
        chain = layer.parametrizations[key]
        for place, later in enumerate([transform, *list(chain)[:-1]]):
            chain[place] = later
    if type(transform).after_forward is not Transform.after_forward:
        layer.register_forward_hook(transform.after_forward)
    _adapt_class(layer)


def _adapt_class(layer: nn.Module) -> None:
    # torch forbids pickling, for its class exists only in this process
    type(layer).__reduce__ = _reduce  # type: ignore[method-assign, assignment]
    read_weights_at_each_call(layer)


def _reduce(layer: nn.Module) -> tuple[Any, ...]:
    """Pickle a layer with weight transforms as the plain layer and the transforms to attach again."""
    chains = weight_chains(layer)
    state = without_weight_list(layer.__dict__)
    state["_modules"] = {k: v for k, v in own_children(layer).items() if k != "parametrizations"}
    state["_parameters"] = {**own_parameters(layer), **{key: raw_weight(layer, key) for key in chains}}
    return object.__new__, (type(layer).__bases__[0],), (state, chains), None, None, _restore


def _restore(layer: nn.Module, state: tuple[dict[str, Any], dict[str, list[Transform]]]) -> None:
    layer.__dict__.update(state[0])  # with the hooks of the transforms
    for key, chain in state[1].items():
        for transform in chain:
            parametrize.register_parametrization(layer, key, transform, unsafe=True)
    if state[1]:
        _adapt_class(layer)


def attach_input(layer: nn.Module, transform: Transform) -> None:
    """Let the first input of ``layer`` go through a transform, which becomes its sub-module ``input_transform``."""
    layer.add_module(INPUT, transform)
    layer.register_forward_pre_hook(transform.before_forward)


def attach_output(layer: nn.Module, transform: Transform) -> None:
    """Let the output of ``layer`` go through a transform, which becomes its sub-module ``output_transform``.

    Raises:
        CompressError: there is one already.
    """
    if OUTPUT in own_children(layer):
        raise CompressError(
            f"this {type(layer).__name__} already has a {type(own_children(layer)[OUTPUT]).__name__} on its output; "
            f"one noise at a layer"
        )
    layer.add_module(OUTPUT, transform)
    layer.register_forward_hook(transform.after_forward)


def weight_transforms(layer: nn.Module, key: str = WEIGHT) -> list[Transform]:
    """Return the transforms of a weight of a layer, in the order in which they apply.

    Args:
        layer: any module.
        key: name of the weight, for layers with several.
    """
    return weight_chains(layer).get(key, [])


def weight_chains(layer: nn.Module) -> dict[str, list[Transform]]:
    """Return the transforms of each weight of a layer that has some, by the name of the weight."""
    chains = own_children(layer).get("parametrizations")  # wrappers, as PEFT's, hand on those of a layer inside
    if not isinstance(chains, nn.ModuleDict):
        return {}
    return {key: cast("list[Transform]", list(chain)) for key, chain in chains.items()}


def input_transform(layer: nn.Module) -> Transform | None:
    """Return the transform of the layer's input, if one is attached."""
    return cast("Transform | None", own_children(layer).get(INPUT))


def output_transform(layer: nn.Module) -> Transform | None:
    """Return the transform of the layer's output, if one is attached."""
    return cast("Transform | None", own_children(layer).get(OUTPUT))


def check_plain(name: str, layer: nn.Module, callback: str) -> None:
    """Raise if the layer's weight already goes through something, and a callback needs the weight itself.

    Raises:
        CompressError: naming the layer and what its weight goes through.
    """
    if weight_transforms(layer):
        raise CompressError(
            f"{callback}: the weight of layer {name!r} already goes through "
            f"{[type(t).__name__ for t in weight_transforms(layer)]}; apply {callback} before that, or leave the layer "
            f"out of its plan"
        )


def weight_before(layer: nn.Module, transform: Transform, key: str = WEIGHT) -> Tensor:
    """Return the input of one of the transforms of a weight: the raw weight through those before it."""
    weight = raw_weight(layer, key)
    for earlier in weight_transforms(layer, key):
        if earlier is transform:
            return weight
        weight = earlier(weight)
    raise CompressError(f"{type(transform).__name__} is not attached to this {type(layer).__name__}")


def raw_weight(layer: nn.Module, key: str = WEIGHT) -> nn.Parameter:
    """Return the trained parameter behind a weight of a layer."""
    return layer.parametrizations[key].original if weight_transforms(layer, key) else getattr(layer, key)


def transformed(net: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that have a weight, input or output transform of this package, by name."""
    return {
        name: module
        for name, module in net.named_modules()
        if any(isinstance(t, Transform) for chain in weight_chains(module).values() for t in chain)
        or {INPUT, OUTPUT} & own_children(module).keys()
    }


def bake_weight(layer: nn.Module, value: Tensor | None = None) -> None:
    """Make the transformed weights the plain parameters, and drop the transforms.

    Args:
        layer: any module.
        value: to take in place of the transformed ``weight``.
    """
    chains = weight_chains(layer)
    if not chains:
        return
    weights = {key: getattr(layer, key).detach().clone() for key in chains}
    if value is not None:
        weights[WEIGHT] = value.detach().clone()
    trained = {key: layer.parametrizations[key].original.requires_grad for key in chains}
    drop_hooks(forward_hooks(layer), [transform for chain in chains.values() for transform in chain])
    # torch's remove_parametrizations deletes the property from the dynamic class, which deepcopies share.
    layer.__class__ = type(layer).__bases__[0]
    del own_children(layer)["parametrizations"]
    for key, weight in weights.items():
        layer.register_parameter(key, nn.Parameter(weight, requires_grad=trained[key]))
    read_weights_from_list(layer)


def drop_input(layer: nn.Module) -> None:
    """Take the input transform off a layer."""
    drop_hooks(forward_pre_hooks(layer), [input_transform(layer)])
    own_children(layer).pop(INPUT, None)


def drop_output(layer: nn.Module) -> None:
    """Take the output transform off a layer."""
    drop_hooks(forward_hooks(layer), [output_transform(layer)])
    own_children(layer).pop(OUTPUT, None)


def drop_hooks(hooks: dict[int, Any], owners: Sequence[Transform | None]) -> None:
    """Remove the hooks that are methods of the owners, and none of anybody else.

    Args:
        hooks: of a module: ``forward_hooks`` or ``forward_pre_hooks`` of it.
        owners: whose; None for nobody.
    """
    for key, hook in list(hooks.items()):
        if any(getattr(hook, "__self__", None) is owner for owner in owners if owner is not None):
            del hooks[key]


def bake(net: nn.Module) -> nn.Module:
    """Turn a network with transforms into a plain one, in place: weights as transformed, nothing else."""
    for layer in transformed(net).values():
        bake_weight(layer)
        drop_input(layer)
        drop_output(layer)
    return net


def fold_batch_norm(layer: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the weight and bias with which ``layer`` also does the work of the batch norm behind it.

    ``norm(layer(x)) == factor * W x + bias`` with the running statistics.

    Returns:
        Factor and bias, both of shape ``(out,)``. Scaling the quantization scale by the factor keeps the codes.
    """
    factor = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight
    shift = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
    bias = shift * factor if norm.bias is None else shift * factor + norm.bias
    return factor.detach(), bias.detach()
