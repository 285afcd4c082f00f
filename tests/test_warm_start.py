"""Policies in files: what one search learned starts another, and nothing else does."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3
import torch
from hydra.utils import instantiate
from lightning import Trainer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import lightning_compress as lc
from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.layer_removal import LayerRemoval
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.stage import Stage
from lightning_compress.pipeline.warm_start import keep_start, start_name, start_of
from lightning_compress.pruning.initializers.inherit import Inherit
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.rl import policy_file
from lightning_compress.search.rl.features import COLUMNS
from lightning_compress.search.rl.policy_file import NAME
from lightning_compress.search.searchers.ddpg import DDPG
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.reinforce import Reinforce
from lightning_compress.testing import problems
from lightning_compress.testing.searchers import told
from lightning_compress.vision.data.digits import Digits
from lightning_compress.vision.models.classifier import ImageClassifier
from lightning_compress.vision.models.resnet_cifar import ResNetCIFAR

OBJECTIVE = AccuracyUnderBudget()
TD3 = partial(DDPG, agent=stable_baselines3.TD3)
SAC = partial(DDPG, agent=stable_baselines3.SAC, sigma=0.0)
LEARNING = [partial(DDPG, warmup=4), partial(TD3, warmup=4), partial(SAC, warmup=4), Reinforce]


def learned(make, trials: int = 8):
    problem = problems.bits(layers=4)
    searcher = make(problem.problem, 0, OBJECTIVE)
    told(searcher, problem, trials)
    return searcher


@pytest.mark.parametrize("make", LEARNING, ids=["ddpg", "td3", "sac", "reinforce"])
def test_a_policy_goes_on_in_another_network_and_replays(make, tmp_path):
    source = learned(make)
    assert source.save(tmp_path) == tmp_path / NAME
    problem = problems.channels(layers=7)
    runs = []
    for path in (tmp_path, tmp_path / NAME):
        searcher = make(problem.problem, 1, OBJECTIVE, warm_start=path)
        again = searcher.save(tmp_path / "..")
        assert all(torch.equal(load_file(again)[k], v) for k, v in load_file(tmp_path / NAME).items())
        runs.append(told(searcher, problem, 12))
    assert runs[0] == runs[1]
    assert runs[0] != told(make(problem.problem, 1, OBJECTIVE), problem, 12)


def test_ddpg_shows_the_policy_untouched_and_explores_half_as_far_without_a_warm_up(tmp_path):
    problem, source = problems.bits(layers=6), learned(LEARNING[0])
    source.save(tmp_path)
    first, second = (DDPG(problem.problem, seed, OBJECTIVE, warm_start=tmp_path) for seed in (0, 1))
    assert told(first, problem, 1) == told(second, problem, 1)
    assert first.ask().plan == second.ask().plan
    assert first.width(0) == DDPG(problem.problem, 0, OBJECTIVE).width(0) / 2


def test_a_searcher_that_learns_no_policy_writes_none(tmp_path):
    assert learned(Random).save(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    with pytest.raises(CompressError, match="cannot be written"):
        learned(Reinforce, 1).save(tmp_path / "missing")


@pytest.mark.parametrize(("path", "taken"), [("run", "run/shrink"), ("run/remove", "run/remove"), ("run/a", "run/a")])
def test_a_stage_starts_from_its_own_name_in_a_run_and_from_what_it_is_given_else(path, taken, tmp_path):
    for stage in ("remove", "shrink"):
        (tmp_path / "run" / stage).mkdir(parents=True)
    make = partial(Reinforce, warm_start=str(tmp_path / path))
    assert start_of(make, tmp_path / "other/shrink" / start_name()) == {"warm_start": str(tmp_path / taken)}


@pytest.mark.parametrize("make", [Random, partial(Random), partial(Reinforce, warm_start=None)])
def test_a_searcher_without_a_warm_start_is_given_none(make):
    assert start_of(make, Path("shrink") / start_name()) == {}


@pytest.mark.parametrize("given", ["source", f"source/{NAME}"])
def test_a_search_goes_on_without_the_policy_that_it_started_from(given, tmp_path):
    source, stage = tmp_path / "source", tmp_path / "stage"
    source.mkdir()
    stage.mkdir()
    learned(Reinforce, 1).save(source)
    make = partial(Reinforce, warm_start=str(tmp_path / given))
    kept = stage / start_name()
    first = start_of(make, kept)
    keep_start(first, kept)
    before = load_file(source / NAME)
    (source / NAME).unlink()
    again = start_of(make, kept)
    assert again != first
    keep_start(again, kept)
    found = load_file(again["warm_start"])
    assert all(torch.equal(found[key], tensor) for key, tensor in before.items())


REINFORCE = {"_target_": "lightning_compress.search.searchers.reinforce.Reinforce", "_partial_": True}


def stage(callback: CompressionCallback, budget: float, **settings: Any) -> Stage:
    evaluation = Evaluation(recalibration_batches=1)
    planner = Search(cost=MACs(), budget=budget, objective=OBJECTIVE, evaluation=evaluation, **settings)
    return Stage({"one": callback}, planner, epochs=0)


def run_n2n(folder: Path, blocks: int, seed: int, trials: int, **given: str) -> dict[str, dict[str, Tensor]]:
    """Return what both stages of a run on an untrained network wrote, with a searcher made as the application does."""
    searcher = instantiate({**REINFORCE, **given})
    methods = {"remove": (LayerRemoval(initialize=Inherit()), 0.9), "shrink": (ChannelPruning(), 0.6)}
    stages = {
        name: stage(callback, budget, searcher=searcher, trials=trials) for name, (callback, budget) in methods.items()
    }
    module = ImageClassifier(ResNetCIFAR(blocks, in_channels=1, width=4), 10)
    make_trainer = partial(Trainer, accelerator="cpu", logger=False)
    lc.compress(module, Digits(10, 1, 8), stages, folder=folder, make_trainer=make_trainer, seed=seed)
    return {stage: load_file(folder / stage / NAME) for stage in stages}


def test_both_stages_start_from_those_of_a_run_on_another_network(tmp_path):
    source = run_n2n(tmp_path / "source", blocks=1, seed=0, trials=5)
    warm = run_n2n(tmp_path / "warm", blocks=2, seed=1, trials=1, warm_start=str(tmp_path / "source"))
    for stage, tensors in source.items():
        assert all(torch.equal(warm[stage][key], tensor) for key, tensor in tensors.items())
    assert any(not torch.equal(warm["shrink"][key], tensor) for key, tensor in warm["remove"].items())


def test_a_baseline_starts_from_its_own_policy(tmp_path):
    for seed, name in enumerate(("mine", "other")):
        run_n2n(tmp_path / name, blocks=1, seed=seed, trials=2)
    searcher, baseline = (instantiate({**REINFORCE, "warm_start": str(tmp_path / name)}) for name in ("mine", "other"))
    shrink = stage(ChannelPruning(), 0.6, searcher=searcher, baselines={"b": baseline}, trials=1)
    module = ImageClassifier(ResNetCIFAR(1, in_channels=1, width=4), 10)
    make_trainer = partial(Trainer, accelerator="cpu", logger=False)
    lc.compress(module, Digits(10, 1, 8), {"shrink": shrink}, folder=tmp_path / "warm", make_trainer=make_trainer)
    for baseline, name in (("", "mine"), ("b", "other")):
        kept = load_file(tmp_path / "warm/shrink" / start_name(baseline))
        found = load_file(tmp_path / name / "shrink" / NAME)
        assert all(torch.equal(found[key], tensor) for key, tensor in kept.items())


def warm(path, make=Reinforce):
    return make(problems.bits(layers=3).problem, 0, OBJECTIVE, warm_start=path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CompressError, match=r"there is no policy .*policy.safetensors"):
        warm(tmp_path)


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / NAME).write_text("not tensors")
    with pytest.raises(CompressError, match="is no policy file"):
        warm(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / NAME)
    with pytest.raises(CompressError, match="no policy"):
        warm(tmp_path)


def test_a_policy_of_another_searcher_or_agent_is_refused(tmp_path):
    learned(Reinforce).save(tmp_path)
    with pytest.raises(CompressError, match="policy of reinforce, this searcher is ddpg"):
        warm(tmp_path, DDPG)
    learned(TD3).save(tmp_path)
    with pytest.raises(CompressError, match="policy of td3, this searcher is sac"):
        warm(tmp_path, SAC)


def test_a_policy_of_other_features_is_refused(tmp_path, monkeypatch):
    learned(Reinforce).save(tmp_path)
    monkeypatch.setattr(policy_file, "SCHEMA", 99)
    with pytest.raises(CompressError, match=r"features of schema .*99"):
        warm(tmp_path)


def test_a_policy_of_other_columns_is_refused_under_the_same_schema_too(tmp_path, monkeypatch):
    learned(Reinforce).save(tmp_path)
    monkeypatch.setattr(policy_file, "COLUMNS", (*COLUMNS[1:], COLUMNS[0]))
    with pytest.raises(CompressError, match=r"learned on the features \['position', .* now they are \['depthwise', "):
        warm(tmp_path)


@pytest.mark.parametrize("make", [DDPG, Reinforce])
def test_a_policy_of_a_search_that_diverged_is_refused(tmp_path, make):
    file = learned(make, 1).save(tmp_path)
    with safe_open(file, "pt") as opened:
        found = opened.metadata()
    save_file({key: value.fill_(torch.nan) for key, value in load_file(file).items()}, file, found)
    with pytest.raises(CompressError, match="has values that are not finite"):
        warm(tmp_path, make)


def test_a_policy_of_another_size_is_refused(tmp_path):
    learned(partial(Reinforce, hidden=8)).save(tmp_path)
    with pytest.raises(CompressError, match=r"has shape .*give the searcher the sizes"):
        warm(tmp_path)


@pytest.mark.parametrize("make", [DDPG, Reinforce])
def test_a_policy_whose_bits_changed_is_refused(tmp_path, make):
    file = learned(make, 1).save(tmp_path)
    with safe_open(file, "pt") as opened:
        found = opened.metadata()
    changed = load_file(file)
    next(iter(changed.values())).view(torch.int32).flatten()[0] ^= 1
    save_file(changed, file, found)
    with pytest.raises(CompressError, match=r"policy.safetensors' is damaged: .* run the search that made it again"):
        warm(tmp_path, make)
