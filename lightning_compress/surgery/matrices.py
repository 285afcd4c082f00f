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
from lightning_compress.surgery.thin_window_attention import PROJ, QKV, padded_tokens, thin_window_form
from lightning_compress.surgery.transforms import WEIGHT, Transform, weight_transforms

EMBEDDING = (nn.Embedding, nn.EmbeddingBag)
PROJECTIONS = {"in_proj_weight": (0, 1, 2), "q_proj_weight": (0,), "k_proj_weight": (1,), "v_proj_weight": (2,)}
OUTPUT = "out_proj"  # a layer of attention
ATTENDED = ("query", "key", "value")


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


def positions(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Return at how many positions of a batch a call multiplies each matrix with something: tokens or time steps.

    Of attention whose queries and keys differ in number, the one matrix for all counts the mean. Layers whose weights
    a module reads count too: :func:`read_layers`.

    Args:
        module: any.
        args: of the call.
        kwargs: of the call.
    """
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        steps = _tokens(argument(args, kwargs, 0, "input"), module.input_size)
        return dict.fromkeys(matrices(module), steps)
    if not read_layers(module):
        return {}
    tokens = tokens_read(module, args, kwargs)
    own = {key: [tokens[i] for i in PROJECTIONS[key]] for key in matrices(module)}
    return {key: round(sum(read) / len(read)) for key, read in own.items()} | dict.fromkeys(
        read_layers(module), tokens[0]
    )


def read_layers(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers of attention that it never calls: it reads their weights.

    The last one gives its output. Other modules have none.

    Args:
        module: any.
    """
    if isinstance(module, nn.MultiheadAttention):
        return (OUTPUT,)
    return () if thin_window_form(module) is None else (QKV, PROJ)


def attended(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return what a call of attention takes its queries, keys and values from.

    Args:
        module: one with layers that it reads.
        args: of the call.
        kwargs: of the call.
    """
    if thin_window_form(module) is not None:
        return [argument(args, kwargs, 0, "x")] * len(ATTENDED)
    return [argument(args, kwargs, i, name) for i, name in enumerate(ATTENDED)]


def tokens_read(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[int]:
    """Return how many queries, keys and values attention has for a batch.

    Args:
        module: one with layers that it reads.
        args: of the call.
        kwargs: of the call.
    """
    given = attended(module, args, kwargs)
    if thin_window_form(module) is not None:
        return [padded_tokens(module, x) * len(x) for x in given]
    widths = module.embed_dim, module.kdim, module.vdim
    return [_tokens(value, width) for value, width in zip(given, widths, strict=True)]


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
    reads = key in matrices(owner) or key in read_layers(owner)
    return parent if reads else name


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    """Return an argument of a call, given by its place or by its name; None where it was not given."""
    return args[place] if place < len(args) else kwargs.get(name)


def _tokens(value: Any, width: int) -> int:
    if isinstance(value, PackedSequence):
        value = value.data
    return value.numel() // width if isinstance(value, Tensor) else 0
