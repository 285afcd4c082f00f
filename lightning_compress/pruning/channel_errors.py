"""Output error of the layers that read a group of channels, for every number of channels kept, in closed form.

    r(k) = min_V |V x_S - W x|^2 / |W x|^2,      S: the k units ranked first, V: refitted
    error(k) = sum over readers of  r / (1 - r),  the noise that a reader's output has for each unit of signal left

With the units in rank order and ``H + lambda I = L L'``, the residual of the best prediction of the later features from
the earlier ones is a trailing block of ``L``. So one Cholesky factorization gives the error after the refit for every k
at once: the sum of squares of the columns of ``W L`` that belong to dropped features. lambda is that of the refit
(reconstruction/refit.py). Layers too wide for H have the error without a refit, from their Gram matrix. Ours; the
least squares are those of AMC (arXiv 1802.03494, section 3.3) and He et al. 2017 (arXiv 1707.06168, eq. 3). The sum of
r alone takes too much from a few layers: what one layer lost no later layer gives back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_compress.pruning.input_moments import Moments
from lightning_compress.surgery.graph.channels import ChannelGroup
from lightning_compress.surgery.row_layout import weight_rows


@torch.no_grad()
def channel_errors(group: ChannelGroup, net: nn.Module, moments: dict[str, Moments], order: Tensor) -> Tensor:
    """Return the noise-to-signal ratio of the readers' outputs for the first k units of ``order``, for every k.

    Args:
        group: coupled channels.
        net: the dense network.
        moments: layer -> second moments of its inputs; readers that are not in it do not count.
        order: the units from the most to the least important, shape ``(units,)``.

    Returns:
        Shape ``(units + 1,)``, float64: entry k is the sum over readers for k units kept, at most what it is without a
        refit. Where no reader has moments, it is :func:`even_error`.
    """
    known = [member for member in group.readers if member.layer in moments]
    if not known:
        return even_error(torch.arange(group.units + 1, dtype=torch.float64) / group.units)
    total = torch.zeros(group.units + 1, dtype=torch.float64)
    for member in known:
        weight = weight_rows(net.get_submodule(member.layer)).detach()
        index = member.index.to(weight.device)[order.to(weight.device)]
        total += noise_to_signal(_reader_errors(index, weight, moments[member.layer])).cpu()
    return total


def noise_to_signal(relative: Tensor) -> Tensor:
    """Return ``r / (1 - r)`` of relative squared errors; at most a million, where no signal is left."""
    return relative / (1 - relative).clamp_min(1e-6)


def even_error(share: Tensor) -> Tensor:
    """Return the noise-to-signal ratio where nothing is known of a layer: as if each part of it gave as much signal.

    Args:
        share: of the layer that is kept, from 0 to 1.
    """
    return noise_to_signal(1 - share)


def _reader_errors(channels: Tensor, weight: Tensor, moments: Moments) -> Tensor:
    """Return the relative error for every number of units kept, shape ``(units + 1,)``.

    Args:
        channels: of each unit, the most important first, shape ``(units, per unit)``.
        weight: of the reader.
        moments: of its inputs.
    """
    if moments.features is None:
        gram = moments.channel_gram(weight)
        return _by_count(_shares_without_refit(gram, _ranked(channels, len(gram))), len(channels), channels.numel())
    parts, width = moments.by_group(), weight.shape[1]
    errors, power = torch.zeros(len(channels) + 1, dtype=torch.float64, device=weight.device), weight.new_zeros(())
    for number, (features, rows) in enumerate(zip(parts, weight.chunk(len(parts)), strict=True)):
        own = channels[channels // width == number].view(len(channels), -1) - number * width
        shares, whole = _shares(features, moments.rows, rows, _ranked(own, width))
        errors, power = errors + _by_count(shares, len(own), own.numel()), power + whole
    return errors / power if power > 0 else torch.zeros_like(errors)


def _ranked(channels: Tensor, width: int) -> Tensor:
    """Return all channels in the order of their units; what this group cannot remove comes first."""
    others = torch.ones(width, dtype=torch.bool, device=channels.device)
    others[channels.flatten()] = False
    return torch.cat([others.nonzero().flatten(), channels.flatten()])


def _by_count(shares: Tensor, units: int, removable: int) -> Tensor:
    """Return the error for every number of units kept from what each channel adds, the most important first."""
    per_unit = shares[len(shares) - removable :].view(units, -1).sum(1)
    return torch.cat([per_unit.flip(0).cumsum(0).flip(0).clamp_min(0), per_unit.new_zeros(1)])


def _shares(features: Tensor, count: int, weight: Tensor, ranked: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each channel adds to the error when it and all that rank after it are dropped, and the signal."""
    size = weight[0, 0].numel()
    columns = (ranked[:, None] * size + torch.arange(size, device=ranked.device)).flatten()
    system = features.double()[columns][:, columns]
    rows = weight.double().flatten(1)[:, columns]
    whole = torch.einsum("of,fg,og->", rows, system, rows)
    prior = (system.diagonal().sum() / count).clamp_min(torch.finfo(system.dtype).tiny)
    system.diagonal().add_(prior)
    factor = torch.linalg.cholesky(system)
    # The prior row pulls kept weights to what they were; that dropped ones are not there is no error of the fit.
    shares = (rows @ factor).square().sum(0) - prior * rows.square().sum(0)
    return shares.view(len(ranked), size).sum(1), whole


def _shares_without_refit(gram: Tensor, ranked: Tensor) -> Tensor:
    if gram.dim() == 1:
        return gram[ranked] / gram.sum() if gram.sum() > 0 else torch.zeros_like(gram)
    gram = gram[ranked][:, ranked]
    # Dropping c after all that rank later adds G_cc and twice its overlap with those.
    added = gram.diagonal() + 2 * gram.triu(1).sum(1)
    return added / gram.sum() if gram.sum() > 0 else torch.zeros_like(added)
