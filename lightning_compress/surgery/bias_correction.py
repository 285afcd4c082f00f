"""Correct the means that rounding shifts, where no training follows that would.

    b <- b - (E[y_q] - E[y]),      for each output channel of each layer, with the layers before it corrected

where ``y`` is the output of a layer without rounding and ``y_q`` with it. Where a batch norm alone reads the output,
its mean takes the correction, which is the same. Source: Nagel et al. 2019 (arXiv 1906.04721, section 4.2). The inputs
of a channel are seldom negative behind a ReLU, so the errors of its weights do not cancel: their mean remains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
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


def correct_biases(
    net: nn.Module, profile: Profile, rounding: Mapping[Transform, Tensor | None], examples: Iterable[Any]
) -> None:
    """Add to biases and to the means of batch norms what brings back the mean of each output channel.

    A layer that runs more than once, or has neither a bias nor a batch norm behind it, is left as it is.

    Args:
        net: with calibrated quantizers; is changed in place.
        profile: of ``net``.
        rounding: quantizers to correct for, each with what it would give without rounding; None for its input.
        examples: input batches.
    """
    means = {layer.follows: layer.name for layer in profile if layer.follows}
    layers = [name for name, module in net.named_modules() if isinstance(module, LAYERS)]
    corrected = [name for name in layers if name in means or _bias(net, name) is not None]
    totals: dict[str, Tensor] = {}
    rows: Counter[str] = Counter()  # a layer need not run on every batch
    for example in examples:
        expected = _means(net, corrected, rounding, example)
        shifts = _shifts(net, expected, example)
        samples = measure.samples_in(example)
        for name, shift in shifts.items():
            rows[name] += samples
            totals[name] = totals.get(name, torch.zeros_like(shift)) + samples * shift
    with torch.no_grad():
        for name, total in totals.items():
            bias, shift = _bias(net, name), total / rows[name]
            if name in means:
                mean = net.get_submodule(means[name]).running_mean
                mean.add_(shift.to(mean))
            elif bias is not None:
                bias.sub_(shift.to(bias))


def _bias(net: nn.Module, name: str) -> nn.Parameter | None:
    return own_parameters(net.get_submodule(name)).get("bias")


def _means(
    net: nn.Module, names: Collection[str], rounding: Mapping[Transform, Tensor | None], example: Any
) -> dict[str, Tensor]:
    """Return the mean of each channel without rounding, of the layers that run once and return a tensor."""
    found: dict[str, list[Tensor | None]] = {name: [] for name in names}

    def note(name: str, layer: nn.Module, _args: Any, output: Any) -> None:
        found[name].append(_mean(layer, output))

    unrounded = [transform.register_forward_hook(partial(_unrounded, value)) for transform, value in rounding.items()]
    measure.forward_hooked(net, example, [*unrounded, *_hooks(net, names, note)])
    return {name: mean[0] for name, mean in found.items() if len(mean) == 1 and mean[0] is not None}


def _shifts(net: nn.Module, expected: Mapping[str, Tensor], example: Any) -> dict[str, Tensor]:
    """Return how far rounding moves the mean of each channel, with all that come before moved back."""
    found: dict[str, Tensor] = {}

    def correct(name: str, layer: nn.Module, _args: Any, output: Any) -> Any:
        mean = _mean(layer, output)
        if mean is None:
            return output
        found[name] = mean - expected[name]
        return output - found[name].to(output).view(-1, *[1] * (layer.weight.dim() - 2))

    measure.forward_hooked(net, example, _hooks(net, expected, correct))
    return found


def _mean(layer: nn.Module, output: Any) -> Tensor | None:
    """Return the mean of each channel, ``(channels,)``; None of an output without rows, or that is no tensor."""
    if not isinstance(output, Tensor) or not output.numel():
        return None
    channels = output.dim() - (layer.weight.dim() - 1)
    rows = output.movedim(channels, 0).flatten(1)
    return rows.mean(1, dtype=torch.promote_types(rows.dtype, torch.float32))


def _unrounded(value: Tensor | None, _transform: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> Tensor:
    return args[0] if value is None else value


def _hooks(net: nn.Module, names: Iterable[str], hook: Callable[..., Any]) -> list[RemovableHandle]:
    return [net.get_submodule(name).register_forward_hook(partial(hook, name)) for name in names]
