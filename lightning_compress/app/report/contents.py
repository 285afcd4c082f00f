"""Contents of a report as plain data: figures dense and compressed, the plan, and its search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

from rich.table import Table

from lightning_compress.app.report.final_choice import Final
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.figures import Figure
from lightning_compress.pipeline.verdict import noise
from lightning_compress.search.pareto import pareto_front


@dataclass(frozen=True)
class Row:
    """One figure of both networks.

    Attributes:
        figure: what it is.
        dense: its value for the dense network.
        compressed: its value for the compressed one.
        samples: number of test samples.
    """

    figure: Figure
    dense: float
    compressed: float
    samples: int = 0

    @property
    def is_noise(self) -> bool:
        """Whether the change may be chance, or there is none."""
        chance = noise(self.figure, self.dense, self.compressed, self.samples)
        return abs(self.compressed - self.dense) <= (chance or 0.0)

    def cells(self) -> tuple[str, str, str, str]:
        """Return label, dense, compressed, and the change.

        >>> Row(Figure("bytes", "file", "bytes"), 8000, 1000).cells()
        ('file', '8,000 bytes', '1,000 bytes', '8.00x less')
        """
        figure = self.figure
        change = figure.change(self.dense, self.compressed)
        return figure.label, figure.text(self.dense), figure.text(self.compressed), change


@dataclass(frozen=True)
class Point:
    """One trial of a search; ``cost`` and ``reward`` are NaN when it failed, and ``failure`` says why."""

    number: int
    cost: float
    reward: float
    failure: str = ""

    @property
    def failed(self) -> bool:
        """Whether it has no score."""
        return isnan(self.reward)


def best_of(points: Iterable[Point]) -> Point | None:
    """Return the highest reward, the earliest of equals; None when every trial failed."""
    return max((p for p in points if not p.failed), key=lambda point: point.reward, default=None)


@dataclass(frozen=True)
class Ranking:
    """Rank correlation of a search's scores with those after fine-tuning.

    Attributes:
        tau: Kendall's, of the two rewards of the same plans; None when they cannot be ranked.
        plans: with both rewards.
        deviation: standard deviation of tau of as many unrelated plans; None when they cannot be ranked.
        steps: of the fine-tuning.
        failed: plans that had no second score.
        why: they cannot be ranked.
    """

    tau: float | None
    plans: int
    deviation: float | None
    steps: int
    failed: int = 0
    why: str = ""

    @property
    def sentence(self) -> str:
        """All of it, for a person."""
        plans = f"{self.plans} plan{'' if self.plans == 1 else 's'}"
        plans += f" ({self.failed} more failed)" if self.failed else ""
        if self.tau is None:
            return (
                f"Whether the search's scores rank plans as {self.steps} steps of fine-tuning do cannot be said from "
                f"{plans}: {self.why}."
            )
        return (
            f"Kendall's tau of the search's scores with those after {self.steps} steps of fine-tuning is "
            f"{self.tau:.2f} for {plans}; unrelated ones have 0 +- {self.deviation:.2f} "
            f"(standard deviation)."
        )


@dataclass(frozen=True)
class Search:
    """All trials of one stage.

    Attributes:
        name: of the stage.
        cost: what the x axis of the trials is, with its unit.
        limit: the budget, in the unit of the cost.
        points: by trial number.
        baselines: name -> trials of a baseline with as many evaluations.
        ranking: how well its scores rank plans, if that was measured.
        meaning: what the reward is, in words.
        chance: by which two rewards may differ by chance alone; None where that is not known.
        samples: number of validation samples.
        final: the comparison of its best few plans, if there was one.
        seen: a warning that the dense network was trained on the validation data, or nothing.
        starts: name -> reward of each plan that it might have started from; none where it had no closed form.
    """

    name: str
    cost: str
    limit: float
    points: tuple[Point, ...]
    baselines: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    ranking: Ranking | None = None
    meaning: str = ""
    chance: float | None = None
    samples: int = 0
    final: Final | None = None
    seen: str = ""
    starts: Mapping[str, float] = field(default_factory=dict)

    @property
    def scored(self) -> list[Point]:
        """The trials that did not fail."""
        return [point for point in self.points if not point.failed]

    @property
    def best(self) -> Point | None:
        """The highest reward, the earliest of equals; None when every trial failed."""
        return best_of(self.points)

    @property
    def remarks(self) -> list[str]:
        """Sentences on how far its scores can be trusted."""
        return [
            *([self.final.sentence] if self.final is not None else []),
            *([self.seen] if self.seen else []),
            *([self.ranking.sentence] if self.ranking is not None else []),
        ]

    @property
    def tried(self) -> dict[str, tuple[Point, ...]]:
        """The trials of the search and of each baseline."""
        return {"this search": self.points, **self.baselines}

    @property
    def front(self) -> list[Point]:
        """The Pareto front by rising cost; of equal points the earliest."""
        scored = self.scored
        points = [scored[i] for i in pareto_front([(point.cost, point.reward) for point in scored])]
        return list({(point.cost, point.reward): point for point in reversed(points)}.values())[::-1]

    @property
    def against_baselines(self) -> list[str]:
        """A sentence that compares the best plan with that of the best baseline, if there is one."""
        best = {name: point for name, points in self.baselines.items() if (point := best_of(points)) is not None}
        if self.best is None or not best:
            return []
        name = max(best, key=lambda name: best[name].reward)
        gain = self.best.reward - best[name].reward
        how = f"{abs(gain):.4f} {'above' if gain > 0 else 'below'}" if abs(gain) >= 5e-5 else "as high as"
        told = f"Its best reward is {how} that of {name}, the best baseline"
        if self.chance is None or how == "as high as":
            return [f"{told}."]
        verdict = "may be chance" if abs(gain) <= self.chance else "is not chance alone"
        return [f"{told}; with {self.samples:,} validation samples, a difference of {abs(gain):.4f} {verdict}."]


@dataclass(frozen=True)
class Layer:
    """Measurements of one layer, and the value it got.

    Attributes:
        name: of the layer.
        knob: that was lowered.
        losses: each value that was tried, with the reward lost by it; None where it could not be scored.
        chosen: the value that the plan gives.
    """

    name: str
    knob: str
    losses: tuple[tuple[float, float | None], ...]
    chosen: float

    @property
    def most(self) -> str:
        """The largest loss, for a person."""
        losses = [lost for _, lost in self.losses if lost is not None]
        return f"{self.name} (at most {max(losses):.4f} lost)" if losses else f"{self.name} (never scored)"


@dataclass(frozen=True)
class Sensitivities:
    """Reward that each layer loses when it alone is lowered.

    Attributes:
        name: of the stage.
        whole: reward of the network as it came in.
        layers: from the least sensitive to the most.
    """

    name: str
    whole: float
    layers: tuple[Layer, ...]

    @property
    def sentence(self) -> str:
        """All of it in short, for a person."""
        evaluations = 1 + sum(len(layer.losses) for layer in self.layers)
        told = (
            f"nothing was searched, so there are no baselines; the plan was made from {evaluations:,} evaluations, of "
            f"the network as it was (reward {self.whole:.4f}) and with one layer lowered at a time."
        )
        if not self.layers:
            return told
        return f"{told} The least sensitive is {self.layers[0].most}, the most sensitive {self.layers[-1].most}."


@dataclass(frozen=True)
class Report:
    """Contents of a report.

    Attributes:
        title: of the page.
        rows: dense against compressed.
        plan: how much each layer was compressed.
        facts: label -> text: the budget, the seed, the command, the seconds spent.
        searches: one a stage that searched.
        config: the whole configuration as text.
        sensitivities: one a stage that measured them in place of a search.
        verdict: the result in one sentence.
        layers: names of the network's layers in the order in which they run.
    """

    title: str
    rows: Sequence[Row]
    plan: Plan
    facts: Mapping[str, str] = field(default_factory=dict)
    searches: Sequence[Search] = ()
    config: str = ""
    sensitivities: Sequence[Sensitivities] = ()
    verdict: str = ""
    layers: Sequence[str] = ()


def table(rows: Sequence[Row]) -> Table:
    """Return the same rows for a terminal."""
    found = Table()
    for name in ("", "dense", "compressed", "change"):
        found.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
    for row in rows:
        found.add_row(*row.cells())
    return found
