"""Tucker-2: a k x k convolution becomes 1x1 (in -> r_in), k x k (r_in -> r_out), 1x1 (r_out -> out).

    W[o, i, :] ~ sum_pq A[o, p] G[p, q, :] B[i, q],      G = W x_out A' x_in B'

A and B are the leading eigenvectors of W's Gram matrices over outputs and inputs (higher-order SVD), which are nested:
the factors of every pair of ranks are slices of those of full rank. Higher-order orthogonal iteration (HOOI) refines
them for one pair. Sources: Kim et al. 2016 (arXiv 1511.06530), De Lathauwer et al. 2000, GeneCAI (phase D). Use it
where k x k convolutions take most MACs; it breaks with few channels, where the outer factors cost more than the core
saves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import LayerProfile
from lightning_compress.surgery.low_rank.factors import Basis, Factors, conv_class, top


@final
class Tucker2(Factors):
    """``in -> rank_in -> rank_out -> out``; stride, padding and dilation are those of the core."""

    kind: ClassVar[str] = "tucker2"
    knobs: ClassVar[tuple[str, ...]] = ("rank_in", "rank_out")

    @classmethod
    @override
    def layers(cls, old: nn.Module, **ranks: int) -> list[nn.Module]:
        before, after, conv = ranks["rank_in"], ranks["rank_out"], conv_class(old)
        if conv is None or old.groups > 1:
            raise CompressError(f"Tucker2: expected a convolution without groups, got {old}")
        core = conv(
            before, after, old.kernel_size, old.stride, old.padding, old.dilation, bias=False,
            padding_mode=old.padding_mode,
        )  # fmt: skip
        bias = old.bias is not None
        return [conv(old.in_channels, before, 1, bias=False), core, conv(after, old.out_channels, 1, bias=bias)]

    @classmethod
    @override
    def full(cls, layer: LayerProfile) -> dict[str, int]:
        return {"rank_in": layer.in_channels, "rank_out": layer.out_channels}

    @classmethod
    @override
    def profiles(cls, layer: LayerProfile, **ranks: int) -> list[LayerProfile]:
        before, after, point = ranks["rank_in"], ranks["rank_out"], (1,) * len(layer.kernel)
        outer = replace(layer, kernel=point, stride=1, in_positions=0)
        reads = layer.in_positions or layer.positions
        return [
            replace(outer, name=f"{layer.name}.0", out_channels=before, positions=reads, extras=0),
            replace(layer, name=f"{layer.name}.1", in_channels=before, out_channels=after, extras=0),
            replace(outer, name=f"{layer.name}.2", in_channels=after),
        ]

    @classmethod
    @override
    def decompose(cls, weight: Tensor) -> Basis:
        kernels = weight.detach().cpu().double().flatten(2)
        outputs, inputs = _output_basis(kernels), _input_basis(kernels)
        return inputs.float(), _core(kernels, inputs, outputs).float(), outputs.float()

    @classmethod
    @override
    def weights(cls, basis: Basis, weight: Tensor, refinements: int, **ranks: int) -> list[Tensor]:
        before, after = ranks["rank_in"], ranks["rank_out"]
        inputs, core, outputs = basis[0][:, :before], basis[1][:after, :before], basis[2][:, :after]
        if refinements:
            kernels, inputs = weight.detach().cpu().double().flatten(2), inputs.double()
            for _ in range(refinements):
                outputs = _output_basis(torch.einsum("nck,cq->nqk", kernels, inputs))[:, :after]
                inputs = _input_basis(torch.einsum("nck,np->pck", kernels, outputs))[:, :before]
            core = _core(kernels, inputs, outputs)
        return [inputs.T, core, outputs]


def _output_basis(kernels: Tensor) -> Tensor:
    return top(torch.einsum("nck,mck->nm", kernels, kernels))


def _input_basis(kernels: Tensor) -> Tensor:
    return top(torch.einsum("nck,ndk->cd", kernels, kernels))


def _core(kernels: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    return torch.einsum("nck,np,cq->pqk", kernels, outputs, inputs)
