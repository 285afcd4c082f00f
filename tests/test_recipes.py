"""A recipe cannot rot silently: its plan must fit its network, and cost exactly what the recipe says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from lightning_compress.app.recipe import recipe_file, with_recipe
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.needed_costs import cost_named
from lightning_compress.surgery.structure import Structure, network, structure_of

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def applied(file: Path) -> Structure:
    """Return the record of a fresh network to which the stages of a recipe applied their parts of its plan."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[*yaml.safe_load(file.read_text())["overrides"], "run_dir=unused"])
    data, module = instantiate(cfg.data), instantiate(cfg.model)
    data.setup("fit")
    example = next(iter(data.val_dataloader()))[0][:2]
    for stage in instantiate(cfg.compress.stages, _convert_="object").values():
        composition = Composition(list(stage.callbacks.values()), network(module), example)
        for callback in composition.callbacks:
            callback.calibrate(module, data.train_dataloader())
        composition.apply(network(module), composition.own(Plan.load(file)))
    return structure_of(network(module))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_plan_fits_and_costs_what_the_recipe_says(file):
    report, record = yaml.safe_load(file.read_text())["report"], applied(file)
    assert record.plan == Plan.load(file)
    assert {name: cost_named(name)(record.profile) for name in report["predicted"]} == report["predicted"]
    assert {"command", "seeds", "dense", "compressed"} <= report.keys()


def test_a_recipe_of_several_stages_is_applied_stage_by_stage(tmp_path):
    plan = Plan({"layer1.0": {"keep": 0}, "layer2.0.conv1": {"channels": 0.5}})
    recipe = {"overrides": ["model=resnet8", "+compress=n2n"], "plan": {"layers": plan.to_dict()}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    record = applied(tmp_path / "recipe.yaml")
    assert record.plan == plan
    assert record.applied.keys() == {"layer_removal", "channel_pruning"}


def test_there_is_a_recipe():
    assert RECIPES


def test_overrides_of_the_command_line_take_the_place_of_the_recipes():
    given = ["-m", "recipe=digits/resnet8-drl_quant", "data=npz", "compress.stages.quantize.epochs=1", "seed=1,2"]
    assert with_recipe(given) == ["-m", "model=resnet8", "+compress=quant", "compress/coder=fixed_width", *given[1:]]


def test_a_command_line_without_a_recipe_stays_as_it_is():
    assert with_recipe(["+compress=quant", "recipe=null"]) == ["+compress=quant", "recipe=null"]


@pytest.mark.parametrize("name", ["../conf/config", "digits/../../conf/config", "/etc/passwd"])
def test_a_recipe_cannot_leave_the_folder_of_recipes(name):
    with pytest.raises(CompressError, match=r"leads out of recipes/.*plan=FILE"):
        recipe_file(name)


def test_a_recipe_of_the_current_folder_comes_before_a_shipped_one(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("overrides: [seed=7]\n")
    monkeypatch.chdir(tmp_path)
    assert with_recipe(["recipe=mine"]) == ["seed=7", "recipe=mine"]
    assert recipe_file("digits/resnet8-drl_quant").is_file()
    with pytest.raises(CompressError, match="did you mean 'mine'"):
        recipe_file("mihe")


@pytest.mark.parametrize(("text", "message"), [
    ("plan: {}\n", "has no list 'overrides'"), ("overrides: [", "expected YAML"), ("3\n", "has no list"),
])  # fmt: skip
def test_a_damaged_recipe_is_refused(text, message, tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompressError, match=message):
        with_recipe(["recipe=mine"])


def test_two_recipes_are_refused():
    with pytest.raises(CompressError, match="expected one recipe"):
        with_recipe(["recipe=a,b"])
