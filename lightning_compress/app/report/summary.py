"""The last word of a run: what its folder holds, as a table in the terminal and as ``report.html``."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from math import inf, nan
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.utils import instantiate
from rich.console import Console
from rich.text import Text

from lightning_compress.app.report.contents import Layer, Point, Ranking, Report, Row, Search, Sensitivities, table
from lightning_compress.app.report.final_choice import Final, Finalist, seen_sentence
from lightning_compress.app.report.html import write_report
from lightning_compress.app.report.search_table import lines
from lightning_compress.conf.resolvers import command_line
from lightning_compress.core.errors import CompressError
from lightning_compress.core.json_record import read_record
from lightning_compress.pipeline.context import FOUND, MEASURED
from lightning_compress.pipeline.figures import ACCURACY, SHARE, VALIDATION, Figure
from lightning_compress.pipeline.result import Result
from lightning_compress.pipeline.verdict import noise
from lightning_compress.search.correlation import CORRELATION, deviation_of_unrelated, pairs, rank_correlation
from lightning_compress.search.journal import Entry, journal_name, read
from lightning_compress.search.objectives.objective import AccuracyUnderBudget, Objective
from lightning_compress.search.starts import CLOSED_FORM, UNIFORM

REPORT = "report.html"


def write_summary(result: Result, config: Mapping[str, Any], console: Console) -> None:
    """Print the table, write the report.

    Args:
        result: of the run.
        config: the whole configuration, resolved.
        console: to print to.
    """
    made, told = rows(result), result.verdict
    searches = tuple(
        search
        for name, stage in config["compress"]["stages"].items()
        if (search := search_of(name, result.folder / name, stage.get("planner") or {}, result)) is not None
    )
    measured = [
        found for name in config["compress"]["stages"] if (found := sensitivities_of(name, result.folder / name))
    ]
    net, data = short_name(config["model"].get("net", config["model"])), short_name(config["data"])
    title = f"{net} on {data}: {' then '.join(config['compress']['stages'])}"
    text = yaml.safe_dump(dict(config), sort_keys=False)
    report = Report(title, made, result.plan, _facts(result, config), searches, text, measured, told, result.layers)
    write_report(result.folder / REPORT, report)
    console.print(Text(told))
    console.print(table(made))
    if searches:
        console.print(lines(searches))
    for search in searches:
        for sentence in search.remarks:
            console.print(Text(f"{search.name}: {sentence}"))
    for found in measured:
        console.print(Text(f"{found.name}: {found.sentence}"))
    for name, exported in result.exports.items():
        if exported.deployed is not None or exported.notes:
            console.print(Text(f"{name}: {exported.told}"))
    console.print(f"{duration(result.seconds)} spent, dense training aside", highlight=False)
    for file in (*(report.path.name for report in result.exports.values()), "plan.yaml", REPORT):
        console.print(Text(str(result.folder / file)), soft_wrap=True)  # a folder may be named [red]


def rows(result: Result) -> list[Row]:
    """Return the figures of both networks side by side."""
    return [
        Row(figure, result.dense[figure.name], result.compressed[figure.name], result.samples)
        for figure in result.figures
    ]


def search_of(name: str, folder: Path, planner: Mapping[str, Any], result: Result | None = None) -> Search | None:
    """Return what a stage's folder knows of its search; None if it did not search.

    Args:
        name: of the stage.
        folder: of the stage.
        planner: its configuration, with ``objective`` and ``cost``.
        result: of the run, whose test accuracy of the dense network is compared with that on the validation data.
    """
    settings = folder / FOUND
    if not settings.is_file():
        return None
    objective: Objective = instantiate(planner["objective"])
    cost = instantiate(planner["cost"])
    written = read_record(settings)

    def point(entry: Entry) -> Point:
        if entry.score is None:
            return Point(entry.number, nan, nan, entry.failure or "")
        return Point(entry.number, entry.score.costs[cost.name], objective(entry.score))

    names = written.get("baselines", [])
    most = written.get("trials", inf)  # an earlier, longer search left more in its journals
    found = [read(folder / journal_name(baseline)) for baseline in ("", *names)]
    trials, *beside = ([entry for entry in entries if entry.number < most] for entries in found)
    points, *others = (tuple(map(point, entries)) for entries in (trials, *beside))
    best = written.get("found", {}).get("best", {})
    ranking = _ranking(written["correlation"], trials, folder, objective) if "correlation" in written else None
    return Search(
        name,
        cost.title,
        written["limit"],
        points,
        dict(zip(names, others, strict=True)),
        ranking,
        objective.meaning,
        _chance(objective, trials, written.get("validation_samples", 0)),
        written.get("validation_samples", 0),
        _final(written["final"], objective) if "final" in written else None,
        _seen(written, result),
        {name: best[name] for name in (CLOSED_FORM, UNIFORM) if name in best},
    )


def _final(written: Mapping[str, Any], objective: Objective) -> Final:
    """Return the final choice as ``search.json`` has it."""
    is_accuracy = isinstance(objective, AccuracyUnderBudget) and objective.metric == VALIDATION
    finalists = tuple(
        Finalist(one["trial"], one["reward"], one["metrics"].get(VALIDATION) if is_accuracy else None)
        for one in written["trials"]
    )
    return Final(finalists, written["validation_samples"], written["finetune_steps"], written["again"])


def _seen(written: Mapping[str, Any], result: Result | None) -> str:
    """Return a warning where the dense network's accuracies on validation and test data differ beyond chance."""
    validation = written.get("dense", {}).get(VALIDATION)
    if result is None or validation is None or result.metric != ACCURACY:
        return ""
    test = result.dense[result.figures[0].name]
    return seen_sentence(validation, written.get("validation_samples", 0), test, result.samples)


