"""Successive halving: who climbs, what it costs, and that no cheap score beats a full one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Trainer
from omegaconf import OmegaConf

import lightning_compress as lc
import lightning_compress.conf
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError, NoEffectError, TrialFailedError
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.stage import Stage
from lightning_compress.search.executors.process import Processes
from lightning_compress.search.executors.serial import Serial
from lightning_compress.search.halving import Halving
from lightning_compress.search.journal import Journal, read
from lightning_compress.search.loop import search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.trial import Score
from lightning_compress.testing.executors import PROBLEM, Watched
from lightning_compress.testing.problems import channels
from lightning_compress.vision.data.digits import Digits
from lightning_compress.vision.models.classifier import ImageClassifier
from lightning_compress.vision.models.resnet_cifar import ResNetCIFAR

OBJECTIVE = AccuracyUnderBudget()
OBJECTIVES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "objective").glob("*.yaml"))
FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "halving").glob("*.yaml"))


@dataclass(frozen=True)
class Noisy:
    """Plans are numbers 0 .. n-1; a share of the data adds noise and an offset. ``full`` are the full accuracies."""

    full: tuple[float, ...]
    share: float = 1.0
    noise: float = 0.0
    fails: frozenset[tuple[int, float]] = frozenset()
    calls: list[tuple[int, float]] = field(default_factory=list)

    def cheaper(self, share: float) -> Noisy:
        return replace(self, share=share)

    def key(self, plan: int) -> str:
        return str(plan)

    def __call__(self, plan: int) -> Score:
        self.calls.append((plan, self.share))
        if (plan, self.share) in self.fails:
            raise TrialFailedError(f"plan {plan} has no score")
        noise = np.random.default_rng([plan, round(1000 * self.share)]).normal() * self.noise * (1 - self.share)
        value = self.full[plan] - 0.3 * (1 - self.share) + noise
        costs = {"macs": 100.0 - 3 * plan, "parameters": 100.0 - 3 * plan}
        return Score(
            {"val_acc": value, "val_loss": 1 - value}, costs, {"macs": 110.0, "parameters": 110.0, "val_acc": 1.0}
        )


def outcomes(evaluate, halving=None, objective=OBJECTIVE, **settings):
    halving = halving or Halving(**settings)
    with halving.over(Serial, objective, 9)(evaluate) as executor:
        return dict(executor.run({i: i for i in range(len(evaluate.full))}))


values = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30).map(tuple)


@pytest.mark.parametrize("file", OBJECTIVES, ids=lambda file: file.stem)
@settings(max_examples=100, deadline=None)
@given(full=values, noise=st.floats(0, 1), keep=st.sampled_from([0.2, 1 / 3, 0.5]))
def test_the_best_of_a_batch_was_scored_in_full(file, full, noise, keep):
    objective = instantiate(OmegaConf.load(file))
    evaluate = Noisy(full, noise=noise)
    found = outcomes(evaluate, objective=objective, keep=keep)
    assert found.keys() == set(range(len(full)))
    whole = {plan for plan, share in evaluate.calls if share == 1}
    rewards = {plan: objective(outcome.score) for plan, outcome in found.items()}
    assert max(rewards, key=lambda plan: (rewards[plan], -plan)) in whole
    assert all(found[plan].score == Noisy(full)(plan) for plan in whole)
    assert len(evaluate.calls) == len(set(evaluate.calls))


@settings(max_examples=100, deadline=None)
@given(values)
def test_without_noise_all_scores_are_the_full_ones_and_the_best_climb(full):
    evaluate = Noisy(full)
    found = outcomes(evaluate)
    for plan, outcome in found.items():
        assert outcome.score.metrics["val_acc"] == pytest.approx(full[plan], abs=1e-9)
        assert outcome.score.costs == Noisy(full)(plan).costs
    best = max(found, key=lambda plan: (OBJECTIVE(found[plan].score), -plan))
    assert full[best] == pytest.approx(max(full), abs=1e-9)


def test_how_many_climb():
    evaluate = Noisy(tuple(np.linspace(0, 1, 27)))
    outcomes(evaluate)
    counts = [sum(share == s for _, share in evaluate.calls) for s in (1 / 9, 1 / 3, 1)]
    assert counts == [27, 9, 3]
    assert {plan for plan, share in evaluate.calls if share == 1} == {24, 25, 26}


def test_a_single_plan_is_scored_in_full_at_once():
    evaluate = Noisy((0.5,))
    outcomes(evaluate)
    assert evaluate.calls == [(0, 1)]


def test_seconds_are_those_of_all_rungs():
    found = outcomes(Noisy(tuple(np.linspace(0, 1, 9))))
    assert all(outcome.seconds > 0 for outcome in found.values())


def test_failures_are_kept_and_others_climb_in_their_place():
    full = tuple(np.linspace(0, 1, 9))
    # 8 cannot be scored at all; 7, 6 and 5, the best of the rest, fail with more steps.
    fails = frozenset([(8, 1 / 9), (7, 1 / 3), (6, 1 / 3), (5, 1 / 3)])
    evaluate = Noisy(full, fails=fails)
    found = outcomes(evaluate)
    assert {plan for plan, outcome in found.items() if outcome.score is None} == {5, 6, 7, 8}
    assert found[7].failure == "plan 7 has no score"
    assert (4, 1) in evaluate.calls
    assert found[0].score.metrics["val_acc"] == pytest.approx(full[0])


def test_all_fail():
    found = outcomes(Noisy((0.1, 0.2, 0.3), fails=frozenset((i, 1 / 9) for i in range(3))))
    assert all(outcome.score is None for outcome in found.values())


@dataclass(frozen=True)
class Shared:
    """A synthetic problem whose cheap scores are off."""

    synthetic: object
    share: float = 1.0

    def cheaper(self, share):
        return replace(self, share=share)

    def key(self, plan):
        return self.synthetic.key(plan)

    def __call__(self, plan):
        score = self.synthetic(plan)
        off = 0.05 * (1 - self.share) * np.random.default_rng(int(plan.digest, 16)).normal()
        return replace(score, metrics={name: value + off for name, value in score.metrics.items()})


def test_a_search_with_it_resumes_at_a_batch_and_finds_the_same(tmp_path):
    synthetic = channels(6)

    def run(name, trials):
        executor = Halving().over(Serial, OBJECTIVE, 9)
        with Journal(tmp_path / name, {}) as journal:
            searcher = Random(synthetic.problem, 0, OBJECTIVE)
            best = search(searcher, Shared(synthetic), journal, trials, executor=executor, in_flight=9)
        return best, [(e.indices, e.score) for e in read(tmp_path / name)]

    whole = run("whole", 36)
    run("parts", 18)
    assert run("parts", 36) == whole
    assert whole[0].score == synthetic(whole[0].plan)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_options_are_settings(file):
    halving = instantiate(OmegaConf.load(file))
    evaluate = Noisy(tuple(np.linspace(0, 1, 9)))
    outcomes(evaluate, halving)
    counts = [sum(share == s for _, share in evaluate.calls) for s in (*halving.shares, 1)]
    assert counts[0] == 9
    assert all(after <= ceil(before * halving.keep) for before, after in pairwise(counts))
    assert eval(repr(halving), {"Halving": Halving}) == halving  # what the journal's fingerprint shows


def test_the_option_reaches_the_stage():
    with initialize_config_module("lightning_compress.conf", version_base="1.3"):
        config = compose(overrides=["+compress=drl_prune", "+compress/halving=thirds"])
        plain = compose(overrides=["+compress=drl_prune"])
    assert isinstance(instantiate(config.compress.stages, _convert_="object")["prune"].planner.halving, Halving)
    assert instantiate(plain.compress.stages, _convert_="object")["prune"].planner.halving is None


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"shares": (0.5, 0.1)}, "must rise from rung to rung"),
        ({"shares": ()}, "must be between 0 and 1"),
        ({"shares": (0.5, 1.0)}, "must be between 0 and 1"),
        ({"keep": 1.0}, "must be between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused(given_, message):
    with pytest.raises(CompressError, match=message):
        Halving(**given_)


@pytest.mark.parametrize(
    ("given_", "in_flight", "least"),
    [
        ({}, 1, 9),
        ({"keep": 0.9}, 9, 10),
        ({"shares": (0.1,), "keep": 0.2}, 1, 5),
    ],
)
def test_a_batch_that_climbs_as_a_whole_is_refused(given_, in_flight, least):
    halving = Halving(**given_)
    with pytest.raises(NoEffectError, match=f"with in_flight={in_flight} .*set the stage's in_flight to {least}$"):
        halving.over(Serial, OBJECTIVE, in_flight)
    evaluate = Noisy(tuple(np.linspace(0, 1, least)))
    with halving.over(Serial, OBJECTIVE, least)(evaluate) as executor:
        list(executor.run({i: i for i in range(least)}))
    assert sum(share == 1 for _, share in evaluate.calls) < least


@dataclass
class WatchedOnRungs(Watched):
    """Notes which process scores; cheap scores are off."""

    share: float = 1.0

    def cheaper(self, share):
        return replace(self, share=share)

    def __call__(self, plan):
        score = super().__call__(plan)
        return replace(score, metrics={name: value * self.share**0.2 for name, value in score.metrics.items()})


def test_all_rungs_share_the_workers_and_find_what_one_process_finds(tmp_path):
    plans = {number: PROBLEM.problem.space.plan((number // 3, number % 3, 1)) for number in range(9)}
    found = []
    for make in (Serial, partial(Processes, workers=2, start="forkserver")):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        evaluate = WatchedOnRungs(folder)
        with Halving().over(make, OBJECTIVE, 9)(evaluate) as executor:
            found.append([replace(outcome, seconds=0) for _, outcome in sorted(executor.run(plans))])
            assert executor.workers >= len({process for _, process in evaluate.evaluations()})
        assert len(evaluate.evaluations()) == 9 + 3 + 1
    assert found[0] == found[1]


def test_a_stage_with_one_trial_in_flight_says_that_halving_would_do_nothing(tmp_path):
    planner = Search(
        cost=MACs(),
        budget=0.6,
        objective=OBJECTIVE,
        searcher=Random,
        halving=Halving(),
        evaluation=Evaluation(recalibration_batches=0),
    )
    stage = Stage({"channels": ChannelPruning()}, planner, epochs=0)
    module = ImageClassifier(ResNetCIFAR(1, in_channels=1, width=4), 10)
    make_trainer = partial(Trainer, accelerator="cpu", logger=False)
    with pytest.raises(NoEffectError, match="set the stage's in_flight to 9"):
        lc.compress(module, Digits(10, 1, 8), {"prune": stage}, folder=tmp_path, make_trainer=make_trainer)
