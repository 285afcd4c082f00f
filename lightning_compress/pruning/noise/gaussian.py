"""Sparse variational dropout: each weight (or k x k slice) has Gaussian noise of its own, with learned variance.

    q(w) = N(theta, sigma^2),    log alpha = log sigma^2 - log theta^2,    prior: log-uniform
    KL ~= k1 - k1 sigmoid(k2 + k3 log alpha) + log(1 + 1 / alpha) / 2,     k = 0.63576, 1.87320, 1.48695
    y = layer(x; theta) + eps sqrt(layer(x^2; sigma^2)),                   eps ~ N(0, 1) for each output

Source: Molchanov et al. 2017 (arXiv 1701.05369, eqs. 14-17; the local reparametrization is Kingma et al. 2015). A
weight whose log alpha is above a threshold (3: dropped with probability 0.95) carries no information. For slices,
theta^2 is the mean over the slice, sigma^2 is shared by it and the KL counts for each of its weights, so that a
strength means as much as for single weights: our reconstruction of paper 1's "kernel-wise".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.pruning.noise.noise import Noise
from lightning_compress.surgery._torch import convolve
from lightning_compress.surgery.bounded import held
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.transforms import first_input, raw_weight

K1, K2, K3 = 0.63576, 1.87320, 1.48695
LIMIT = 8.0  # of |log alpha|; beyond it the KL is flat
QUIET = -5.4  # log of the variance over the mean square of a layer's weights, where training begins
NEGLIGIBLE = 1e-6  # of that mean square: a weight whose square is less counts as zero
TINY = torch.finfo(torch.float32).tiny


@final
class GaussianNoise(Noise, Mask):
    """Noise on the output of a layer as if its weights had it, and a mask once it has ended.

    Args:
        shape: of the weight.
        grain: shape of the variances, which broadcasts to ``shape``.
        threshold: of log alpha.
        salt: see :class:`Noise`.
    """

    kind: ClassVar[str] = "gaussian_noise"

    def __init__(self, shape: Sequence[int], grain: Sequence[int], threshold: float = 3.0, salt: int = 0) -> None:
        Noise.__init__(self, salt)
        self.register_buffer("mask", torch.ones(tuple(shape), dtype=torch.bool))
        self.grain, self.threshold = tuple(grain), threshold
        self.raw_log_variance = nn.Parameter(torch.full(self.grain, -10.0 / self.speed))

    @property
    @override
    def moving(self) -> bool:
        return not self.ended

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Begin with little noise for weights of this size, whatever their unit; of zeros, as for weights of 0.1."""
        power = weight.detach().float().square().mean()
        self.raw_log_variance.fill_((float(power.log()) + QUIET if power > 0 else -10.0) / self.speed)

    @override
    def config(self) -> dict[str, Any]:
        return {
            "shape": list(self.mask.shape),
            "grain": list(self.grain),
            "threshold": self.threshold,
            "salt": self.salt,
        }

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight's mean while training with noise, else the weight without what is above the threshold."""
        if self.ended:
            return weight * self.mask
        return weight if self.training else weight * (self.log_alpha(weight) < self.threshold)

    def log_alpha(self, weight: Tensor) -> Tensor:
        """Return noise to signal, in logarithm, within +-8, shape ``grain``."""
        return held(self._unlimited(weight), -LIMIT, LIMIT)

    def _unlimited(self, weight: Tensor) -> Tensor:
        dims = [d for d, size in enumerate(self.grain) if size != weight.shape[d]]
        power = weight.square().mean(dims, keepdim=True) if dims else weight.square()
        negligible = NEGLIGIBLE * weight.detach().square().mean() + TINY
        return self.raw_log_variance * self.speed - (power + negligible).log()

    @override
    def kl(self, weight: Tensor) -> Tensor:
        log_alpha = self.log_alpha(weight)
        of_one = K1 - K1 * torch.sigmoid(K2 + K3 * log_alpha) + 0.5 * F.softplus(-log_alpha)
        return of_one.sum() * (self.mask.numel() // log_alpha.numel())

    @override
    def after_forward(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self.ended or not self.training:
            return output
        variance = (self.raw_log_variance.float() * self.speed).exp().expand(self.mask.shape)
        drawn = torch.randn(output.shape, generator=self.generator(output.device), device=output.device)
        # Half precision would lose TINY, which keeps the gradient of the root finite, and squares overflow it.
        with torch.autocast(output.device.type, enabled=False):
            spread = (_without_bias(layer, first_input(layer, args).float().square(), variance) + TINY).sqrt()
            return output + (drawn * spread).to(output)

    @torch.no_grad()
    @override
    def end(self, host: nn.Module) -> None:
        weight = raw_weight(host)
        log_alpha = self._unlimited(weight)
        alive = log_alpha < self.threshold
        if not alive.any():  # a layer with nothing left would cut the network in two
            alive.view(-1)[log_alpha.argmin()] = True
        self.mask.copy_(alive.expand(self.mask.shape))
        super().end(host)


def _without_bias(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    return convolve(layer, x, weight)
