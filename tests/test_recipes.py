"""A recipe cannot rot silently: its plan must fit its network, and cost exactly what the recipe says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from lightning_compress.callbacks.composition import Composition
from lightning_compress.plan import Plan
from lightning_compress.record import network
from lightning_compress.search.evaluator import COSTS

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_plan_fits_and_costs_what_the_recipe_says(file):
    recipe = yaml.safe_load(file.read_text())
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[*recipe["overrides"], "run_dir=unused"])
    data = instantiate(cfg.data)
    data.setup("fit")
    example = next(iter(data.val_dataloader()))[0][:2]
    stages = instantiate(cfg.compress.stages, _convert_="object")
    callbacks = [callback for stage in stages.values() for callback in stage.callbacks.values()]
    composition = Composition(callbacks, network(instantiate(cfg.model)), example)
    plan = Plan.load(file)
    assert composition.realise(plan) == plan
    profile = composition.predict(plan)
    assert {name: COSTS[name](profile) for name in recipe["report"]["predicted"]} == recipe["report"]["predicted"]
    assert {"command", "seeds", "dense", "compressed"} <= recipe["report"].keys()


def test_there_is_a_recipe():
    assert RECIPES
