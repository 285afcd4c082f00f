"""Base class of factorizations: a chain of smaller layers whose inner widths are the ranks."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import LayerProfile
from lightning_compress.surgery import measure
from lightning_compress.surgery.replacement import Replacement

Basis = tuple[Tensor, ...]


class Factors(Replacement, nn.Sequential):
    """A chain of layers; the last one has the bias.

    Attributes:
        knobs: the ranks that there are.
        ranks: knob -> rank that it was made with; pruning may have taken channels since.
    """

    knobs: ClassVar[tuple[str, ...]]
    ranks: dict[str, int]

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        # Without a hook nn.TransformerEncoderLayer, in eval mode, would not call it but read a weight that it has not.
        self.register_forward_pre_hook(_unchanged)

    @property
    def weight(self) -> Tensor:
        """The weight of one layer that does the same, for a forward that reads ``layer.weight``, as that of LoRA."""
        product, *others = (layer.weight for layer in self)
        for factor in others:
            product = torch.einsum("po...,oi...->pi...", factor, product)
        return product

    @property
    def bias(self) -> Tensor | None:
        """The bias of the last layer."""
        return self[-1].bias

    @override
    def config(self) -> dict[str, Any]:
        return dict(self.ranks)

    @classmethod
    @override
    def like(cls, old: nn.Module, **arguments: Any) -> Self:
        full = cls.full(measure.layer_profiles("", old)[0])
        for knob, rank in arguments.items():
            if knob in full and not (type(rank) is int and 1 <= rank <= full[knob]):
                raise CompressError(f"{cls.__name__}: {knob} must be from 1 to {full[knob]}, got {rank!r}")
        new = cls(*cls.layers(old, **arguments)).to(old.weight.device, old.weight.dtype).train(old.training)
        new.requires_grad_(old.weight.requires_grad)
        if new.bias is not None:
            new.bias.requires_grad_(old.bias.requires_grad)
        new.ranks = dict(arguments)
        return new

    @classmethod
    def layers(cls, old: nn.Module, **ranks: int) -> list[nn.Module]:
        """Return the layers in the place of ``old``.

        Raises:
            CompressError: ``old`` cannot be factorized like this.
        """
        raise NotImplementedError

    @classmethod
    def full(cls, layer: LayerProfile) -> dict[str, int]:
        """Return knob -> the largest rank."""
        raise NotImplementedError

    @classmethod
    def profiles(cls, layer: LayerProfile, **ranks: int) -> list[LayerProfile]:
        """Return the profiles of the layers in the place of a dense one."""
        raise NotImplementedError

    @classmethod
    def decompose(cls, weight: Tensor) -> Basis:
        """Return the basis of which the factors of all ranks are slices."""
        raise NotImplementedError

    @classmethod
    def weights(cls, basis: Basis, weight: Tensor, refinements: int, **ranks: int) -> list[Tensor]:
        """Return the weights of the layers, up to a reshape.

        Args:
            basis: what :meth:`decompose` gave for ``weight``.
            weight: of the layer.
            refinements: sweeps of alternating least squares from there.
            **ranks: number of channels between the layers, by knob.
        """
        raise NotImplementedError

    @torch.no_grad()
    def fill(self, weights: list[Tensor], bias: Tensor | None) -> None:
        """Set the weights, and the bias of the last layer."""
        for layer, weight in zip(self, weights, strict=True):
            layer.weight.copy_(weight.reshape(layer.weight.shape))
        if bias is not None:
            self[-1].bias.copy_(bias)


def _unchanged(_factors: nn.Module, _args: tuple[Any, ...]) -> None:
    """Leave the input as it is."""


def conv_class(module: nn.Module) -> type[nn.Module] | None:
    """Return which of torch's convolutions a module is; None for other layers."""
    return next((cls for cls in measure.CONV if isinstance(module, cls)), None)


def top(gram: Tensor) -> Tensor:
    """Return the eigenvectors of a symmetric matrix as columns, largest eigenvalue first, signs fixed."""
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()
