"""Find the scale of a uniform grid that has the least squared error on given values.

    min over s of  E(s) = sum_i n_i (s v_i - x_i)^2,      v_i = clip(round(x_i / s - z), low, high) + z

E has many local minima, one or more for each number of levels in use, so that alternating between codes and scale
stays near its start. Here E is computed on a geometric grid of scales, then on a finer one around the best of these,
and the alternation ``s = <x, v> / <v, v>`` only polishes the result. Rows of a few nonzero values, whose E is ragged,
are solved exactly: codes change at ``|x_i| / (k - 1/2)`` only, and between two changes the best error is
``|x|^2 - <x, v>^2 / <v, v>``. Of long rows the largest values and a random part of the others stand for all. One bit
has a closed form, twice the mean of ``|x|`` (BWN, arXiv 1603.05279, 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

COARSE, COARSE_RATIO = 36, 1.16  # candidates, from the scale that clips nothing down to 1 / 180 of it
CLIPPED = 8  # times the least error, from which on smaller scales are not tried
FINE = 7  # candidates between the neighbors of the best coarse one
FINE_SHORT, SHORT = 31, 1024  # and for rows of up to so many values, whose E is more ragged
WIDTHS = 12  # scales between the best and that of min-max
POLISH = 3  # alternations at the end
FEW = 48  # nonzero values of a row up to which it is solved exactly
ENTRIES = 1 << 21  # values times codes that are sorted at once, and values times scales that are compared
SAMPLE, EXTREMES = 8192, 64  # values of a longer row, and those of them that are its largest


def best_scale(
    x: Tensor, low: float, high: float, offset: float = 0.0, counts: Tensor | None = None, slack: float = 1.0
) -> Tensor:
    """Return the scale of least squared error for each row.

    Args:
        x: values, shape ``(rows, n)``.
        low, high: the smallest and largest code.
        offset: what is added to a code before it is scaled, 0 or 1/2.
        counts: how often each value occurs, or their shares, shape of ``x``; None for once.
        slack: above 1, the largest scale that clips something and whose error is at most so many times the least.

    Returns:
        Scales, shape ``(rows,)``, fp32; 0 for a row without a nonzero finite value, which says nothing about its scale.
    """
    x = x.float().nan_to_num(0.0, 0.0, 0.0)
    if not x.numel():
        return x.new_zeros(len(x))
    if counts is None and x.shape[1] > SAMPLE and high + offset >= 1:
        x, counts = _sample(x)
    counts = torch.ones_like(x) if counts is None else counts.float()
    largest = x.abs().amax(1)
    # To a size of about one, by a power of two, which changes no digit: squares of any unit stay in range.
    exponent = torch.frexp(largest)[1].clamp(-126, 126)
    x = torch.ldexp(x, -exponent[:, None])
    if high + offset < 1:
        scale = 2 * (counts * x.abs()).sum(1) / counts.sum(1)
    else:
        scale = _searched(x, counts, low + offset, high + offset, offset)
        few = (x != 0).sum(1) <= FEW
        if offset == 0 and few.any():
            rows = max(ENTRIES // int(FEW * max(-low, high)), 1)
            parts = zip(x[few].split(rows), counts[few].split(rows), strict=True)
            scale[few] = torch.cat([_exact(part, count, -low, high) for part, count in parts])
        if slack > 1:
            scale = _widened(scale, x, counts, low + offset, high + offset, offset, slack)
    return torch.where(largest > 0, torch.ldexp(scale, exponent), 0.0)


def _sample(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest values of each row and a random part of the others, and how often each is to count."""
    largest = x.abs().topk(EXTREMES, 1).indices
    generator = torch.Generator().manual_seed(0)
    at = torch.randperm(x.shape[1], generator=generator)[: SAMPLE - EXTREMES].to(x.device)
    place = torch.full((x.shape[1],), len(at), device=x.device)  # of a value among the others; behind them for none
    place[at] = torch.arange(len(at), device=x.device)
    rest = torch.cat([x[:, at], x.new_zeros(len(x), 1)], 1)
    rest = rest.scatter_(1, place[largest], 0.0)[:, :-1]  # a zero has no error, whatever the scale
    counts = torch.full((1, SAMPLE), x.shape[1] / len(at), device=x.device)
    counts[:, :EXTREMES] = 1
    return torch.cat([x.gather(1, largest), rest], 1), counts.expand(len(x), -1)


