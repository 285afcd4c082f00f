"""Correct the outputs of layers that rounding shifts and stretches, where no training follows that would.

    y <- a y_q + b,      a = (sum (y_q - E y_q)(y - E y) + v) / (sum (y_q - E y_q)^2 + v),      b = E y - a E y_q

for each output channel of each layer, with the layers before it corrected: the least squares of ``y``, the output of
the layer without rounding, from ``y_q``, with it. ``v``, the mean square of ``y_q - E y_q``, pulls ``a`` towards 1 as
one typical row more would (pruning/reconstruction/refit.py says why). Where a batch norm alone reads the output, its
statistics take the correction, which is the same, and with few bits ``y_q`` has noise that its variance alone would
take for signal. Elsewhere the bias takes the mean, and ``a`` stays 1. Sources: Nagel et al. 2019 (arXiv 1906.04721,
section 4.2) for the means: the inputs of a channel are seldom negative behind a ReLU, so the errors of its weights do
not cancel. The factor is ours: with the nearest weights of 2 bits and inputs of 8 a ResNet-20 has 71 % with it and 58 %
without.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_compress.core.profile import Profile
from lightning_compress.surgery import measure
from lightning_compress.surgery._torch import own_parameters
from lightning_compress.surgery.transforms import Transform

LAYERS = measure.KERNELS
SAMPLED = 4_096  # places of a batch that the factor is fitted to; the means are of all
LEAST, MOST = 1 / 8, 8.0  # of a factor: beyond it a channel is noise


@dataclass(frozen=True)
class _Seen:
    """Outputs of a layer on a batch.

    Args:
        mean: of each channel, shape ``(channels,)``.
        sample: at some places, less their mean; shape ``(channels, places)``.
    """

    mean: Tensor
    sample: Tensor


@dataclass(frozen=True)
class _Fit:
    """What a correction of a layer is computed from, each but the numbers of shape ``(channels,)``."""

    samples: int
    places: int
    wanted: Tensor  # sum of the means without rounding, each times its samples
    found: Tensor  # the same with rounding
    square: Tensor
    product: Tensor

    @classmethod
    def of(cls, wanted: _Seen, found: _Seen, samples: int) -> _Fit:
        """Return that of one batch."""
        square, product = found.sample.square().sum(1), (found.sample * wanted.sample).sum(1)
        return cls(samples, found.sample.shape[1], samples * wanted.mean, samples * found.mean, square, product)

    def __add__(self, other: _Fit) -> _Fit:
        return _Fit(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def factor(self) -> Tensor:
        """The ``a`` of each channel; 1 of a channel that says nothing."""
        prior = self.square / self.places
        factor = (self.product + prior) / (self.square + prior)
        return torch.where(self.square > 0, factor, 1.0).clamp(LEAST, MOST)

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """The means without rounding and with it."""
        return self.wanted / self.samples, self.found / self.samples


def correct_outputs(
    net: nn.Module, profile: Profile, rounding: Mapping[Transform, Tensor | None], examples: Iterable[Any]
) -> None:
    """Change biases and statistics of batch norms so that outputs are as near as may be to those without rounding.

    A layer that runs more than once, or has neither a bias nor a batch norm behind it, is left as it is.

    Args:
        net: with calibrated quantizers; is changed in place.
        profile: of ``net``.
        rounding: quantizers to correct for, each with what it would give without rounding; None for its input.
        examples: input batches.
    """
    norms = {layer.follows: layer.name for layer in profile if layer.follows}
    layers = [name for name, module in net.named_modules() if isinstance(module, LAYERS)]
    corrected = [name for name in layers if name in norms or _bias(net, name) is not None]
    fits: dict[str, _Fit] = {}
    for example in examples:
        wanted = _without_rounding(net, corrected, rounding, example)
        for name, fit in _corrected(net, wanted, norms, example).items():
            fits[name] = fits[name] + fit if name in fits else fit  # a layer need not run on every batch
    with torch.no_grad():
        for name, fit in fits.items():
            bias, (wanted_mean, mean) = _bias(net, name), fit.means
            if name in norms:
                _correct_norm(net.get_submodule(norms[name]), fit.factor, wanted_mean, mean)
            elif bias is not None:
                bias.add_((wanted_mean - mean).to(bias))


def _correct_norm(norm: nn.Module, factor: Tensor, wanted: Tensor, found: Tensor) -> None:
    """Give a batch norm the statistics with which it does what it did to outputs that are corrected before it."""
    mean, var = norm.running_mean, norm.running_var
    factor = torch.minimum(factor.to(var), ((var + norm.eps) / norm.eps).sqrt())  # with more, no variance would do
    mean.copy_((mean - wanted.to(mean)) / factor + found.to(mean))
    var.copy_(((var + norm.eps) / factor.square() - norm.eps).clamp_min(0))


def _bias(net: nn.Module, name: str) -> nn.Parameter | None:
    return own_parameters(net.get_submodule(name)).get("bias")


def _without_rounding(
    net: nn.Module, names: Collection[str], rounding: Mapping[Transform, Tensor | None], example: Any
) -> dict[str, _Seen]:
    """Return the outputs without rounding, of the layers that run once and return a tensor."""
    found: dict[str, list[_Seen | None]] = {name: [] for name in names}

    def note(name: str, layer: nn.Module, _args: Any, output: Any) -> None:
        found[name].append(_seen(layer, output))

    unrounded = [transform.register_forward_hook(partial(_unrounded, value)) for transform, value in rounding.items()]
    measure.forward_hooked(net, example, [*unrounded, *_hooks(net, names, note)])
    return {name: seen[0] for name, seen in found.items() if len(seen) == 1 and seen[0] is not None}


def _corrected(net: nn.Module, wanted: Mapping[str, _Seen], scaled: Collection[str], example: Any) -> dict[str, _Fit]:
    """Return the fit of each layer with rounding, with all that come before corrected."""
    fits: dict[str, _Fit] = {}

    def correct(name: str, layer: nn.Module, _args: Any, output: Any) -> Any:
        found = _seen(layer, output)
        if found is None:
            return output
        fits[name] = fit = _Fit.of(wanted[name], found, measure.samples_in(example))
        factor = fit.factor if name in scaled else torch.ones_like(fit.factor)
        offset = wanted[name].mean - factor * found.mean
        factor, offset = (part.to(output).view(-1, *[1] * (layer.weight.dim() - 2)) for part in (factor, offset))
        return factor * output + offset

    measure.forward_hooked(net, example, _hooks(net, wanted, correct))
    return fits


def _seen(layer: nn.Module, output: Any) -> _Seen | None:
    """Return what counts of an output; None of one without rows, or that is no tensor."""
    if not isinstance(output, Tensor) or not output.numel():
        return None
    channels = output.dim() - (layer.weight.dim() - 1)
    rows = output.movedim(channels, 0).flatten(1)
    wide, count = torch.promote_types(rows.dtype, torch.float32), rows.shape[1]
    places = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:SAMPLED]  # the same with and without
    sample = rows[:, places.to(rows.device)].to(wide)
    return _Seen(rows.mean(1, dtype=wide), sample - sample.mean(1, keepdim=True))


def _unrounded(value: Tensor | None, _transform: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> Tensor:
    return args[0] if value is None else value


def _hooks(net: nn.Module, names: Iterable[str], hook: Callable[..., Any]) -> list[RemovableHandle]:
    return [net.get_submodule(name).register_forward_hook(partial(hook, name)) for name in names]
