"""Follow channels by a number for each of them, which goes through a forward pass beside the tensors.

Operations that move elements (views, transpositions, splits, concatenations, shuffles) move the numbers alike, so that
any chain of them is followed exactly. Where elements of several channels meet, in a sum or in a softmax, these channels
can only be removed together. Equal parts of a split must stay equal: the same place of each part goes together.

It sees what torch-pruning's graph does not (dependencies.py), and takes the time of a few operations on integers for
each of the network. What is done to channels by an operation that is not known ends there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.channel_numbers import ChannelNumbers, Width, spread
from lightning_compress.surgery.graph.dataflow import plain_name
from lightning_compress.surgery.graph.mask_channels import channel_dim
from lightning_compress.surgery.graph.number_families import Labelled, families
from lightning_compress.surgery.graph.number_rules import rule_of
from lightning_compress.surgery.matrices import argument
from lightning_compress.surgery.modes import DROPOUT, Mode


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
    return families(labels.numbers)


class _Labels(TorchFunctionMode):
    """Gives numbers to what layers make, and hands them on through operations between layers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        known = {id(p) for m in net.modules() if _known(m) for p in m.parameters(recurse=False)}
        self.numbers = ChannelNumbers([p for p in net.parameters() if id(p) not in known])
        self.inside = 0  # layers, whose own operations do not count

    def watch(self, name: str, module: nn.Module) -> Iterable[Any]:
        """Yield the handles of hooks on a module."""
        if _known(module):
            yield module.register_forward_pre_hook(self._enter)
            yield module.register_forward_hook(self._leave, with_kwargs=True)
        elif isinstance(module, (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)):
            yield module.register_forward_pre_hook(lambda m, args: self.numbers.end(type(m).__name__, args))
        elif type(module).__module__.partition(".")[0] != "torch":
            yield module.register_forward_pre_hook(lambda *_: self.numbers.running.append(name))
            yield module.register_forward_hook(lambda *_: self.numbers.running.pop() and None)

    def _enter(self, *_: Any) -> None:
        self.inside += 1

    def _leave(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.inside -= 1
        x = argument(args, kwargs, 0, "input")
        given = self.numbers.label(x) if isinstance(x, Tensor) else None
        if self.inside or not isinstance(output, Tensor):
            return
        self.numbers.targets[id(module)] = module
        if isinstance(module, nn.Embedding):
            self._produce(module, output, output.dim() - 1, module.embedding_dim)
        elif isinstance(module, measure.KERNELS):
            self._weighted(module, x, given, output)
        elif given is not None:
            self._normalized(module, x, given, output)

    def _weighted(self, module: Any, x: Tensor, given: Tensor | None, output: Tensor) -> None:
        conv = isinstance(module, measure.CONV + measure.TRANSPOSED)
        if given is not None and conv and slides_over_channels(module, x) and given.stride(-1):
            self.numbers.note(module, True, self.numbers.along(given, x.dim() - 1))
            self.numbers.set(output, given)
            return
        first = 0 if conv and x.dim() == len(module.kernel_size) + 1 else 1
        dim, width = (first, module.out_channels) if conv else (output.dim() - 1, module.out_features)
        read = None if given is None else self.numbers.along(given, dim if conv else x.dim() - 1)
        if conv and module.groups == module.in_channels == module.out_channels > 1 and read is not None and read.all():
            self.numbers.note(module, False, read)
            self.numbers.set(output, spread(torch.from_numpy(read), output, dim))
            return
        if read is not None:
            self.numbers.note(module, True, read)
        self._produce(module, output, dim, width)

    def _produce(self, module: Any, output: Tensor, dim: int, width: int) -> None:
        made = self.numbers.new(width)
        self.numbers.note(module, False, made)
        self.numbers.set(output, spread(torch.from_numpy(made), output, dim))

    def _normalized(self, module: Any, x: Tensor, given: Tensor, output: Tensor) -> None:
        shape = getattr(module, "normalized_shape", None)
        if shape is not None and len(tuple(shape)) > 1:
            self.numbers.end(type(module).__name__, x)
            return
        width = next((len(t) for t in module.state_dict().values() if t.dim()), 0)
        dim = channel_dim(module, x, width) if width > 1 and isinstance(module, measure.NORM) else 1
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            fits = shape is None or x.shape[-1] == tuple(shape)[-1]
            dim = x.dim() - 1 if fits and given.stride(-1) else 1  # an image may be as wide as its channels are many
        self.numbers.note(module, False, self.numbers.along(given, dim))
        self.numbers.set(output, given)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.inside:
            if isinstance(result, torch.Size) or func is Tensor.size:
                return self._sizes(result, *args, **kwargs)
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            if made and any(self.numbers.label(leaf) is not None for leaf in tree_leaves((args, kwargs))):
                self._follow(func, args, kwargs, made)
        return result

    def _sizes(self, sizes: Any, x: Any, dim: int | None = None) -> Any:
        """Return the sizes of a tensor, or that of a dimension; where channels are told apart they know of which."""
        labels = self.numbers.label(x)
        if labels is None:
            return sizes
        if dim is not None:
            return Width.of(labels, dim) if labels.stride(dim) else sizes
        return torch.Size([Width.of(labels, d) if labels.stride(d) else size for d, size in enumerate(sizes)])

    def _follow(self, func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
        name = plain_name(getattr(func, "__name__", ""))
        if func in DROPOUT:
            name = "dropout"
        if name == "get":  # of an attribute: x.T, x.data
            name = "view" if made[0].shape == args[0].shape else "get"
        rule = rule_of(name)
        try:
            if rule is None:
                raise NotImplementedError
            rule(self.numbers, name, func, args, kwargs, made)
        except Exception:  # an operation on integers that torch does not have, or a form of it that is not known
            self.numbers.end(name, (args, kwargs))


def _known(module: nn.Module) -> bool:
    kinds = (*measure.KERNELS, *measure.NORM, nn.Embedding)
    return isinstance(module, kinds) or (isinstance(module, nn.PReLU) and module.num_parameters > 1)


def slides_over_channels(conv: nn.Module, x: Tensor) -> bool:
    """Return whether a convolution may run over channels, as that of efficient channel attention does.

    Args:
        conv: a convolution.
        x: its input.
    """
    alike = isinstance(conv, measure.CONV) and conv.in_channels == conv.out_channels == 1 and set(conv.stride) == {1}
    return alike and len(conv.kernel_size) == 1 and x.dim() == 3 and x.shape[-1] > 1
