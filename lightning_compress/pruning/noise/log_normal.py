"""Log-normal noise on output channels, truncated to [e^-20, 1], with the log-uniform prior on the same interval.

    e = exp(z),   z ~ N(mu, s^2) truncated to [a, b] = [-20, 0],   y = e f(x)
    KL = log(b - a) - log(sqrt(2 pi e) s) - log Z - (A phi(A) - B phi(B)) / (2 Z),   A, B = (a - mu) / s, (b - mu) / s
    SNR = E[e] / sqrt(Var[e]);   a channel below 1 carries no information

Source: Neklyudov et al. 2017, structured Bayesian pruning (arXiv 1705.07283, sections 3-4). It is information dropout's
noise with a proper prior, so that a threshold has a meaning. Without noise a channel is multiplied by E[e]; when the
noise ends, that gate goes into the parameters before it.
"""

from __future__ import annotations

from math import e, log, pi, sqrt
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.pruning.noise.noise import Noise
from lightning_compress.surgery.bounded import held
from lightning_compress.surgery.transforms import raw_weight

LOW, HIGH = -20.0, 0.0
FARTHEST = 5.0  # scales that the mean may lie above the upper end


@final
class LogNormalNoise(Noise):
    """One noise variable per output channel and sample.

    Args:
        channels: of the output, whose dimension 1 they are (the last one of an output with 2 dimensions or tokens).
        last: whether channels are the last dimension.
        salt: see :class:`Noise`.
    """

    kind: ClassVar[str] = "log_normal_noise"

    def __init__(self, channels: int, last: bool = False, salt: int = 0) -> None:
        super().__init__(salt)
        self.channels, self.last = channels, last
        self.raw_mean = nn.Parameter(torch.zeros(channels))
        self.raw_log_scale = nn.Parameter(torch.full((channels,), -3.0 / self.speed))

    @override
    def config(self) -> dict[str, Any]:
        return {"channels": self.channels, "last": self.last, "salt": self.salt}

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.ended:
            return x
        if not self.training:
            return x * self._along_channels(self.moments()[0].to(x.dtype)[None], x)
        mean, scale = self._parameters_of_normal()
        low, high = _cdf((LOW - mean) / scale), _cdf((HIGH - mean) / scale)
        drawn = torch.rand(len(x), self.channels, generator=self.generator(x.device), device=x.device, dtype=mean.dtype)
        level = low + (high - low) * drawn
        noise = (mean + scale * _inverse_cdf(level)).clamp(LOW, HIGH).exp()
        return x * self._along_channels(noise.to(x.dtype), x)

    @torch.no_grad()
    @override
    def end(self, host: nn.Module) -> None:
        gate = self.moments()[0]
        weight = raw_weight(host)
        weight.mul_(gate.to(weight).view(-1, *[1] * (weight.dim() - 1)))
        if host.bias is not None:
            host.bias.mul_(gate.to(host.bias))
        super().end(host)

    def _along_channels(self, values: Tensor, x: Tensor) -> Tensor:
        """Return values ``(samples or 1, channels)`` in a shape that broadcasts to ``x``."""
        shape = [len(values), *[1] * (x.dim() - 2)]
        shape.insert(len(shape) if self.last else 1, self.channels)
        return values.view(shape)

    @override
    def kl(self, weight: Tensor) -> Tensor:
        mean, scale = self._parameters_of_normal()
        a, b = (LOW - mean) / scale, (HIGH - mean) / scale
        mass = _mass(a, b)
        edges = (a * _density(a) - b * _density(b)) / (2 * mass)
        return (log(HIGH - LOW) - 0.5 * log(2 * pi * e) - scale.log() - mass.log() - edges).sum()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the noise, shape ``(channels,)``."""
        mean, scale = self._parameters_of_normal()
        a, b = (LOW - mean) / scale, (HIGH - mean) / scale
        mass = _mass(a, b)
        first = (mean + scale.square() / 2).exp() * _mass(a - scale, b - scale) / mass
        second = (2 * mean + 2 * scale.square()).exp() * _mass(a - 2 * scale, b - 2 * scale) / mass
        return first, (second - first.square()).clamp_min(1e-30)

    @torch.no_grad()
    def snr(self) -> Tensor:
        """Return signal to noise of each channel, shape ``(channels,)``."""
        first, variance = self.moments()
        return (first / variance.sqrt()).float()

    def _parameters_of_normal(self) -> tuple[Tensor, Tensor]:
        # Tails of the normal distribution lie beyond fp32.
        scale = held((self.raw_log_scale * self.speed).double(), -6.0, 2.5).exp()
        mean = held((self.raw_mean * self.speed).double(), LOW, 5.0)
        # A mean far above the upper end would leave nothing but a tail that no number holds; near it, noise of any
        # size can still be had by the scale.
        return torch.minimum(mean, HIGH + FARTHEST * scale), scale


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / sqrt(2))


def _inverse_cdf(level: Tensor) -> Tensor:
    return torch.special.ndtri(level.clamp(1e-12, 1 - 1e-12))


def _density(x: Tensor) -> Tensor:
    return (-0.5 * x.square()).exp() / sqrt(2 * pi)


def _mass(a: Tensor, b: Tensor) -> Tensor:
    return (_cdf(b) - _cdf(a)).clamp_min(1e-300)
