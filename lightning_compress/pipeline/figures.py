"""The figures of a network, declared once: tables, reports, ``summary.csv`` and comparisons show what is here.

A figure has a name, a unit, how many digits are shown, and which direction is better. ``result.json`` has these beside
the values, so that what reads it needs to know no figure. The costs under which a run searched are figures too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from lightning_compress.core.costs.activation_bytes import ActivationBytes
from lightning_compress.core.costs.cost import Cost, number_text
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.costs.parameters import Parameters
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import Profile
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.quiet import quiet
from lightning_compress.pipeline.training import single_precision
from lightning_compress.surgery.measure import samples_in

SHARE = "%"  # the unit of figures that are shares of one, and are shown in percent and compared by difference
ACCURACY = "test_acc"  # the metric that is known to be a share of the test samples
VALIDATION = "val_acc"  # and the same of the validation samples


@dataclass(frozen=True)
class Figure:
    """Name, unit and format of a figure.

    Attributes:
        name: in ``result.json`` and ``summary.csv``.
        label: in tables.
        unit: behind a number; ``%`` for a share of one.
        digits: significant digits that are shown; None where all values are whole numbers.
        higher_is_better: None where nobody said so.
        measured: whether two measurements of the same network differ a little.
        headline: whether it is shown where there is room for few.
    """

    name: str
    label: str
    unit: str = ""
    digits: int | None = None
    higher_is_better: bool | None = False
    measured: bool = False
    headline: bool = False

    @property
    def title(self) -> str:
        """The label with the unit, above numbers without one."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def text(self, value: float) -> str:
        """Return a value with its unit.

        >>> Figure("bytes", "file", "bytes").text(8000)
        '8,000 bytes'
        >>> Figure("accuracy", "test accuracy", "%").text(0.98)
        '98.00 %'
        """
        return f"{self.number(value)} {self.unit}".strip()

    def number(self, value: float) -> str:
        """Return a value without its unit."""
        return f"{100 * value:.2f}" if self.unit == SHARE else number_text(value, self.digits)

    def change(self, dense: float, compressed: float) -> str:
        """Return how a figure changed: in points for a share, else as a ratio.

        >>> Figure("bytes", "file", "bytes").change(8000, 1000)
        '8.00x less'
        >>> Figure("accuracy", "test accuracy", "%").change(0.98, 0.975)
        '-0.50 points'
        """
        if self.unit == SHARE:
            return f"{100 * (compressed - dense):+.2f} points"
        if dense == compressed:
            return "same"
        if dense <= 0 or compressed <= 0:
            return "-"
        return f"{dense / compressed:.2f}x less" if dense > compressed else f"{compressed / dense:.2f}x more"


class Figures(Mapping[str, float]):
    """The figures of one network by name, which are attributes too: ``figures.bytes`` is ``figures["bytes"]``."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> float:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"there is no figure {name!r}; there are {sorted(self.__dict__.get('_values', {}))}")
        return self._values[name]

    def __repr__(self) -> str:
        return f"Figures({self._values})"


@dataclass(frozen=True)
class Tested:
    """Sources from which the figures of a network are computed.

    Attributes:
        metrics: that ``test_step`` logs.
        profile: of the network, batch norms not yet folded.
        file: its packed file.
        run: what the stages shared.
    """

    metrics: Mapping[str, float]
    profile: Profile
    file: Path
    run: RunContext


UNMASKED = Figure("unmasked_macs", "MACs per sample on a dense runtime, masked weights included")


def declare(metric: str, costs: Iterable[Cost], masked: bool = False) -> dict[Figure, Callable[[Tested], float]]:
    """Return the figures of a run in the order of tables, each with how it is computed.

    Args:
        metric: that ``test_step`` logs.
        costs: that the run's searches had as budget or objective.
        masked: whether weights are masked, so that MACs are those of the kept ones; then the others are told too.
    """
    # The packed file is there, so that a prediction of its size says nothing more.
    asked = {cost.name: cost for cost in costs if not isinstance(cost, PackedBytes)}
    always = {cost.name: cost for cost in (WeightBits(), MACs(), Parameters(), ActivationBytes())}
    found: dict[Figure, Callable[[Tested], float]] = {
        _metric(metric): lambda tested: tested.metrics[metric],
        Figure("bytes", "file on disk", "bytes", headline=True): lambda tested: tested.file.stat().st_size,
    }
    for name, cost in {**always, **asked}.items():
        found[_of_cost(cost, name in asked)] = _computed(cost)
        if masked and isinstance(cost, MACs):
            found[UNMASKED] = lambda tested: tested.profile.unmasked_macs
    return found


def _metric(name: str) -> Figure:
    if name == ACCURACY:
        return Figure("accuracy", "test accuracy", SHARE, higher_is_better=True, headline=True)
    return Figure("accuracy", name, digits=4, higher_is_better=None, headline=True)


def _of_cost(cost: Cost, asked: bool) -> Figure:
    label = cost.label or cost.name.replace("_", " ")
    return Figure(
        cost.name, label, "" if cost.unit in label else cost.unit, cost.digits, headline=asked or isinstance(cost, MACs)
    )


def _computed(cost: Cost) -> Callable[[Tested], float]:
    return lambda tested: int(cost(tested.profile)) if cost.digits is None else float(cost(tested.profile))


def measure_figures(
    declared: Mapping[Figure, Callable[[Tested], float]],
    module: LightningModule,
    *,
    profile: Profile,
    file: Path,
    run: RunContext,
    metric: str,
) -> tuple[Figures, int]:
    """Test a network and compute its figures; no other code opens the test loader.

    Args:
        declared: the figures, see :func:`declare`.
        module: with the network as its packed file holds it.
        profile: of the network.
        file: its packed file.
        run: what the stages shared.
        metric: that ``test_step`` must log.

    Returns:
        The figures and the number of test samples.

    Raises:
        CompressError: the metric is not logged.
    """
    counter = _Counter()
    with quiet():
        trainer = run.make_trainer(
            callbacks=[counter], logger=False, enable_checkpointing=False, enable_progress_bar=False,
            **single_precision(run.make_trainer),
        )  # fmt: skip
        metrics = trainer.test(module, datamodule=run.data, verbose=False)[0]
    if metric not in metrics:
        raise CompressError(f"test_step of {type(module).__name__} logs {sorted(metrics)}, not {metric!r}; set metric")
    tested = Tested(metrics, profile, file, run)
    return Figures({figure.name: compute(tested) for figure, compute in declared.items()}), counter.samples


class _Counter(Callback):
    """Counts test samples: the first dimension of the first tensor of each batch."""

    samples = 0

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx:  # the metrics are those of the first loader
            return
        self.samples += samples_in(batch) * trainer.world_size


def standard_error(share: float, samples: int) -> float:
    """Return the standard error of a share that was counted on so many samples: ``sqrt(p (1 - p) / n)``.

    Where all or none of the samples were right, a share of one more wrong (or right) sample stands in for it.

    >>> round(standard_error(0.5, 100), 3)
    0.05
    """
    kept = min(max(share, 1 / (samples + 1)), samples / (samples + 1))
    return sqrt(kept * (1 - kept) / samples)


def to_dicts(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """Return figures as plain types."""
    return [asdict(figure) for figure in figures]


def from_dicts(data: Iterable[Mapping[str, Any]]) -> tuple[Figure, ...]:
    """Return the inverse of :func:`to_dicts`."""
    return tuple(Figure(**figure) for figure in data)
