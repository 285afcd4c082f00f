"""Truncated SVD: a linear layer or 1x1 convolution becomes two, with ``rank`` channels between them.

    W ~ (U_r S_r^1/2) (S_r^1/2 V_r'),      the nearest matrix of rank r (Eckart and Young 1936)

Sources: Denton et al. 2014 (arXiv 1404.0736), GeneCAI (phase D: one rank for 1x1 convolutions). The singular values
are shared evenly, so that both factors train at the same speed; where they are zero, the second factor alone is. It
saves from ``r < in x out / (in + out)`` on. Use it for wide linear layers, whose spectrum falls fast; it breaks where
singular values are level, as in narrow 1x1 layers.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import LayerProfile
from lightning_compress.surgery.low_rank.factors import Basis, Factors, conv_class


@final
class SVD(Factors):
    """``in -> rank_out -> out``; a convolution's stride is in the first factor."""

    kind: ClassVar[str] = "svd"
    knobs: ClassVar[tuple[str, ...]] = ("rank_out",)

    @classmethod
    @override
    def layers(cls, old: nn.Module, **ranks: int) -> list[nn.Module]:
        rank, conv = ranks["rank_out"], conv_class(old)
        bias = getattr(old, "bias", None) is not None
        if isinstance(old, nn.Linear):
            return [nn.Linear(old.in_features, rank, bias=False), nn.Linear(rank, old.out_features, bias)]
        if conv is None or old.groups > 1 or prod(old.kernel_size) > 1:
            raise CompressError(f"SVD: expected a Linear or a 1x1 convolution without groups, got {old}")
        return [
            conv(old.in_channels, rank, 1, old.stride, old.padding, bias=False, padding_mode=old.padding_mode),
            conv(rank, old.out_channels, 1, bias=bias),
        ]

    @classmethod
    @override
    def full(cls, layer: LayerProfile) -> dict[str, int]:
        return {"rank_out": min(layer.in_channels, layer.out_channels)}

    @classmethod
    @override
    def profiles(cls, layer: LayerProfile, **ranks: int) -> list[LayerProfile]:
        rank = ranks["rank_out"]
        return [
            replace(layer, name=f"{layer.name}.0", out_channels=rank, extras=0),
            replace(layer, name=f"{layer.name}.1", in_channels=rank, stride=1, in_positions=0),
        ]

    @classmethod
    @override
    def decompose(cls, weight: Tensor) -> Basis:
        left, values, right = torch.linalg.svd(weight.detach().cpu().double().flatten(1), full_matrices=False)
        root, there = values.sqrt(), values > torch.finfo(torch.float32).eps * values.max()
        # Two zeros in a row would have no gradient, and never train: of LoRA's B, which starts as zeros, nor would A.
        first = torch.where(there, root, root[there].mean() if there.any() else 1.0)
        return (first[:, None] * right).float(), (left * (values / first)).float()

    @classmethod
    @override
    def weights(cls, basis: Basis, weight: Tensor, refinements: int, **ranks: int) -> list[Tensor]:
        rank = ranks["rank_out"]
        return [basis[0][:rank], basis[1][:, :rank]]  # the best there is: nothing to refine
