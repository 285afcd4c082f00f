"""Codes of a layer's weight with the fewest bits at the least error of its outputs, for one price of a bit.

    min over codes q:   |X (W - s q)|^2 / |X W|^2  +  price x bits(q),      X: inputs of a layer,  bits: of the coder
    step of a layer:    s^2 = 6 price / (ln 2 x mean_j 1 / d_j^2),    d_j^2 = 1 / (error of weight j alone)

One price of a bit serves all layers, and as many levels are used as come out. Columns are rounded one after the other
(error_feedback.py). Sources: Conzelmann and Bamler 2025 (arXiv 2505.18758) for a price on bits in it; the step is that
of uniform quantization at high rates (Gish and Pierce 1968). Ours: bits are those that our coder's own adaptive tables
give each code at its place, weights are taken with the batch norm behind them folded in, and errors of layers count
relative to their outputs. It breaks where few inputs stand for many weights of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_compress.core.errors import InfeasibleBudgetError
from lightning_compress.core.packed_size import weight_shape
from lightning_compress.core.profile import LayerProfile
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.error_feedback import Floats, feedback, round_in_turn
from lightning_compress.surgery.transforms import fold_batch_norm, raw_weight

Codes = NDArray[np.int64]

PASSES = 2  # over the weights of a layer, each with the statistics of the codes that the one before left
LEVELS = 250  # at most
START, LEAST_PRICE, MOST_PRICE = 1e-6, 1e-14, 1e8  # of a bit, in relative squared error
TRIES, FULL, AIM, CLOSE = 16, 0.98, 0.99, 1.02  # a budget is used up to a share, or prices are close
STEEPNESS = 3  # bytes fall about as price ** (-1 / STEEPNESS)
SMALLEST = 1e-6  # factor of a batch norm over the largest of its layer


@dataclass(frozen=True)
class RateProblem:
    """A layer whose codes are to be found.

    Attributes:
        weight: with the factor of the batch norm behind it, shape ``(rows, features)``.
        second: moments of the inputs over the power of the outputs, shape ``(features, features)``.
        factor: of each row, shape ``(rows,)``.
        shape: of the weight, in which it is coded.
        has_norm: whether a batch norm takes the factor.
    """

    weight: Floats
    second: Floats
    factor: Floats
    shape: tuple[int, ...]
    has_norm: bool

    @classmethod
    def of(cls, layer: LayerProfile, module: nn.Module, norm: nn.Module | None, second: Floats | None) -> RateProblem:
        """Return the problem of a layer of a network.

        Args:
            layer: its profile.
            module: the convolution or linear layer.
            norm: the batch norm that alone reads its output, if there is one.
            second: mean of x x' over its inputs, ``(features, features)``; None for inputs of which nothing is known.
        """
        factor = np.ones(layer.out_channels)
        if norm is not None:
            factor = fold_batch_norm(module, norm)[0].abs().cpu().double().numpy()
            factor = np.maximum(factor, SMALLEST * max(factor.max(), SMALLEST))
        weight = raw_weight(module).detach().cpu().double().numpy().reshape(layer.out_channels, -1) * factor[:, None]
        second = np.eye(weight.shape[1]) if second is None else second
        power = float(np.einsum("of,of->", weight @ second, weight))
        return cls(weight, second / power if power > 0 else second, factor, weight_shape(layer), norm is not None)

    def solve(self, price: float, coder: RangeCoded) -> tuple[Tensor, Tensor]:
        """Return the scale of the codes and the codes at a price of a bit.

        Returns:
            fp32, shape ``(rows, 1, ...)`` with a batch norm and else ``()``; and int64 around 0, in the weight's shape.
        """
        step, codes = rounded(self.weight, self.second, price, self.shape, coder)
        found = torch.from_numpy(codes).view(self.shape)
        if not self.has_norm:
            return torch.tensor(step, dtype=torch.float32), found
        return torch.from_numpy(step / self.factor).float().view(-1, *[1] * (len(self.shape) - 1)), found

    @property
    def is_empty(self) -> bool:
        """Whether all weights are zero: their codes take nothing, and say nothing about what a training needs."""
        return not self.weight.any()

    def unsolved(self, bits: float) -> tuple[Tensor, Tensor]:
        """Return a scale and codes of zero, as :meth:`solve` does: weights of torch's usual start would take the bits.

        These are spread evenly within ``1 / sqrt(features)``.

        Args:
            bits: of a weight.
        """
        step = max(2 * 2**-bits, 2 / LEVELS) / max(self.weight.shape[1], 1) ** 0.5
        shape = (len(self.weight), *[1] * (len(self.shape) - 1)) if self.has_norm else ()
        return torch.full(shape, step), torch.zeros(self.shape, dtype=torch.int64)


def code_range(codes: Tensor | Codes) -> tuple[int, int]:
    """Return the lowest code, and the bits that hold all of them above it."""
    low = int(codes.min())
    return low, max((int(codes.max()) - low).bit_length(), 1)


def rounded(
    weight: Floats, second: Floats, price: float, shape: tuple[int, ...], coder: RangeCoded
) -> tuple[float, Codes]:
    """Return the step and the codes of a layer.

    Args:
        weight: shape ``(rows, features)``.
        second: moments of the inputs, shape ``(features, features)``, in units of the error that ``price`` is in.
        price: of a bit.
        shape: of the weight in the network, in which it is coded.
        coder: that will write the codes.

    Returns:
        The step, and codes around 0, shape ``(rows, features)``; ``step * codes`` stands for the weight.
    """
    after = feedback(second)
    step = float(np.sqrt(6 * price / (log(2) * np.mean(np.diag(after) ** -2.0))))
    step = max(step, 2 * float(np.abs(weight).max()) / LEVELS, 1e-30)
    codes = np.rint(weight / step).astype(np.int64)
    for _ in range(PASSES):
        codes = _pass(weight, after, step, price=price, codes=codes, shape=shape, coder=coder)
    return step, codes


def _pass(
    weight: Floats, after: Floats, step: float, *, price: float, codes: Codes, shape: tuple[int, ...], coder: RangeCoded
) -> Codes:
    """Return codes that are better for the statistics of the given ones."""
    low, high, found = int(codes.min()), int(codes.max()), np.zeros_like(codes)
    bits, which = coder.code_lengths((codes - low).astype(np.uint8).ravel(), code_range(codes)[1], shape)
    which, every, spread = which.reshape(codes.shape), np.arange(len(codes)), np.diag(after)

    def choose(j: int, column: Floats) -> Floats:
        nearest = np.clip(np.rint(column / step), low, high).astype(np.int64)
        inward = nearest - np.sign(nearest)
        able = np.clip(np.stack([nearest, inward, inward - np.sign(inward), 0 * nearest]), low, high)
        error = (column - able * step) / spread[j]
        best = (error**2 + price * bits[which[:, j], able - low]).argmin(0)
        found[:, j] = able[best, every]
        return np.asarray(found[:, j] * step, np.float64)

    round_in_turn(weight, after, choose)
    return found


def within(problems: Mapping[str, RateProblem], room: float, coder: RangeCoded) -> dict[str, tuple[Tensor, Tensor]]:
    """Return scale and codes of all layers at the lowest price of a bit at which their streams fit, by bisection.

    Args:
        problems: layer -> problem.
        room: bytes that the streams may take together.
        coder: of the file.

    Raises:
        InfeasibleBudgetError: codes that are all alike take more.
    """
    price, cheap, dear = START, (0.0, 0), (inf, 0)  # prices and bytes: too many, and few enough
    best: dict[str, tuple[Tensor, Tensor]] | None = None
    for _ in range(TRIES):
        found = {name: problem.solve(price, coder) for name, problem in problems.items()}
        size = sum(stream_bytes(codes, coder) for _, codes in found.values())
        if size <= room:
            best, dear = found, (price, size)
        else:
            cheap = price, size
        if (
            FULL * room <= size <= room
            or dear[0] < CLOSE * cheap[0]
            or dear[0] == LEAST_PRICE
            or cheap[0] == MOST_PRICE
        ):
            break
        if cheap[0] and dear[0] < inf:  # bytes are nearly a power of the price
            share = log(cheap[1] / (AIM * room)) / log(cheap[1] / max(dear[1], 1))
            price = cheap[0] * (dear[0] / cheap[0]) ** min(max(share, 0.1), 0.9)
        else:
            guess = price * (size / (AIM * room)) ** STEEPNESS
            price = min(max(guess, LEAST_PRICE), MOST_PRICE)
    if best is None:
        raise InfeasibleBudgetError(
            f"the codes of {len(problems)} layers are to take {room:,.0f} bytes together, and take {size:,} at the "
            f"highest price of a bit; allow more bits a weight, or a larger budget"
        )
    return best


def stream_bytes(codes: Tensor, coder: RangeCoded) -> int:
    """Return bytes of the codes of a layer in the file.

    Args:
        codes: around 0, in the weight's shape.
        coder: of the file.
    """
    low, bits = code_range(codes)
    return len(coder.write(stored_codes(codes, low), bits, codes.shape))


def stored_codes(codes: Tensor, low: int) -> NDArray[np.uint8]:
    """Return codes above the lowest one, as a coder takes them."""
    return (codes.cpu().long() - low).to(torch.uint8).numpy().ravel()
