"""How the plan of each stage came about, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_compress.pipeline.context import MEASURED


def origins(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Stage -> sentence, for the stages that have a plan.

    Args:
        config: the whole configuration of the run, resolved.
        folder: of the run.
    """
    stages = config["compress"]["stages"]
    if config.get("plan") is not None:
        return {name: f"read from {config['plan']}" for name, stage in stages.items() if stage.get("callbacks")}
    return {
        name: _origin(stage, folder / name)
        for name, stage in stages.items()
        if stage.get("searcher") or stage.get("allocation") or stage.get("uniform") or _measured(folder / name)
    }


def _origin(stage: Mapping[str, Any], folder: Path) -> str:
    if stage.get("searcher"):
        baselines = ", ".join(stage.get("baselines") or {})
        beside = f"run beside it with as many trials: {baselines}" if baselines else "no baselines were run"
        return f"the best that {short_name(stage['searcher'])} found; {beside}"
    if stage.get("allocation"):
        return f"made in closed form by {short_name(stage['allocation'])}; no candidate was scored"
    if count := _measured(folder):
        evaluations = f"{count:,} evaluation{'' if count == 1 else 's'}"
        return (
            f"made from the sensitivity of each layer, which took {evaluations}; applied layer by layer, the "
            f"least sensitive first"
        )
    numbers = ", ".join(f"{knob} {number}" for knob, number in stage["uniform"].items())
    return f"the same for every layer, nothing was searched: {numbers}"


def _measured(folder: Path) -> int:
    """Evaluations for the sensitivities of a layer by layer stage; 0 for other stages."""
    file = folder / MEASURED
    if not file.is_file():
        return 0
    return 1 + sum(len(layer["tried"]) for layer in json.loads(file.read_text())["layers"])


def short_name(section: Mapping[str, Any]) -> str:
    """The class that a section of a configuration makes: of a partial inside it, when there is one."""
    target = section.get("make", section)
    return target["_target_"].rsplit(".", 1)[-1]
