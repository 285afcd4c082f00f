"""Give a network random weights and statistics: zeros and ones would hide what removing channels changes."""

from __future__ import annotations

import torch
from torch import nn

from lightning_compress.surgery import measure
from lightning_compress.surgery.copies import copy_with

FIRST = 1 << 16  # places in one row of random numbers at which those of a parameter may begin: to draw takes long


def randomized(net: nn.Module) -> nn.Module:
    """Return a copy with random weights and statistics.

    Args:
        net: with plain weights.
    """
    made = copy_with(net, lambda t: torch.empty_like(t) if isinstance(t, nn.Parameter) else t.clone())
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, measure.BATCH_NORM):
                mean, variance = module.running_mean, module.running_var
                if mean is not None and variance is not None:
                    mean.normal_(0, 0.1)
                    variance.uniform_(0.5, 1.5)
        parameters = [parameter for parameter in made.parameters() if parameter.numel()]
        drawn = torch.rand(max((p.numel() for p in parameters), default=0) + FIRST)
        for parameter in parameters:
            first = int(torch.randint(FIRST, ()))
            parameter.copy_(drawn[first : first + parameter.numel()].view(parameter.shape))
            if parameter.dim() > 1:
                bound = (6 / parameter[0].numel()) ** 0.5  # of a uniform distribution with variance 2 / fan-in
                parameter.mul_(2 * bound).sub_(bound)
            else:
                parameter.add_(0.5)
    return made
