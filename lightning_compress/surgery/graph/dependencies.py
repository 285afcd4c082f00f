"""Follow channels through torch-pruning's dependency graph.

Its graph says which positions of a layer an operation hands on, and where to. Its own walk over a group keeps one
object for each channel at each operation, and around a loop of reshapes it multiplies them. This walk keeps arrays of
(channel of the root, position), hands on what is new alone, and ends where a layer has no such position.

Source: DepGraph (arXiv 2301.12900, section 3.1) for the graph.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery import measure
from lightning_compress.surgery._torch import always_with_gradients
from lightning_compress.surgery.graph._torch_pruning import MAPPINGS, is_followed
from lightning_compress.surgery.modes import Mode
from lightning_compress.surgery.tensors import tensors_in

FACTOR = 16  # most features that a channel may become, counted in those of the widest layer: more is a mistake
SHIFT = 32  # a pair is one integer: channel of the root << SHIFT, position
POSITION = (1 << SHIFT) - 1
NOTHING = np.empty(0, np.int64)
RAGGED = "read through a slice, split or reshape that cannot be followed"
OVER_CHANNELS = "a convolution over the channels, as efficient channel attention has"


class StrayError(CompressError):
    """Channels reach something of which it is not known which of them it reads.

    Attributes:
        target: the layer, parameter or operation.
        reason: what it is, behind "its channels reach ..., which is".
    """

    def __init__(self, target: Any, reason: str) -> None:
        super().__init__(f"channels reach what is {reason}")
        self.target, self.reason = target, reason


@dataclass(frozen=True)
class Reached:
    """One side of a layer or parameter, and which channels of the root come to which of its positions.

    Attributes:
        target: a module, or a parameter that belongs to no known layer.
        inputs: whether these are input positions.
        dim: of a parameter, the dimension that holds the channels; else 0.
        roots: channels of the root, ascending.
        positions: as many.
    """

    target: Any
    inputs: bool
    dim: int
    roots: np.ndarray
    positions: np.ndarray


class Dependencies:
    """Dependency graph of a network in one mode.

    Args:
        net: a copy, which is run; all parameters require gradients.
        example: one input batch.
        mode: in which it runs.

    Raises:
        Exception: of any kind, where torch-pruning cannot trace the network.
    """

    def __init__(self, net: nn.Module, example: Any, mode: Mode) -> None:
        if not any(isinstance(m, measure.KERNELS) for m in net.modules()):
            raise CompressError("it has no conv or linear layer")
        with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad():
            warnings.simplefilter("ignore")  # about unknown layers; what is not in a group is reported by us
            # After this warning (Swin's shifted windows) it takes all memory there is.
            warnings.filterwarnings("error", message="Maximum recursive depth")
            self._graph = torch_pruning.DependencyGraph().build_dependency(
                net, example, forward_fn=_followed(mode), output_transform=_traceable, verbose=False
            )
        self._widest = max(max(p.shape) for p in net.parameters() if p.dim())

    def __contains__(self, module: nn.Module) -> bool:
        """Return whether a module is part of the graph: it ran, and the output depends on it."""
        return module in self._graph.module2node

    def reached(self, root: nn.Module) -> list[Reached]:
        """Return all that the output channels of a layer are coupled with, itself first.

        Args:
            root: a conv, transposed conv or linear layer of the graph.

        Raises:
            StrayError: the channels reach positions that a layer does not have, or all the one that it has.
        """
        node, pruner = self._graph.module2node[root], self._graph.get_pruner_of_module(root)
        channels = np.arange(width(root, inputs=False), dtype=np.int64)
        first = (node, pruner.prune_out_channels)
        found, due = {first: (channels << SHIFT) | channels}, [(*first, (channels << SHIFT) | channels)]
        while due:
            node, trigger, pairs = due.pop()
            for edge in node.dependencies:
                if edge.trigger != trigger:
                    continue
                key = edge.target, edge.handler
                known = found.get(key, NOTHING)
                fresh = _without(_mapped(edge, pairs), known)
                if len(fresh):
                    self._check(edge, fresh)
                    found[key] = np.sort(np.concatenate([known, fresh]))
                    due.append((*key, fresh))
        return [self._side(node.module, handler, pairs) for (node, handler), pairs in found.items()]

    def _side(self, target: Any, handler: Any, pairs: np.ndarray) -> Reached:
        dim = 0
        if isinstance(target, nn.Parameter):
            dim = next(dim for parameter, dim in self._graph.unwrapped_parameters if parameter is target)
        return Reached(target, self._graph.is_in_channel_pruning_fn(handler), dim, pairs >> SHIFT, pairs & POSITION)

    def _check(self, edge: Any, pairs: np.ndarray) -> None:
        target = edge.target.module
        own = width(target, self._graph.is_in_channel_pruning_fn(edge.handler))
        beyond = bool(own) and int((pairs & POSITION).max()) >= own
        if beyond or len(pairs) > FACTOR * self._widest:
            raise StrayError(target, RAGGED)
        if own == 1 and len(pairs) > 1:
            raise StrayError(target, OVER_CHANNELS)


def _followed(mode: Mode) -> Mode:
    def run(net: nn.Module, example: Any) -> Any:
        with always_with_gradients():
            return mode(net, example)

    return run


def width(target: Any, inputs: bool) -> int:
    """Return how many positions one side of a layer has; 0 if it is none that is known."""
    if isinstance(target, measure.CONV + measure.TRANSPOSED):
        return target.in_channels if inputs else target.out_channels
    if isinstance(target, measure.LINEAR):
        return target.in_features if inputs else target.out_features
    return 0


def _without(pairs: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return those of some pairs that are not known, ascending and once each; ``known`` is ascending."""
    pairs = np.sort(pairs)
    pairs = pairs[np.concatenate([[True], pairs[1:] != pairs[:-1]])] if len(pairs) else pairs
    if not len(known):
        return pairs
    at = np.minimum(np.searchsorted(known, pairs), len(known) - 1)
    return pairs[known[at] != pairs]


def _mapped(edge: Any, pairs: np.ndarray) -> np.ndarray:
    """Return the pairs behind an edge of the graph, in no order, some perhaps twice."""
    for mapping in edge.index_mapping:
        if mapping is not None:
            if not is_followed(mapping):
                raise StrayError(edge.target.module, RAGGED)
            roots, positions = MAPPINGS[type(mapping)](mapping, pairs >> SHIFT, pairs & POSITION)
            pairs = (roots << SHIFT) | positions
    return pairs


def _traceable(output: Any) -> list[Tensor]:
    """Return the tensors of an output that autograd can follow back."""
    return [tensor for tensor in tensors_in(output) if tensor.grad_fn is not None]
