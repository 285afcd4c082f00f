"""The result of a run in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot

from lightning_compress.pipeline.figures import SHARE, UNMASKED, Figure, Figures, standard_error

NOTABLE = 1.05  # a ratio of figures that is worth a word
MEASURED = 0.2  # share by which two measurements on a machine with other work easily differ


def verdict(figures: Sequence[Figure], dense: Figures, compressed: Figures, samples: int) -> str:
    """Return how much smaller the network got, and what that did to its metric.

    Args:
        figures: the metric, then the others, in the order of tables.
        dense: figures of the network before compression.
        compressed: figures of the network after it.
        samples: number of test samples.
    """
    metric, *others = figures
    smaller = []
    for figure in others:
        text = _saved(figure, dense[figure.name], compressed[figure.name]) if figure.headline else ""
        if text and figure.name == "macs" and UNMASKED in figures:
            text += f" of kept weights (a dense runtime computes {UNMASKED.text(compressed[UNMASKED.name])})"
        smaller += [text] if text else []
    saved = " and ".join(smaller) if smaller else "No smaller"
    kept = _kept(metric, dense[metric.name], compressed[metric.name], samples)
    return f"{saved[0].upper()}{saved[1:]}; {kept}."


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


def _saved(figure: Figure, before: float, after: float) -> str:
    """Return what a figure gained: ``8.4x smaller file on disk``."""
    if not after or before / after < NOTABLE or figure.higher_is_better:
        return ""
    if figure.name == "bytes":
        return f"{before / after:.1f}x smaller"
    return f"{before / after:.1f}x {'fewer' if figure.digits is None else 'less'} {figure.label}"


def _kept(metric: Figure, before: float, after: float, samples: int) -> str:
    if metric.unit != SHARE:
        return f"{metric.label} {metric.text(after)}, from {metric.text(before)}"
    points = 100 * (before - after)
    change = f"{abs(points):.1f} points {'lost' if points >= 0 else 'gained'}"
    if not samples:
        return f"{change} of {metric.label}"
    told = f"{change} on {samples:,} test samples (one is {100 / samples:.2g})"
    limit = 100 * (noise(metric, before, after, samples) or 0.0)
    return f"{told}; a difference of up to {limit:.1f} may be chance" if 0 < abs(points) < limit else told
