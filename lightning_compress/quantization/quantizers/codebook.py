"""Codebook: the weights of a layer take one of ``2 ** bits`` values of any size, found by k-means.

    w = codebook[code],     dL/dcodebook[k] = sum of dL/dw over the weights with code k,    step: that over their number

Sources: Deep Compression (arXiv 1510.00149, sections 3 and 3.3), and the quantizer of papers 1 and 5 (HAQ's arXiv
1811.08886, section 3.4; arXiv 1910.05897). Codes are frozen when it is attached and the values are trained, which is
what replacing weights by their cluster's mean after each step does. Pruned weights stay out: their zero is beside the
codebook, so ``bits`` are those of the kept weights; a zero that no mask made is a value like any other. While a
training still moves the mask, the weight itself is trained, and gets its codes when the mask stays. Use it for the
smallest files at 1 to 4 bits; integer hardware wants a uniform grid instead. It breaks on layers with fewer weights
than values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.quantization.kmeans import SortedValues
from lightning_compress.quantization.quantizers.weight_format import StoredWeight, WeightFormat


class _Lookup(torch.autograd.Function):
    """``values[codes]``, whose gradient is the mean over the members of a value: the kept weights that have its code.

    Their sum, over thousands, would make steps that diverge; the mean moves a value as its members would move. The raw
    weight has a gradient of zero rather than none: DDP waits for one of every parameter.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, codes: Tensor, members: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(codes, members)
        return values[codes]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
        codes, members = ctx.saved_tensors
        total = gradient.new_zeros(len(members)).index_add_(0, codes.flatten(), gradient.flatten())
        zero = torch.zeros_like(gradient) if ctx.needs_input_grad[3] else None
        return total / members.clamp_min(1), None, None, zero


def nearest(x: Tensor, values: Tensor) -> Tensor:
    """Return the position of the nearest value for each element of ``x``; ``values`` rise, shape ``(k,)``."""
    return torch.bucketize(x, (values[1:] + values[:-1]) / 2)


class Codebook(WeightFormat):
    """Values shared by the weights of a layer.

    Args:
        bits: of a code, 1 to 8.
        shape: of a factor on the values, ``(out, 1, 1, 1)`` in a file with folded batch norms; training needs none.
        weight_shape: of the weight; :meth:`initialize` sets it.

    Attributes:
        indices: code of each weight, uint8, in the weight's shape.
        members: how many of the kept weights have each code; pruned ones have a code too, and no say.
        frozen: whether the weight is that of the codes; before, it is the raw weight.

    Raises:
        CompressError: bits out of range.
    """

    kind: ClassVar[str] = "codebook"
    learned: ClassVar[bool] = True

    indices: Tensor
    members: Tensor
    scale: Tensor
    frozen: Tensor

    def __init__(self, bits: int, shape: Sequence[int] = (), weight_shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.values = nn.Parameter(torch.zeros(2**bits))
        self.register_buffer("indices", torch.zeros(tuple(weight_shape), dtype=torch.uint8))
        self.register_buffer("members", torch.zeros(2**bits, dtype=torch.int64))
        self.register_buffer("scale", torch.ones(self.shape))
        self.register_buffer("frozen", torch.tensor(True))

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return len(self.values).bit_length() - 1

    @property
    def used(self) -> Tensor:
        """The values that codes may point to, shape ``(2 ** bits,)``."""
        return self.values

    @override
    def config(self) -> dict[str, Any]:
        return {"bits": self.bits, "shape": list(self.shape), "weight_shape": list(self.indices.shape)}

    @staticmethod
    def stored(bits: int, channels: int) -> dict[str, int]:
        """Return what :meth:`WeightFormat.stored` says; values of any size need no scales."""
        return {"weight_bits": bits, "codebook": 2**bits}

    @property
    @override
    def settled(self) -> bool:
        return bool(self.frozen)

    @property
    @override
    def table(self) -> Tensor:
        return self.used

    @override
    def reader(self) -> dict[str, Any]:
        return {"kind": Codebook.kind}

    @classmethod
    @torch.no_grad()
    @override
    def from_stored(cls, stored: StoredWeight) -> Self:
        found = cls(stored.bits, stored.scale.shape, stored.codes.shape)
        found.values.copy_(stored.table)
        found.scale.copy_(stored.scale)
        found.keep_codes(stored.codes, stored.kept)
        return found

    @torch.no_grad()
    def initialize(self, x: Tensor, kept: Tensor | None = None) -> None:
        """Run k-means on the kept weights, and freeze the codes.

        Args:
            x: the weight.
            kept: bool, the same shape: which weights are not pruned; None for all.
        """
        kept = torch.ones_like(x, dtype=torch.bool) if kept is None else kept
        found = SortedValues(x.detach()[kept].float().cpu().numpy()).codebook(2**self.bits)
        values = np.resize(found.centroids if found.centroids.size else [0.0], 2**self.bits)
        self.values.copy_(torch.from_numpy(np.sort(values)))
        self.keep_codes(nearest(x.detach().to(self.values), self.values), kept)
        self.frozen.fill_(True)

    @torch.no_grad()
    def keep_codes(self, codes: Tensor, kept: Tensor) -> None:
        """Take these codes.

        Args:
            codes: in the weight's shape, of any integer type.
            kept: bool, the same shape: which weights are not pruned.
        """
        self.indices = codes.to(torch.uint8)
        self.members.copy_(torch.bincount(codes[kept].long(), minlength=len(self.values)))

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frozen codes, whatever the weight is, and the scale."""
        return self.indices, self.scale

    @override
    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        return self.values[codes.long()] * scale

    def forward(self, weight: Tensor) -> Tensor:
        """Return the values that the codes stand for, once these are frozen."""
        exporting = torch.compiler.is_exporting()  # where no value can be read, and no gradient is needed
        if not exporting and not self.frozen:
            return weight
        found = _Lookup.apply(self.values, self.indices.long(), self.members, weight) * self.scale
        found = torch.where(self.frozen, found, weight) if exporting else found
        return found if torch.is_autocast_enabled(weight.device.type) else found.to(weight.dtype)