def _chance(objective: Objective, trials: Sequence[Entry], samples: int) -> float | None:
    """Return how far two rewards may differ by chance; None unless the reward is an accuracy."""
    scored = [entry.score for entry in trials if entry.score is not None]
    if not samples or not scored or not isinstance(objective, AccuracyUnderBudget) or objective.metric != VALIDATION:
        return None
    accuracy = max(scored, key=objective).metrics[VALIDATION]
    return noise(Figure(VALIDATION, VALIDATION, SHARE), accuracy, accuracy, samples)


def sensitivities_of(name: str, folder: Path) -> Sensitivities | None:
    """Return what a stage measured of its layers; None if it did not."""
    file = folder / MEASURED
    if not file.is_file():
        return None
    written = read_record(file)
    whole = written["whole"]
    return Sensitivities(
        name,
        whole,
        tuple(
            Layer(
                found["layer"],
                found["knob"],
                tuple((value, None if reward is None else whole - reward) for value, reward in found["tried"]),
                found["chosen"],
            )
            for found in written["layers"]
        ),
    )


def _ranking(settings: Mapping[str, Any], trials: list[Entry], folder: Path, objective: Objective) -> Ranking:
    """Return the ranking of the trials that were scored again, as ``search.json`` names them."""
    again = [entry for entry in read(folder / CORRELATION) if entry.number in settings["trials"]]
    found, steps = pairs(trials, again, objective), settings["finetune_steps"]
    failed = len(settings["trials"]) - len(found)
    try:
        tau = rank_correlation([low for low, _ in found], [high for _, high in found])
    except CompressError as error:
        return Ranking(None, len(found), None, steps, failed, str(error).removeprefix("rank correlation: "))
    return Ranking(tau, len(found), deviation_of_unrelated(len(found)), steps, failed)


def short_name(section: Mapping[str, Any]) -> str:
    """Return the name of the class that a section of a configuration makes; of a partial inside it, that one's."""
    target = section.get("make", section)
    return target["_target_"].rsplit(".", 1)[-1]


def duration(seconds: float) -> str:
    """Return a time for people.

    >>> duration(12.3), duration(3 * 60 + 20), duration(2 * 3600 + 59 * 60 + 40)
    ('12 s', '3 min 20 s', '3 h 0 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def _facts(result: Result, config: Mapping[str, Any]) -> dict[str, str]:
    budgets = [f"{name}: {limit}" for name, limit in result.limits.items()]
    threads = torch.get_num_threads()
    return {
        "budget": "; ".join(budgets) or "none: nothing was searched",
        **{f"plan of {name}": sentence for name, sentence in result.origins.items()},
        **{
            f"exported {name}": report.told
            for name, report in result.exports.items()
            if report.deployed or report.notes
        },
        "seed": str(config["seed"]),
        "command": command_line(),
        "time": f"{duration(result.seconds)} (without dense training)",
        "machine": f"{platform.system()} {platform.machine()}, {threads} thread{'' if threads == 1 else 's'}, "
        f"torch {torch.__version__}",
    }
