"""The result of a run in one sentence."""

from __future__ import annotations

from math import hypot

from lightning_compress.pipeline.compress import Result
from lightning_compress.pipeline.figures import SHARE, Figure, standard_error

NOTABLE = 1.05  # a ratio of figures that is worth a word
MEASURED = 0.2  # share by which two measurements on a machine with other work easily differ


def verdict(result: Result) -> str:
    """Return how much smaller the network got, and what that did to its metric."""
    metric, *others = result.figures
    smaller = [text for figure in others if figure.headline and (text := _saved(figure, result))]
    saved = " and ".join(smaller) if smaller else "No smaller"
    return f"{saved[0].upper()}{saved[1:]}; {_kept(metric, result)}."


def noise(figure: Figure, dense: float, compressed: float, samples: int) -> float | None:
    """Return how far a figure of two networks may differ by chance alone; None for what is counted exactly.

    That is two standard errors of a share, and a fifth of what a clock measured.

    Shares of test samples are taken as independent, which two networks on the same samples are not quite: the true
    standard error is smaller.

    Args:
        figure: whose values these are.
        dense: value of one network.
        compressed: value of the other.
        samples: number of test samples.
    """
    if figure.unit == SHARE and samples:
        return 2 * hypot(standard_error(dense, samples), standard_error(compressed, samples))
    return MEASURED * abs(dense) if figure.measured else None


def _saved(figure: Figure, result: Result) -> str:
    """Return what a figure gained: ``8.4x smaller file on disk``."""
    before, after = result.dense[figure.name], result.compressed[figure.name]
    if not after or before / after < NOTABLE or figure.higher_is_better:
        return ""
    if figure.name == "bytes":
        return f"{before / after:.1f}x smaller"
    return f"{before / after:.1f}x {'fewer' if figure.digits is None else 'less'} {figure.label}"


def _kept(metric: Figure, result: Result) -> str:
    before, after = result.dense[metric.name], result.compressed[metric.name]
    if metric.unit != SHARE:
        return f"{metric.label} {metric.text(after)}, from {metric.text(before)}"
    points = 100 * (before - after)
    change = f"{abs(points):.1f} points {'lost' if points >= 0 else 'gained'}"
    if not result.samples:
        return f"{change} of {metric.label}"
    told = f"{change} on {result.samples:,} test samples (one is {100 / result.samples:.2g})"
    limit = 100 * (noise(metric, before, after, result.samples) or 0.0)
    return f"{told}; a difference of up to {limit:.1f} may be chance" if 0 < abs(points) < limit else told