def _searched(x: Tensor, counts: Tensor, least: float, most: float, offset: float) -> Tensor:
    """Return the best of the candidates, polished."""
    minmax = x.abs().amax(1) / most  # of a grid with as many levels below zero as above
    widest = torch.maximum(x.amax(1) / most, x.amin(1) / least if least < 0 else x.amin(1) * 0)
    # A grid that has no place for values of this sign rounds them all to its nearest end, whatever the scale.
    widest = torch.where(widest > 0, widest, minmax)
    best, least_error = widest, torch.full_like(widest, torch.inf)

    def keep_best(candidates: Tensor) -> None:
        """Take the best of the scales, shape ``(rows, scales)``, each row falling where there are many."""
        nonlocal best, least_error
        for part in candidates.split(max(ENTRIES // x.numel(), 1), 1):
            found = _squared_error(x, counts, part, least, most, offset)
            error, at = found.min(1)
            best = torch.where(error < least_error, part.gather(1, at[:, None]).squeeze(1), best)
            least_error = torch.minimum(error, least_error)
            if (found[:, -1] > CLIPPED * least_error).all():  # by what is clipped, and a smaller scale clips more
                break

    steps = torch.arange(COARSE, device=x.device)
    keep_best(minmax[:, None])
    keep_best(widest[:, None] * COARSE_RATIO**-steps)
    fine = FINE_SHORT if x.shape[1] <= SHORT else FINE
    around = 2 * torch.arange(fine, 0, -1, device=x.device) / (fine + 1) - 1
    keep_best(best[:, None] * COARSE_RATIO**around)
    for _ in range(POLISH):
        levels = _levels(x, best[:, None], least, most, offset)
        power = (counts * levels.square()).sum(1)
        candidate = (counts * x * levels).sum(1) / power
        keep_best(torch.where(candidate > 0, candidate, best)[:, None])  # also where nothing has a code but 0
    return best


def _widened(
    scale: Tensor, x: Tensor, counts: Tensor, least: float, most: float, offset: float, slack: float
) -> Tensor:
    """Return scales between the best and that of min-max, the largest of WIDTHS whose error is within the slack."""
    ratio = (x.abs().amax(1) / most / scale).clamp_min(1)
    allowed = slack**2 * _squared_error(x, counts, scale[:, None], least, most, offset).squeeze(1)
    found = scale
    for step in range(1, WIDTHS + 1):
        candidate = scale * ratio ** (step / WIDTHS)
        within = _squared_error(x, counts, candidate[:, None], least, most, offset).squeeze(1) <= allowed
        found = torch.where(within, candidate, found)
    return found


def _levels(x: Tensor, scale: Tensor, least: float, most: float, offset: float) -> Tensor:
    levels = x / scale
    if offset:
        return levels.sub_(offset).round_().add_(offset).clamp_(least, most)
    return levels.clamp_(least, most).round_()


def _squared_error(x: Tensor, counts: Tensor, scales: Tensor, least: float, most: float, offset: float) -> Tensor:
    """Return the error of each scale, both of shape ``(rows, scales)``."""
    x, scales = x[:, None], scales[..., None]
    error = _levels(x, scales, least, most, offset).mul_(scales).sub_(x).square_()
    return error.mul_(counts[:, None]).sum(2)


def _exact(x: Tensor, counts: Tensor, most_below: float, most_above: float) -> Tensor:
    """Return the optimum over all scales, for rows of few nonzero values."""
    number = max(int((x != 0).sum(1).amax()), 1)
    where = x.abs().topk(number, 1).indices
    x, counts = x.gather(1, where).double(), counts.gather(1, where).double()
    code = torch.arange(1, max(most_below, most_above) + 1, device=x.device, dtype=x.dtype)
    most = torch.where(x > 0, most_above, most_below)[..., None]
    reached = (code <= most) & (x != 0)[..., None]
    # The scale at which a value gets this code, rather than the one below.
    changes = torch.where(reached, x.abs()[..., None] / (code - 0.5), 0.0).flatten(1)
    products = torch.where(reached, (counts * x.abs())[..., None], 0.0).flatten(1)
    powers = torch.where(reached, counts[..., None] * (2 * code - 1), 0.0).flatten(1)
    order = changes.argsort(dim=1, descending=True, stable=True)
    product, power = products.gather(1, order).cumsum(1), powers.gather(1, order).cumsum(1)
    gain = (product.square() / power).nan_to_num(0.0)
    best = gain.argmax(1, keepdim=True)
    scale = (product.gather(1, best) / power.gather(1, best)).squeeze(1)
    return torch.where(scale > 0, scale, 1.0).float()
