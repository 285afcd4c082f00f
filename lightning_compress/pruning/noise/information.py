"""Information dropout: noise on activations, as strong at each unit as a small network reading the input says.

    z = f(x) exp(alpha(x) eps - alpha(x)^2 / 2),   alpha(x) = 0.7 sigmoid(u(x)),   eps ~ N(0, 1) for each unit
    KL = -log(alpha / 0.7) = softplus(-u) for each unit: zero where the noise is largest

Source: Achille and Soatto 2018 (arXiv 1611.01353, sections 4-5, ReLU with the log-uniform prior). ``u`` is a layer of
the shape of the one whose output gets the noise, on the same input. Ours: the mean of the noise is one (theirs is
exp(alpha^2 / 2), which batch norms must be re-estimated for), and the information of a channel, its mean KL, is kept
as a running average, so that channels can be pruned by it: our reading of paper 1's "pruning via information dropout".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.pruning.noise.noise import Noise
from lightning_compress.surgery.bounded import held
from lightning_compress.surgery.transforms import first_input

ALPHA_MAX = 0.7
LEAST = -7.0  # of u: at most 7 nats a unit
MOMENTUM = 0.05


class _AddPenalty(torch.autograd.Function):
    """Hands the noise on, and in the backward pass gives a scalar the gradient it would have in the loss."""

    @staticmethod
    def forward(ctx: Any, noise: Tensor, penalty: Tensor) -> Tensor:
        ctx.like = penalty
        return noise.view_as(noise)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, torch.ones_like(ctx.like)


@final
class InformationNoise(Noise):
    """Noise on the output of a conv or linear layer.

    Args:
        shape: of the layer's weight.
        convolution: its stride, padding, dilation and groups; empty for a linear layer.
        salt: see :class:`Noise`.
    """

    kind: ClassVar[str] = "information_noise"

    def __init__(self, shape: Sequence[int], convolution: Sequence[Any] = (), salt: int = 0) -> None:
        super().__init__(salt)
        self.shape, self.convolution = tuple(shape), tuple(convolution)
        self.weight = nn.Parameter(torch.zeros(self.shape))
        self.bias = nn.Parameter(torch.full(self.shape[:1], -2.0))
        self.register_buffer("information", torch.zeros(self.shape[0]))
        self.register_buffer("strength", torch.tensor(0.0))  # beta / number of train samples, times the loss's scale

    @override
    def config(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "convolution": list(self.convolution), "salt": self.salt}

    @override
    def after_forward(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self.ended or not self.training:
            return output
        u = held(self._read(first_input(layer, args)), LEAST, float("inf"))
        alpha = ALPHA_MAX * torch.sigmoid(u)
        kl = F.softplus(-u)
        channel = kl.dim() - 1 if isinstance(layer, nn.Linear) else 1
        with torch.no_grad():
            others = [d for d in range(kl.dim()) if d != channel]
            self.information.lerp_(kl.mean(others).to(self.information), MOMENTUM)
        drawn = torch.randn(alpha.shape, generator=self.generator(alpha.device), device=alpha.device).to(alpha)
        noise = (alpha * drawn - alpha.square() / 2).exp()
        # Not behind the product: a view from a function of one's own cannot be changed in place, as ReLUs may do.
        return output * _AddPenalty.apply(noise, self.strength * kl.sum() / len(output))

    def kl(self, weight: Tensor) -> Tensor:
        """Return zero: it depends on the input, and is part of the forward pass."""
        return self.weight.new_zeros(())

    def _read(self, x: Tensor) -> Tensor:
        if not self.convolution:
            return F.linear(x, self.weight, self.bias)
        stride, padding, dilation, groups = self.convolution
        convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[len(self.shape)]
        return convolve(x, self.weight, self.bias, stride, padding, dilation, groups)
