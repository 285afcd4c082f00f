"""Weights beside those of convolutions and linear layers: of embeddings, recurrent layers and attention.

Such a module reads its matrices itself, and may have several. So each is a layer of the profile under the name of its
parameter, such as ``lstm.weight_hh_l0``, with one output channel for each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_compress.surgery._torch import own_parameters, recurrent_weights
from lightning_compress.surgery.transforms import WEIGHT, Transform, weight_transforms

EMBEDDING = (nn.Embedding, nn.EmbeddingBag)
PROJECTIONS = {"in_proj_weight": (0, 1, 2), "q_proj_weight": (0,), "k_proj_weight": (1,), "v_proj_weight": (2,)}
OUTPUT = "out_proj"  # a linear layer that attention never calls: it reads the weight


def matrices(module: nn.Module) -> list[str]:
    """Return the names of the matrices of a module; none where it has others in their place, as ``weight_norm`` makes.

    Args:
        module: any.
    """
    if isinstance(module, EMBEDDING):
        names = [WEIGHT]
    elif isinstance(module, nn.RNNBase):
        names = recurrent_weights(module)
    elif isinstance(module, nn.RNNCellBase):
        names = ["weight_ih", "weight_hh"]
    elif isinstance(module, nn.MultiheadAttention):
        names = list(PROJECTIONS)
    else:
        return []
    return [name for name in names if is_own(module, name)]


def is_own(module: nn.Module, key: str) -> bool:
    """Return whether a weight is a parameter of its module, or one that goes through transforms of this package."""
    chain = weight_transforms(module, key)
    return all(isinstance(t, Transform) for t in chain) if chain else own_parameters(module).get(key) is not None


def positions(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], samples: int) -> dict[str, int]:
    """Return at how many positions of a sample a call multiplies each matrix with something: tokens or time steps.

    Of attention whose queries and keys differ in number, the one matrix for all counts the mean. The weight of its
    output projection, which it reads, is under ``out_proj``.

    Args:
        module: any.
        args: of the call.
        kwargs: of the call.
        samples: in the batch.
    """
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        steps = _tokens(argument(args, kwargs, 0, "input"), module.input_size, samples)
        return dict.fromkeys(matrices(module), steps)
    if isinstance(module, nn.MultiheadAttention):
        widths = module.embed_dim, module.kdim, module.vdim
        given = [argument(args, kwargs, i, name) for i, name in enumerate(("query", "key", "value"))]
        tokens = [_tokens(value, width, samples) for value, width in zip(given, widths, strict=True)]
        found = {}
        for key in matrices(module):
            read = [tokens[i] for i in PROJECTIONS[key]]
            found[key] = round(sum(read) / len(read))
        return {**found, OUTPUT: tokens[0]}
    return {}


def weight_place(net: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module and the name of the weight that a layer of the profile is.

    Args:
        net: the network.
        name: of a module, or of a matrix in one.
    """
    parent, _, key = name.rpartition(".")
    owner = net.get_submodule(parent)
    return (owner, key) if key in matrices(owner) else (net.get_submodule(name), WEIGHT)


def runs_in(net: nn.Module, name: str) -> str:
    """Return the name of the module whose forward pass uses the weight of a layer of the profile: often its own.

    Args:
        net: the network.
        name: of a module, or of a matrix in one.
    """
    parent, _, key = name.rpartition(".")
    owner = net.get_submodule(parent)
    reads = key in matrices(owner) or (key == OUTPUT and isinstance(owner, nn.MultiheadAttention))
    return parent if reads else name


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    """Return an argument of a call, given by its place or by its name; None where it was not given."""
    return args[place] if place < len(args) else kwargs.get(name)


def _tokens(value: Any, width: int, samples: int) -> int:
    if isinstance(value, PackedSequence):
        value = value.data
    return -(-value.numel() // (width * samples)) if isinstance(value, Tensor) else 0
