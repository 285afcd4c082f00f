"""The shipped configuration from Python, and the usual settings under short names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import Trainer

import lightning_compress as lc
from lightning_compress.core.costs.parameters import Parameters
from lightning_compress.pipeline.configuration import method_of, set_usual, shipped_method
from lightning_compress.pipeline.planners.uniform import Uniform
from lightning_compress.pipeline.stage import Stage
from lightning_compress.search.searchers.greedy import Greedy
from lightning_compress.testing.toys import FullData, FullModule

CONF = Path(__file__).parent.parent / "conf"


def compress(folder, method="drl_quant", **settings) -> lc.Result:
    torch.manual_seed(0)
    make_trainer = partial(Trainer, accelerator="cpu", enable_progress_bar=False)
    given = {"folder": folder, "make_trainer": make_trainer, **settings}
    return lc.compress(FullModule(), FullData(), method, **given)


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> lc.Result:
    overrides = ["compress/searcher=random", "compress.baselines.random=null", "compress.baselines.uniform=null"]
    return compress(tmp_path_factory.mktemp("run"), budget=0.4, trials=3, epochs=1, lr=0.05, overrides=overrides)


def test_one_call_searches_trains_and_measures(result):
    assert result.searches["quantize"]["trials"] == 3
    assert result.limits["quantize"].startswith("at most 40 % of the dense network's")
    assert result.origins == {"quantize": "the best that Random found; no baselines were run"}
    assert result.compressed.bytes <= 0.4 * 1.02 * result.dense.bytes
    assert result.plan == lc.Plan.load(result.folder / "plan.yaml")


def test_a_result_has_the_module_and_saves_and_shows_itself(result, tmp_path):
    file = result.save(tmp_path / "mine.safetensors")
    loaded = lc.load(file, FullModule())
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.eval()(x), result.module.eval()(x))
    page = result._repr_html_()
    for text in (result.verdict, "test accuracy", "file on disk", "the best that Random found", str(result.folder)):
        assert text in page
    assert "<b>quantize</b>" in page


def test_a_result_is_exported_where_its_format_is_said(result, tmp_path):
    with pytest.raises(lc.CompressError, match=r"no format is known for 'mine.xyz'"):
        result.export(tmp_path / "mine.xyz")


def test_what_cannot_be_saved_is_told(result, tmp_path):
    with pytest.raises(lc.CompressError, match="choose another path"):
        result.save(tmp_path / "nowhere" / "mine.safetensors")


def test_without_a_folder_the_same_call_has_the_same_one_and_another_call_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"epochs": 0, "overrides": ["compress.uniform.weight_bits=3"]}
    folders = [compress(None, "quant", **settings).folder for _ in range(2)]
    other = compress(None, "quant", epochs=0).folder
    assert folders[0] == folders[1] != other
    assert folders[0].parent == Path("runs")
    assert folders[0].name.startswith("quant-")


def test_usual_settings_reach_the_stage():
    stage = shipped_method(
        "drl_prune", ["compress/searcher=greedy", "compress/cost=parameters"], lr=0.3, budget=0.2, trials=7, epochs=4
    ).stages["prune"]
    assert (stage.planner.budget, stage.planner.trials, stage.epochs) == (0.2, 7, 4)
    assert stage.planner.cost == Parameters()
    assert stage.planner.searcher.func is Greedy
    assert stage.attributes == {"lr": 0.3}


def test_numbers_of_the_method_stay_where_nothing_is_said():
    plain = shipped_method("drl_quant").stages["quantize"]
    assert (plain.planner.budget, plain.planner.trials, plain.epochs) == (0.12, 100, 30)
    assert plain.attributes == {}


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        (
            "n2n",
            {"budget": 0.5},
            r"budget=0.5: 2 stages have it; .* compress.stages.remove.planner.budget=0.5,",
        ),
        ("drl_two_stage", {"epochs": 5}, r"epochs=5: 3 stages have it; .* compress.stages.variational.epochs=5"),
        ("quant", {"budget": 0.5}, r"budget=0.5: no stage has planner.budget; \['quantize'\] search nothing"),
        ("prune", {"overrides": ["compress/refit=null"]}, "cannot be null; leave it out with '~compress/refit'"),
        ("drl_qant", {}, "there is no method 'drl_qant'; did you mean 'drl_quant'"),
        ("quant", {"overrides": ["compress.unifrom=1"]}, "'quant' with .*compress.unifrom=1.*: Could not override"),
        (
            "prune",
            {"overrides": ["compress/searcher=greedy"]},
            r"no stage reads compress.searcher; .* add compress/planner@compress.stages.prune.planner=search",
        ),
    ],
)
def test_what_does_not_fit_a_method_is_told_with_the_keys(method, settings, words):
    with pytest.raises(lc.CompressError, match=words):
        shipped_method(method, **settings)


def test_settings_of_a_shipped_method_do_not_go_with_stages(tmp_path):
    stages = {"one": Stage({"channels": lc.ChannelPruning()}, Uniform({"channels": 0.5}))}
    with pytest.raises(lc.CompressError, match="budget is for the name of a method such as 'drl_quant'"):
        compress(tmp_path / "run", stages, budget=0.5)
    assert not (tmp_path / "run").exists()


def test_it_works_inside_an_application_of_hydra_and_leaves_that_alone():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        stage = shipped_method("drl_quant", budget=0.3).stages["quantize"]
        assert stage.planner.budget == 0.3
        assert compose("config", ["data=digits", "run_dir=x"]).seed == 0


def test_short_names_on_the_command_line_are_those_of_the_one_stage():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["+compress=drl_quant", "budget=0.1", "trials=50", "finetune.epochs=10", "run_dir=x"]
        config = compose("config", given)
    set_usual(config.compress, {"budget": config.budget, "trials": config.trials, "epochs": config.finetune.epochs})
    stage = method_of(config.compress).stages["quantize"]
    assert (stage.planner.budget, stage.planner.trials, stage.epochs) == (0.1, 50, 10)
    assert stage.attributes == {"lr": 0.03}  # without the epochs


def test_the_command_line_s_own_name_is_told():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["+compress=n2n", "run_dir=x"])
    with pytest.raises(lc.CompressError, match=r"finetune\.epochs=3: 2 stages have it"):
        set_usual(config.compress, {"epochs": 3}, {"epochs": "finetune.epochs"})


SEARCH = "compress/planner@compress.stages.prune.planner=search"


@pytest.mark.parametrize(("method", "overrides", "key"), [
    ("prune", ["compress.budget=0.1"], "budget"),
    ("prune", ["compress/cost=parameters"], "cost"),
    ("quant", ["compress.evaluation.finetune_steps=20"], "evaluation"),
    ("plan_prune", ["compress/executor=process"], "executor"),
    ("plan_prune", ["+compress/halving=thirds"], "halving"),
    ("distill", ["+compress/searcher@compress.baselines.mine=greedy"], "baselines"),
    ("drl_quant", ["+compress.budgte=0.1"], "budgte; did you mean 'budget'"),
    ("drl_quant", ["+compress/planner=uniform"], "planner"),
])  # fmt: skip
def test_a_setting_that_no_stage_reads_is_refused(method, overrides, key):
    with pytest.raises(lc.CompressError, match=rf"would have no effect, for no stage reads compress\.{key}"):
        shipped_method(method, overrides)


@pytest.mark.parametrize(("method", "overrides"), [
    ("prune", ["compress/searcher=greedy", "compress.budget=0.1", "+compress/halving=thirds", SEARCH]),
    ("prune", ["compress.uniform.channels=0.5", "compress/refit=asymmetric", "compress/criterion=l1"]),
    ("mcu", ["compress.flash=4e4", "compress.weight_bits=4"]),
    ("sparsify", ["compress/pattern=n_of_m", "compress.pattern.n=1", "compress.stages.sparsify.epochs=1"]),
    ("quant", ["compress/quantizer@compress.weight_quantizer=min_max", "+compress/exporter=onnx", "~compress.prior"]),
    ("prune", ["~compress/refit"]),
    ("drl_quant", ["compress.baselines.random=null", "compress/coder=fixed_width", "compress.executor={}"]),
    ("drl_two_stage", ["compress/cost@compress.stages.quantize.planner.cost=weight_bits"]),
])  # fmt: skip
def test_a_setting_that_a_stage_reads_is_fine(method, overrides):
    assert shipped_method(method, overrides).stages
