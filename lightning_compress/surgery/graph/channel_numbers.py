"""The numbers of the channels of each tensor of a forward pass, and which channels can only be removed together.

A channel is a number from 1; 0 is what belongs to no channel. Numbers that are spread over a dimension take no memory
for it: they have a stride of 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

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
class Reshape:
    """What a tensor is seen as.

    Attributes:
        module: name of the innermost module that was running.
        labels: in the dimensions along which they differ.
        several: whether these were one dimension before.
    """

    module: str
    labels: np.ndarray
    several: bool


class Width(int):
    """How many places a dimension has, as code reads it from a tensor whose channels are told apart along it.

    Attributes:
        labels: the numbers of that tensor.
        dim: the dimension.
    """

    labels: Tensor
    dim: int

    @classmethod
    def of(cls, labels: Tensor, dim: int) -> Width:
        """Return the size of a dimension of a tensor with these numbers."""
        made = cls(labels.shape[dim])
        made.labels, made.dim = labels, dim
        return made


class ChannelNumbers:
    """What is known of the channels of a network while it runs.

    Args:
        parameters: that may be read as they are, whose elements have numbers of their own once an operation reads them.

    Attributes:
        count: the next free number.
        running: names of the modules that are running, the innermost last.
        sides: (id of a layer or parameter, whether inputs) -> numbers and the positions that they come to.
        targets: id -> the layer, or a parameter with the dimension of its channels.
        ends: operations at which channels are lost, with their numbers.
        splits: parts of equal size.
        reshapes: what tensors are seen as.
        equal_widths: numbers by place of two dimensions that must stay as wide as each other.
        raw: id -> parameter that may be read as it is.
        first_of: id of a parameter that was read -> number of its first element.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.count = 1
        self.running: list[str] = []
        self.sides: dict[tuple[int, bool], list[tuple[np.ndarray, np.ndarray]]] = {}
        self.targets: dict[int, Any] = {}
        self.ends: list[tuple[str, np.ndarray]] = []
        self.splits: list[SplitBy] = []
        self.reshapes: list[Reshape] = []
        self.equal_widths: list[tuple[Tensor, Tensor]] = []
        self.raw = {id(p): p for p in parameters if 0 < p.numel() <= LARGEST}
        self.first_of: dict[int, int] = {}
        self._of: dict[int, Tensor] = {}
        self._alive: list[Any] = []  # so that ids stay unique
        self._pairs: list[np.ndarray] = []

    def new(self, width: int) -> np.ndarray:
        """Return numbers that no channel has yet."""
        self.count += width
        return np.arange(self.count - width, self.count)

    def note(self, module: Any, inputs: bool, labels: np.ndarray) -> None:
        """Note the number at each position of one side of a layer."""
        positions = labels.nonzero()[0]
        self.targets[id(module)] = module
        self.sides.setdefault((id(module), inputs), []).append((labels[positions], positions))

    def label(self, tensor: Any) -> Tensor | None:
        """Return the numbers of a tensor, if some belong to channels."""
        if not isinstance(tensor, Tensor):
            return None
        found = self._of.get(id(tensor))
        if found is None and id(tensor) in self.raw:
            parameter = self.raw[id(tensor)]
            self.first_of[id(tensor)] = self.count
            found = torch.from_numpy(self.new(parameter.numel())).view(parameter.shape)
            self._of[id(tensor)] = found
        return found

    def set(self, tensor: Tensor, labels: Tensor) -> None:
        """Keep the numbers of a tensor."""
        if tensor.shape != labels.shape:
            raise ValueError(f"{tuple(labels.shape)} numbers for {tuple(tensor.shape)} elements")
        self._of[id(tensor)] = labels
        self._alive.append(tensor)

    def stand_in(self, leaf: Any) -> Any:
        """Return the numbers in place of a tensor, zeros where it has none; anything else as it is."""
        if not isinstance(leaf, Tensor):
            return leaf
        found = self.label(leaf)
        return torch.zeros((), dtype=torch.long).expand(leaf.shape) if found is None else found

    def along(self, labels: Tensor, dim: int) -> np.ndarray:
        """Return the number of each place of a dimension; those of one place go together."""
        rows = compact(labels, dim).movedim(dim, 0).reshape(labels.shape[dim], -1)
        self.alike(rows)
        return rows.amax(1).numpy()

    def alike(self, rows: Tensor) -> None:
        """Let the numbers of each row, the last dimension, go together."""
        rows = compact(rows, -1)
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

    def as_many(self, width: Width, labels: Tensor, dim: int) -> None:
        """Note that the channels of two dimensions must stay as many: one was given the size of the other.

        Args:
            width: read from one tensor.
            labels: of another, which was given that size.
            dim: at that place.
        """
        own, other = _by_place(width.labels, width.dim), _by_place(labels, dim)
        if own is not None and other is not None and not torch.equal(own, other):
            self.equal_widths.append((own, other))

    def _pair(self, a: Tensor, b: Tensor) -> None:
        merged = torch.unique(a * (1 << 31) + b).numpy()
        self._pairs.append(np.stack([merged >> 31, merged & ((1 << 31) - 1)]))

    def end(self, name: str, given: Any) -> None:
        """Note that channels of some tensors are followed no further."""
        for leaf in tree_leaves(given):
            found = self.label(leaf)
            if found is not None:
                self.ends.append((name, np.unique(compact(found, -1).numpy())))

    def components(self) -> np.ndarray:
        """Return number -> the smallest number of what it goes together with."""
        return smallest_partners(np.concatenate([np.zeros((2, 0), np.int64), *self._pairs], 1), self.count)


def smallest_partners(pairs: np.ndarray, count: int) -> np.ndarray:
    """Return, for each number below a count, the smallest that it is connected with.

    Args:
        pairs: of numbers that are connected, shape ``(2, pairs)``.
        count: of the numbers.
    """
    graph = coo_matrix((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    first = np.full(labels.max() + 1, count)
    np.minimum.at(first, labels, np.arange(count))
    return first[labels]


def _by_place(labels: Tensor, dim: int) -> Tensor | None:
    """Return the one number of each place of a dimension; None where a place has several."""
    rows = compact(labels, dim).movedim(dim, 0).reshape(labels.shape[dim], -1)
    return rows[:, 0] if bool((rows == rows[:, :1]).all()) else None


def spread(labels: Tensor, like: Tensor, dim: int) -> Tensor:
    """Return numbers along one dimension of a tensor, the same along all others."""
    return labels.view([-1 if d == dim else 1 for d in range(like.dim())]).expand(like.shape)


def compact(labels: Tensor, keep: int) -> Tensor:
    """Return the numbers with one place of each dimension along which they are alike by construction, but ``keep``."""
    for d in range(labels.dim()):
        if d != keep and labels.stride(d) == 0 and labels.shape[d] > 1:
            labels = labels.narrow(d, 0, 1)
    return labels
