"""What operations do to the numbers of channels: names of torch's functions, and a rule for each kind.

A rule is called with the numbers, the name, the function, its arguments, and the tensors that it made. It raises where
the form of the operation is not one that it knows; channels are then followed no further.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lightning_compress.surgery.graph.channel_numbers import ChannelNumbers, Reshape, SplitBy, Width, compact

Rule = Callable[[ChannelNumbers, str, Any, Any, Any, list[Tensor]], None]

MOVES = frozenset((
    "view", "reshape", "flatten", "unflatten", "transpose", "permute", "movedim", "swapaxes", "swapdims", "contiguous",
    "chunk", "split", "tensor_split", "unbind", "cat", "concat", "stack", "getitem", "narrow", "select", "squeeze",
    "unsqueeze", "expand", "expand_as", "repeat", "roll", "flip", "clone", "detach", "view_as", "reshape_as",
    "pixel_shuffle", "pixel_unshuffle", "t", "adjoint", "atleast_2d", "alias",
))  # fmt: skip
POINTWISE = frozenset((
    "relu", "relu6", "gelu", "silu", "sigmoid", "logsigmoid", "hardsigmoid", "hardswish", "hardtanh", "tanh", "mish",
    "leaky_relu", "elu", "selu", "celu", "softplus", "softsign", "exp", "log", "sqrt", "rsqrt", "pow", "square", "abs",
    "neg", "clamp", "clamp_min", "clamp_max", "clip", "erf", "add", "sub", "rsub", "mul", "div", "true_divide", "sin",
    "cos", "maximum", "minimum", "where", "lerp", "addcmul", "reciprocal", "float", "half", "double", "to", "type_as",
    "bfloat16", "dropout", "threshold", "rrelu", "prelu", "truediv", "rtruediv", "rpow", "sign", "nan_to_num",
))  # fmt: skip
ALONG = frozenset(("sum", "mean", "amax", "amin", "max", "min", "var", "std", "norm", "vector_norm", "logsumexp"))
SOFTMAX = frozenset(("softmax", "log_softmax", "normalize"))
POOLS = frozenset(f"{kind}_pool{n}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max", "lp") for n in "123")
SPATIAL = POOLS | {"interpolate", "upsample", "boolean_dispatch", "fn", "grid_sample"}
PADDING = frozenset(("pad",))
NEW = frozenset(f"{form}" for kind in ("zeros", "ones", "empty", "full", "rand", "randn")
                for form in (f"{kind}_like", f"new_{kind}"))  # fmt: skip
PRODUCTS, ATTENTION = frozenset(("matmul", "bmm")), frozenset(("scaled_dot_product_attention",))


def _move(numbers: ChannelNumbers, name: str, func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
    if name == "getitem" and any(isinstance(leaf, Tensor) for leaf in tree_leaves(args[1])):
        _looked_up(numbers, numbers.stand_in(args[0]), args[1], made[0])
        return
    moved_args, moved_kwargs = tree_map(numbers.stand_in, (args, kwargs))
    if name in ("view", "reshape"):
        func = Tensor.reshape  # numbers are spread without memory of their own, so a view may need a copy
    given = moved_args[0] if moved_args else None
    moved = [leaf for leaf in tree_leaves(func(*moved_args, **moved_kwargs)) if isinstance(leaf, Tensor)]
    for tensor, labels in zip(made, moved, strict=True):
        numbers.set(tensor, labels)
    if name in ("chunk", "split", "tensor_split") and isinstance(given, Tensor):
        _parts(numbers, name, given, moved, args, kwargs)
    elif name in ("view", "reshape", "unflatten") and isinstance(given, Tensor):
        _reshaped(numbers, given, moved[0])
        sizes = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
        for dim, size in enumerate(() if name == "unflatten" else sizes):
            if isinstance(size, Width):
                numbers.as_many(size, moved[0], dim)


def _parts(numbers: ChannelNumbers, name: str, given: Tensor, parts: list[Tensor], args: Any, kwargs: Any) -> None:
    if len({part.shape for part in parts}) > 1:
        return
    dim = next(d for d, (a, b) in enumerate(zip(given.shape, parts[0].shape, strict=True)) if a != b)
    if given.any():
        for part in parts[1:]:
            numbers.joined(parts[0], part)
        size = args[1] if len(args) > 1 else kwargs.get("split_size_or_sections", kwargs.get("split_size"))
        if name == "split" and isinstance(size, int) and numbers.running:
            own = np.unique(compact(given, dim).numpy())
            numbers.splits.append(SplitBy(numbers.running[-1], size, given.shape[dim], own))


def _reshaped(numbers: ChannelNumbers, given: Tensor, after: Tensor) -> None:
    """Note along which dimensions channels are told apart now, and whether that was one before."""
    for d in range(after.dim()):
        if after.shape[d] > 1 and (after.stride(d) == 0 or bool((after == after.narrow(d, 0, 1)).all())):
            after = after.narrow(d, 0, 1)
    if after.numel() > 1 and int(after.max()) > 0:
        sizes = [size for size in after.shape if size > 1]
        several = prod(sizes) in given.shape and len(sizes) > 1
        where = numbers.running[-1] if numbers.running else ""
        numbers.reshapes.append(Reshape(where, after.reshape(sizes).numpy(), several))


def _multiply(numbers: ChannelNumbers, _name: str, _func: Any, args: Any, _kwargs: Any, made: list[Tensor]) -> None:
    """Follow a product of matrices: what is summed over goes together, as the features of one head."""
    left, right = (numbers.stand_in(arg) for arg in args[:2])
    if min(left.dim(), right.dim()) < 2:
        raise NotImplementedError
    numbers.alike(left)
    numbers.alike(right.transpose(-1, -2))
    rows, columns = left.amax(-1, keepdim=True), right.amax(-2, keepdim=True)
    numbers.set(made[0], numbers.joined(rows.expand(made[0].shape), columns.expand(made[0].shape)))


def _attend(numbers: ChannelNumbers, _name: str, _func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
    """Follow attention: all of a head goes together."""
    query, key, value, *rest = [*args] + [kwargs[k] for k in ("query", "key", "value") if k in kwargs]
    mask = rest[0] if rest else kwargs.get("attn_mask")
    numbers.alike(numbers.stand_in(value).transpose(-1, -2))
    found = numbers.stand_in(value).amax(-2, keepdim=True).expand(made[0].shape)
    for part in (query, key, *([] if mask is None else [mask])):
        rows = numbers.stand_in(part).flatten(-2)
        numbers.alike(rows)
        found = numbers.joined(found, rows.amax(-1)[..., None, None].expand(made[0].shape))
    numbers.set(made[0], found)


def _looked_up(numbers: ChannelNumbers, given: Tensor, index: Any, made: Tensor) -> None:
    """Follow a table that is read by a tensor of places along its first or second dimension."""
    dim = 1 if isinstance(index, tuple) and len(index) == 2 and index[0] == slice(None) else 0
    places = index[-1] if isinstance(index, tuple) else index
    if not isinstance(places, Tensor) or (isinstance(index, tuple) and len(index) != dim + 1):
        raise NotImplementedError
    numbers.alike(given.movedim(dim, -1))
    rest = given.amax(dim)
    shape = [*rest.shape[:dim], *[1] * places.dim(), *rest.shape[dim:]]
    numbers.set(made, rest.reshape(shape).expand(made.shape))


def _pointwise(numbers: ChannelNumbers, _name: str, _func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
    shape = made[0].shape
    found = [numbers.label(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    labels = [each.expand(shape) for each in found if each is not None]
    merged = labels[0]
    for other in labels[1:]:
        merged = numbers.joined(merged, other)
    numbers.set(made[0], merged)


def _reduce(numbers: ChannelNumbers, _name: str, _func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
    given = numbers.label(args[0])
    assert given is not None
    dims = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    if _name in ("norm", "vector_norm"):
        dims = kwargs.get("dim", args[2] if len(args) > 2 else None)
    if isinstance(dims, Tensor):
        raise NotImplementedError
    every = range(given.dim()) if dims is None else [dims] if isinstance(dims, int) else dims
    _onto(numbers, given, [d % given.dim() for d in every], made)


def _softmax(numbers: ChannelNumbers, name: str, _func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
    given = numbers.label(args[0])
    assert given is not None
    place = 2 if name == "normalize" else 1
    dim = kwargs.get("dim", args[place] if len(args) > place else 1 if name == "normalize" else None)
    if dim is None:
        raise NotImplementedError
    numbers.alike(given.movedim(dim, -1))
    numbers.set(made[0], given)


def _pool(numbers: ChannelNumbers, name: str, _func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
    given = numbers.label(args[0])
    if given is None:
        raise NotImplementedError
    _onto(numbers, given, list(range(2, given.dim())), made)


def _pad(numbers: ChannelNumbers, _name: str, _func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
    """Follow what adds places along dimensions in which no channels are told apart."""
    given, pads = numbers.label(args[0]), args[1] if len(args) > 1 else kwargs["pad"]
    assert given is not None
    for dim in range(given.dim()):
        place = 2 * (given.dim() - 1 - dim)  # the pads of the last dimension come first
        if any(pads[place : place + 2]):
            first = given.narrow(dim, 0, 1)
            if bool((given != first).any()):
                raise NotImplementedError
            given = first
    numbers.set(made[0], given.expand(made[0].shape))


def _onto(numbers: ChannelNumbers, given: Tensor, dims: list[int], made: list[Tensor]) -> None:
    """Give the tensors made the numbers of one, along dimensions in which each channel is alike, or goes whole."""
    rest = [d for d in range(given.dim()) if d not in dims]
    rows = given.permute(*rest, *dims).reshape(*(given.shape[d] for d in rest), -1)
    numbers.alike(rows)
    first = rows.amax(-1) if rows.numel() else rows.sum(-1)
    for tensor in made:
        if tensor.dim() == len(rest):
            numbers.set(tensor, first)
        else:
            kept = first.reshape([given.shape[d] if d in rest else 1 for d in range(given.dim())])
            numbers.set(tensor, kept.expand(tensor.shape))


def _nothing(*_: Any) -> None:
    """Leave what is new without numbers: it belongs to no channel."""


RULES: tuple[tuple[frozenset[str], Rule], ...] = (
    (MOVES, _move), (POINTWISE, _pointwise), (ALONG, _reduce), (SOFTMAX, _softmax), (SPATIAL, _pool), (NEW, _nothing),
    (PADDING, _pad), (PRODUCTS, _multiply), (ATTENTION, _attend),
)  # fmt: skip


def rule_of(name: str) -> Rule | None:
    """Return the rule of a function, if there is one."""
    return next((rule for names, rule in RULES if name in names), None)
