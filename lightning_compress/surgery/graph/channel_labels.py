"""Follow channels by a number for each of them, which goes through a forward pass beside the tensors.

Operations that move elements (views, transpositions, splits, concatenations, shuffles) move the numbers alike, so that
any chain of them is followed exactly. Where elements of several channels meet, in a sum or in a softmax, these channels
can only be removed together. Equal parts of a split must stay equal: the same place of each part goes together.

It sees what torch-pruning's graph does not (dependencies.py), and takes the time of a few operations on integers for
each of the network. What is done to channels by an operation that is not known ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from lightning_compress.surgery import measure
from lightning_compress.surgery._torch import ConvTransposeBase
from lightning_compress.surgery.graph.dataflow import plain_name
from lightning_compress.surgery.graph.dependencies import Reached
from lightning_compress.surgery.graph.mask_channels import channel_dim
from lightning_compress.surgery.modes import DROPOUT, Mode

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
SPATIAL = POOLS | {"interpolate", "upsample", "boolean_dispatch", "pad", "fn", "grid_sample"}
NEW = frozenset(f"{form}" for kind in ("zeros", "ones", "empty", "full", "rand", "randn")
                for form in (f"{kind}_like", f"new_{kind}"))  # fmt: skip
PRODUCTS, ATTENTION = frozenset(("matmul", "bmm")), frozenset(("scaled_dot_product_attention",))
LARGEST = 1 << 20  # elements of a parameter that are followed one by one


@dataclass(frozen=True)
class SplitBy:
    """A split of channels into parts of a size that is a number in the code.

    Attributes:
        module: name of the innermost module that was running.
        size: of a part.
        channels: in all.
        labels: of the channels, ascending and once each.
    """

    module: str
    size: int
    channels: int
    labels: np.ndarray


@dataclass(frozen=True)
class _Reshape:
    """What a tensor is seen as.

    Attributes:
        module: name of the innermost module that was running.
        labels: in the dimensions along which they differ.
        several: whether these were one dimension before.
    """

    module: str
    labels: np.ndarray
    several: bool


@dataclass(frozen=True)
class Labelled:
    """What channels reach, in families that have no layer in common.

    Attributes:
        families: for each its sides; ``roots`` are the numbers of the channels that go together, from 0.
        ends: for each the operations at which channels are lost.
        splits: for each the splits of its channels.
    """

    families: list[list[Reached]]
    ends: list[list[str]]
    splits: list[list[SplitBy]]


def labelled(net: nn.Module, example: Any, mode: Mode) -> Labelled:
    """Return what the output channels of all conv and linear layers reach.

    Args:
        net: a copy, which is run.
        example: one input batch.
        mode: in which it runs.

    Raises:
        Exception: of any kind, where the forward pass raises.
    """
    labels = _Labels(net)
    handles = [handle for name, module in net.named_modules() for handle in labels.watch(name, module)]
    try:
        with torch.no_grad(), labels:
            mode(net, example)
    finally:
        for handle in handles:
            handle.remove()
    return labels.result()


class _Labels(TorchFunctionMode):
    """Keeps the numbers of the channels of each tensor; 0 is what belongs to no channel."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.count, self.inside = 1, 0
        self.of: dict[int, Tensor] = {}
        self.alive: list[Any] = []  # so that ids stay unique
        self.running: list[str] = []
        self.pairs: list[np.ndarray] = []
        self.sides: dict[tuple[int, bool], list[tuple[np.ndarray, np.ndarray]]] = {}
        self.targets: dict[int, Any] = {}
        self.ends: list[tuple[str, np.ndarray]] = []
        self.splits: list[SplitBy] = []
        self.reshapes: list[_Reshape] = []
        known = {id(p) for m in net.modules() if _known(m) for p in m.parameters(recurse=False)}
        self.raw = {id(p): p for p in net.parameters() if id(p) not in known and 0 < p.numel() <= LARGEST}
        self.first_of: dict[int, int] = {}  # raw parameter -> number of its first element

    # -- modules

    def watch(self, name: str, module: nn.Module) -> Iterable[Any]:
        """Yield the handles of hooks on a module."""
        if _known(module):
            yield module.register_forward_pre_hook(self._enter)
            yield module.register_forward_hook(self._leave)
        elif isinstance(module, (ConvTransposeBase, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)):
            yield module.register_forward_pre_hook(lambda m, args: self.end(type(m).__name__, args))
        elif type(module).__module__.partition(".")[0] != "torch":
            yield module.register_forward_pre_hook(lambda *_: self.running.append(name))
            yield module.register_forward_hook(lambda *_: self.running.pop() and None)

    def _enter(self, *_: Any) -> None:
        self.inside += 1

    def _leave(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        self.inside -= 1
        given = self.label(args[0]) if args and isinstance(args[0], Tensor) else None
        if self.inside or not isinstance(output, Tensor):
            return
        self.targets[id(module)] = module
        if isinstance(module, nn.Embedding):
            self._produce(module, output, output.dim() - 1, module.embedding_dim)
        elif isinstance(module, (*measure.CONV, *measure.LINEAR)):
            self._weighted(module, args[0], given, output)
        elif given is not None:
            self._normalized(module, args[0], given, output)

    def _weighted(self, module: Any, x: Tensor, given: Tensor | None, output: Tensor) -> None:
        conv = isinstance(module, measure.CONV)
        if given is not None and conv and slides_over_channels(module, x) and given.stride(-1):
            self._note(module, True, self.along(given, x.dim() - 1))
            self.set(output, given)
            return
        first = 0 if conv and x.dim() == len(module.kernel_size) + 1 else 1
        dim, width = (first, module.out_channels) if conv else (output.dim() - 1, module.out_features)
        read = None if given is None else self.along(given, dim if conv else x.dim() - 1)
        if conv and module.groups == module.in_channels == module.out_channels > 1 and read is not None and read.all():
            self._note(module, False, read)
            self.set(output, _spread(torch.from_numpy(read), output, dim))
            return
        if read is not None:
            self._note(module, True, read)
        self._produce(module, output, dim, width)

    def _produce(self, module: Any, output: Tensor, dim: int, width: int) -> None:
        made = np.arange(self.count, self.count + width)
        self.count += width
        self._note(module, False, made)
        self.set(output, _spread(torch.from_numpy(made), output, dim))

    def _normalized(self, module: Any, x: Tensor, given: Tensor, output: Tensor) -> None:
        shape = getattr(module, "normalized_shape", None)
        if shape is not None and len(tuple(shape)) > 1:
            self.end(type(module).__name__, x)
            return
        width = next((len(t) for t in module.state_dict().values() if t.dim()), 0)
        dim = channel_dim(module, x, width) if width > 1 and isinstance(module, measure.NORM) else 1
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            dim = x.dim() - 1 if shape is None or x.shape[-1] == tuple(shape)[-1] else 1
        self._note(module, False, self.along(given, dim))
        self.set(output, given)

    def _note(self, module: Any, inputs: bool, labels: np.ndarray) -> None:
        positions = labels.nonzero()[0]
        self.targets[id(module)] = module
        self.sides.setdefault((id(module), inputs), []).append((labels[positions], positions))

    # -- functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.inside:
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            if made and any(self.label(leaf) is not None for leaf in tree_leaves((args, kwargs))):
                self._follow(func, args, kwargs, result, made)
        return result

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any, made: list[Tensor]) -> None:
        name = plain_name(getattr(func, "__name__", ""))
        if func in DROPOUT:
            name = "dropout"
        if name == "get":  # of an attribute: x.T, x.data
            name = "view" if made[0].shape == args[0].shape else "get"
        rule = next((rule for names, rule in self.rules() if name in names), None)
        try:
            if rule is None:
                raise NotImplementedError
            rule(name, func, args, kwargs, result, made)
        except Exception:  # an operation on integers that torch does not have, or a form of it that is not known
            self.end(name, (args, kwargs))

    def rules(self) -> Iterable[tuple[frozenset[str], Callable[..., None]]]:
        """Return names of functions and what they do to numbers."""
        return (
            (MOVES, self._move), (POINTWISE, self._pointwise), (ALONG, self._reduce), (SOFTMAX, self._softmax),
            (SPATIAL, self._pool), (NEW, lambda *_: None), (PRODUCTS, self._multiply), (ATTENTION, self._attend),
        )  # fmt: skip

    def _move(self, name: str, func: Any, args: Any, kwargs: Any, result: Any, made: list[Tensor]) -> None:
        if name == "getitem" and any(isinstance(leaf, Tensor) for leaf in tree_leaves(args[1])):
            self._looked_up(self._stand_in(args[0]), args[1], made[0])
            return
        moved_args, moved_kwargs = tree_map(self._stand_in, (args, kwargs))
        if name in ("view", "reshape"):
            func = Tensor.reshape  # numbers are spread without memory of their own, so a view may need a copy
        given = moved_args[0] if moved_args else None
        moved = [leaf for leaf in tree_leaves(func(*moved_args, **moved_kwargs)) if isinstance(leaf, Tensor)]
        for tensor, labels in zip(made, moved, strict=True):
            self.set(tensor, labels)
        if name in ("chunk", "split", "tensor_split") and isinstance(given, Tensor):
            self._parts(name, given, moved, args, kwargs)
        elif name in ("view", "reshape", "unflatten") and isinstance(given, Tensor):
            self._reshaped(given, moved[0])

    def _parts(self, name: str, given: Tensor, parts: list[Tensor], args: Any, kwargs: Any) -> None:
        if len({part.shape for part in parts}) > 1:
            return
        dim = next(d for d, (a, b) in enumerate(zip(given.shape, parts[0].shape, strict=True)) if a != b)
        if given.any():
            for part in parts[1:]:
                self.joined(parts[0], part)
            size = args[1] if len(args) > 1 else kwargs.get("split_size_or_sections", kwargs.get("split_size"))
            if name == "split" and isinstance(size, int) and self.running:
                numbers = np.unique(_compact(given, dim).numpy())
                self.splits.append(SplitBy(self.running[-1], size, given.shape[dim], numbers))

    def _reshaped(self, given: Tensor, after: Tensor) -> None:
        """Note along which dimensions channels are told apart now, and whether that was one before."""
        for d in range(after.dim()):
            if after.shape[d] > 1 and (after.stride(d) == 0 or bool((after == after.narrow(d, 0, 1)).all())):
                after = after.narrow(d, 0, 1)
        if after.numel() > 1 and int(after.max()) > 0:
            sizes = [size for size in after.shape if size > 1]
            several = prod(sizes) in given.shape and len(sizes) > 1
            where = self.running[-1] if self.running else ""
            self.reshapes.append(_Reshape(where, after.reshape(sizes).numpy(), several))

    def _multiply(self, _name: str, _func: Any, args: Any, _kwargs: Any, _result: Any, made: list[Tensor]) -> None:
        """Follow a product of matrices: what is summed over goes together, as the features of one head."""
        left, right = (self._stand_in(arg) for arg in args[:2])
        if min(left.dim(), right.dim()) < 2:
            raise NotImplementedError
        self._alike(left)
        self._alike(right.transpose(-1, -2))
        rows, columns = left.amax(-1, keepdim=True), right.amax(-2, keepdim=True)
        self.set(made[0], self.joined(rows.expand(made[0].shape), columns.expand(made[0].shape)))

    def _attend(self, _name: str, _func: Any, args: Any, kwargs: Any, _result: Any, made: list[Tensor]) -> None:
        """Follow attention: all of a head goes together."""
        query, key, value, *rest = [*args] + [kwargs[k] for k in ("query", "key", "value") if k in kwargs]
        mask = rest[0] if rest else kwargs.get("attn_mask")
        self._alike(self._stand_in(value).transpose(-1, -2))
        found = self._stand_in(value).amax(-2, keepdim=True).expand(made[0].shape)
        for part in (query, key, *([] if mask is None else [mask])):
            rows = self._stand_in(part).flatten(-2)
            self._alike(rows)
            found = self.joined(found, rows.amax(-1)[..., None, None].expand(made[0].shape))
        self.set(made[0], found)

    def _looked_up(self, given: Tensor, index: Any, made: Tensor) -> None:
        """Follow a table that is read by a tensor of places along its first or second dimension."""
        dim = 1 if isinstance(index, tuple) and len(index) == 2 and index[0] == slice(None) else 0
        places = index[-1] if isinstance(index, tuple) else index
        if not isinstance(places, Tensor) or (isinstance(index, tuple) and len(index) != dim + 1):
            raise NotImplementedError
        self._alike(given.movedim(dim, -1))
        rest = given.amax(dim)
        shape = [*rest.shape[:dim], *[1] * places.dim(), *rest.shape[dim:]]
        self.set(made, rest.reshape(shape).expand(made.shape))

    def _pointwise(self, _name: str, _func: Any, args: Any, kwargs: Any, _result: Any, made: list[Tensor]) -> None:
        shape = made[0].shape
        found = [self.label(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        labels = [each.expand(shape) for each in found if each is not None]
        merged = labels[0]
        for other in labels[1:]:
            merged = self.joined(merged, other)
        self.set(made[0], merged)

    def _reduce(self, _name: str, _func: Any, args: Any, kwargs: Any, _result: Any, made: list[Tensor]) -> None:
        given = self.label(args[0])
        assert given is not None
        dims = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
        if _name in ("norm", "vector_norm"):
            dims = kwargs.get("dim", args[2] if len(args) > 2 else None)
        if isinstance(dims, Tensor):
            raise NotImplementedError
        every = range(given.dim()) if dims is None else [dims] if isinstance(dims, int) else dims
        self._onto(given, [d % given.dim() for d in every], made)

    def _softmax(self, name: str, _func: Any, args: Any, kwargs: Any, _result: Any, made: list[Tensor]) -> None:
        given = self.label(args[0])
        assert given is not None
        place = 2 if name == "normalize" else 1
        dim = kwargs.get("dim", args[place] if len(args) > place else 1 if name == "normalize" else None)
        if dim is None:
            raise NotImplementedError
        self._alike(given.movedim(dim, -1))
        self.set(made[0], given)

    def _pool(self, name: str, _func: Any, args: Any, kwargs: Any, _result: Any, made: list[Tensor]) -> None:
        given = self.label(args[0])
        if given is None:
            raise NotImplementedError
        if name == "pad":
            pads = args[1] if len(args) > 1 else kwargs["pad"]
            if any(pads[2 * (given.dim() - 2) :]) or len(pads) > 2 * (given.dim() - 1):
                raise NotImplementedError
            dims = list(range(given.dim() - len(pads) // 2, given.dim()))
        else:
            dims = list(range(2, given.dim()))
        self._onto(given, dims, made)

    def _onto(self, given: Tensor, dims: list[int], made: list[Tensor]) -> None:
        """Give the tensors made the numbers of one, along dimensions in which each channel is alike, or goes whole."""
        rest = [d for d in range(given.dim()) if d not in dims]
        rows = given.permute(*rest, *dims).reshape(*(given.shape[d] for d in rest), -1)
        self._alike(rows)
        first = rows.amax(-1) if rows.numel() else rows.sum(-1)
        for tensor in made:
            if tensor.dim() == len(rest):
                self.set(tensor, first)
            else:
                kept = first.reshape([given.shape[d] if d in rest else 1 for d in range(given.dim())])
                self.set(tensor, kept.expand(tensor.shape))

    # -- numbers

    def label(self, tensor: Any) -> Tensor | None:
        """Return the numbers of a tensor, if some belong to channels."""
        if not isinstance(tensor, Tensor):
            return None
        found = self.of.get(id(tensor))
        if found is None and id(tensor) in self.raw:
            parameter = self.raw[id(tensor)]
            self.first_of[id(tensor)] = self.count
            found = torch.arange(self.count, self.count + parameter.numel()).view(parameter.shape)
            self.count += parameter.numel()
            self.of[id(tensor)] = found
        return found

    def set(self, tensor: Tensor, labels: Tensor) -> None:
        """Keep the numbers of a tensor."""
        if tensor.shape != labels.shape:
            raise ValueError(f"{tuple(labels.shape)} numbers for {tuple(tensor.shape)} elements")
        self.of[id(tensor)] = labels
        self.alive.append(tensor)

    def _stand_in(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        found = self.label(leaf)
        return torch.zeros((), dtype=torch.long).expand(leaf.shape) if found is None else found

    def along(self, labels: Tensor, dim: int) -> np.ndarray:
        """Return the number of each place of a dimension; those of one place go together."""
        rows = _compact(labels, dim).movedim(dim, 0).reshape(labels.shape[dim], -1)
        self._alike(rows)
        return rows.amax(1).numpy()

    def _alike(self, rows: Tensor) -> None:
        """Let the numbers of each row, the last dimension, go together."""
        rows = _compact(rows, -1)
        if rows.shape[-1] < 2 or not rows.numel():
            return
        top = rows.amax(-1, keepdim=True)
        other = (rows != top) & (rows > 0)
        if other.any():
            self._pair(top.expand_as(rows)[other], rows[other])

    def joined(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the numbers of what is computed from two tensors of one shape, which then go together."""
        constant = [d for d in range(a.dim()) if a.stride(d) == 0 and b.stride(d) == 0 and a.shape[d] > 1]
        shape = a.shape
        for d in constant:
            a, b = a.narrow(d, 0, 1), b.narrow(d, 0, 1)
        differs = (a != b) & (a > 0) & (b > 0)
        if differs.any():
            self._pair(a[differs], b[differs])
        return torch.maximum(a, b).expand(shape)

    def _pair(self, a: Tensor, b: Tensor) -> None:
        merged = torch.unique(a * (1 << 31) + b).numpy()
        self.pairs.append(np.stack([merged >> 31, merged & ((1 << 31) - 1)]))

    def _together(self, rows: np.ndarray) -> None:
        self._alike(torch.from_numpy(np.ascontiguousarray(rows)))

    def end(self, name: str, given: Any) -> None:
        """Note that channels of some tensors are followed no further."""
        for leaf in tree_leaves(given):
            found = self.label(leaf)
            if found is not None:
                self.ends.append((name, np.unique(_compact(found, -1).numpy())))

    # -- result

    def _settle_reshapes(self) -> None:
        """Keep the places of dimensions alike that both tell channels apart: in a shuffle, or branches side by side."""
        for reshape in self.reshapes:
            own = self._components()[reshape.labels]
            telling = [d for d in range(own.ndim) if (own != own.take([0], d)).any()]
            if len(telling) > 1 and reshape.several:
                self._together(reshape.labels.reshape(len(own), -1).T)
            elif len(telling) == 1:
                size = own.shape[telling[0]]
                self.splits.append(SplitBy(reshape.module, size, size, np.unique(reshape.labels)))

    def result(self) -> Labelled:
        """Return what was found, by families."""
        self._settle_reshapes()
        self._raw_sides()
        component = self._components()
        sides = [(self.targets[key], inputs, *_joined(found)) for (key, inputs), found in self.sides.items()]
        producing = [component[labels] for target, inputs, labels, _ in sides if not inputs and _makes(target)]
        family = _families(producing, self.count)[component]  # of each number
        families = np.unique(np.concatenate([np.zeros(0, np.int64), *producing]))
        families = np.unique(family[families]).tolist()
        index = np.zeros(self.count, np.int64)
        for number in families:
            index[family == number] = np.unique(component[family == number], return_inverse=True)[1]
        found = Labelled([[] for _ in families], [[] for _ in families], [[] for _ in families])
        for target, inputs, labels, positions in sides:
            for place, inside in _places(families, family[labels]):
                found.families[place].append(_reached(target, inputs, index[labels[inside]], positions[inside]))
        for name, labels in self.ends:
            for place, _ in _places(families, family[labels[labels > 0]]):
                found.ends[place].append(name)
        for split in self.splits:
            for place, _ in _places(families, family[split.labels[split.labels > 0]]):
                found.splits[place].append(split)
        return found

    def _raw_sides(self) -> None:
        """Add the parameters that are used, along the dimension in which their elements are of different channels."""
        component = self._components()
        for key, first in self.first_of.items():
            parameter = self.raw[key]
            own = torch.from_numpy(component[first : first + parameter.numel()]).view(parameter.shape)
            for dim in range(parameter.dim()):
                rows = own.movedim(dim, 0).reshape(parameter.shape[dim], -1)
                if parameter.shape[dim] > 1 and bool((rows == rows[:, :1]).all()) and len(rows.unique()) > 1:
                    self.targets[key] = (parameter, dim)
                    self.sides[key, False] = [(rows[:, 0].numpy(), np.arange(len(rows)))]

    def _components(self) -> np.ndarray:
        """Return number -> the smallest number of what it goes together with."""
        pairs = np.concatenate([np.zeros((2, 0), np.int64), *self.pairs], 1)
        graph = coo_matrix((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(self.count, self.count))
        labels = connected_components(graph, directed=False)[1]
        first = np.full(labels.max() + 1, self.count)
        np.minimum.at(first, labels, np.arange(self.count))
        return first[labels]


def _families(producing: list[np.ndarray], count: int) -> np.ndarray:
    """Return component -> the smallest component of its family: those with a producing layer in common."""
    pairs = [np.stack([np.full(len(each), each[0]), each]) for each in producing if len(each)]
    joined = np.concatenate([np.zeros((2, 0), np.int64), *pairs], 1)
    graph = coo_matrix((np.ones(joined.shape[1], np.int8), (joined[0], joined[1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    first = np.full(labels.max() + 1, count)
    np.minimum.at(first, labels, np.arange(count))
    return first[labels]


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    labels, positions = (np.concatenate(part) for part in zip(*parts, strict=True))
    return labels, positions


def _places(families: list[int], of: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the place of each family that is among some numbers' families, and which numbers are in it."""
    for number in np.unique(of).tolist():
        if number in families:
            yield families.index(number), of == number


def _reached(target: Any, inputs: bool, roots: np.ndarray, positions: np.ndarray) -> Reached:
    module, dim = target if isinstance(target, tuple) else (target, 0)
    pairs = np.unique((roots << 32) | positions)
    return Reached(module, inputs, dim, pairs >> 32, pairs & ((1 << 32) - 1))


def _known(module: nn.Module) -> bool:
    kinds = (*measure.CONV, *measure.LINEAR, *measure.NORM, nn.Embedding)
    return isinstance(module, kinds) or (isinstance(module, nn.PReLU) and module.num_parameters > 1)


def slides_over_channels(conv: nn.Module, x: Tensor) -> bool:
    """Return whether a convolution may run over channels, as that of efficient channel attention does.

    Args:
        conv: a convolution.
        x: its input.
    """
    alike = conv.in_channels == conv.out_channels == 1 and set(conv.stride) == {1}
    return alike and len(conv.kernel_size) == 1 and x.dim() == 3 and x.shape[-1] > 1


def _makes(target: Any) -> bool:
    """Return whether a layer makes channels, and does not hand on those that it reads."""
    if isinstance(target, measure.CONV):
        return not target.groups == target.in_channels == target.out_channels > 1
    return isinstance(target, (*measure.LINEAR, nn.Embedding))


def _spread(labels: Tensor, like: Tensor, dim: int) -> Tensor:
    return labels.view([-1 if d == dim else 1 for d in range(like.dim())]).expand(like.shape)


def _compact(labels: Tensor, keep: int) -> Tensor:
    """Return the numbers with one place of each dimension along which they are alike by construction, but ``keep``."""
    for d in range(labels.dim()):
        if d != keep and labels.stride(d) == 0 and labels.shape[d] > 1:
            labels = labels.narrow(d, 0, 1)
    return labels
